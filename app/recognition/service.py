"""Enroll, verify, identify: photographs in, decisions out."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from app.crowding import Crowding
from app.decisions import (
    Calibration,
    Comparison,
    Decision,
    DecisionPolicy,
    Outcome,
    RequestedCriterion,
    for_ambiguous_face,
    verification_policy,
)
from app.embeddings import squared_distance
from app.encoding import EncoderInfo, EncoderRuntime, Encodings
from app.errors import TesseraError
from app.faces import AlignedFace, FaceFinder, FacePolicy, FoundFaces, TooMuchWorkError, WorkBudget, WorkLimits
from app.gallery import Candidate, Gallery, NewTemplate, PendingReceipt, ReceiptExists, Subject, Targets
from app.recognition.criteria import Criteria
from app.recognition.results import (
    EnrolledImage,
    Enrolment,
    EnrolmentRequest,
    FaceIdentification,
    Idempotency,
    Identification,
    Probe,
    RejectedImage,
    Replay,
    Verification,
)
from app.recognition.side_by_side import SideBySide
from app.timing import stage
from app.types import CHIP_SIDE, Pixels

EMPTY_GALLERY = "empty_gallery"
MOST_TEMPLATES = 100
"""Of one subject; only the newest are compared, as many as the calibration has rates of."""
MAX_CANDIDATES = 500
"""Candidates in one answer: faces of the photograph times ``top_k``."""

_LOGGER = logging.getLogger("tessera")


class PolicyNotAllowed(TesseraError):
    """A template belongs to one face, so an enrolment cannot take all faces of a photograph."""

    code = "face_policy_not_allowed"


class LowQuality(TesseraError):
    """The face is too small, blurred, dark or turned away to be enrolled."""

    code = "low_quality"


class NoUsableImage(TesseraError):
    """None of several photographs gave a template; ``details`` holds the reason of each."""

    code = "no_usable_image"


class IdempotencyMismatch(TesseraError):
    """An idempotency key was reused with a different request."""

    code = "idempotency_key_reused"


class TooManyCandidates(TesseraError):
    """The answer to a search would list more than ``MAX_CANDIDATES``."""

    code = "too_many_candidates"


class RecognitionService:
    """Enroll, verify and identify. Every method may be called from several threads at once."""

    def __init__(
        self,
        finder: FaceFinder,
        encoder: EncoderRuntime,
        gallery: Gallery,
        criteria: Criteria,
        *,
        crowding: Crowding,
        enforce_quality: bool = True,
        inconclusive: bool = True,
        work_limits: WorkLimits | None = None,
    ) -> None:
        """Creates the service, ready for use.

        Args:
            finder: cuts faces out of photographs.
            encoder: makes embeddings of them.
            gallery: closed with the service.
            criteria: the calibration of the encoder with the service's own targets.
            crowding: the one that the calibration's distances were adjusted by.
            enforce_quality: whether a face that is too poor is refused at enrolment.
            inconclusive: whether this outcome is reported; otherwise it becomes no_match.
            work_limits: what the photographs of one request may cost; the defaults if None.
        """
        self._work_limits = work_limits or WorkLimits()
        self._finder, self.gallery, self.criteria, self.crowding = finder, gallery, criteria, crowding
        self._encoder = encoder
        # As many photographs of one request at once as faces can be encoded at once.
        self._side_by_side = SideBySide(encoder.streams - 1)
        self._enforce_quality, self._inconclusive = enforce_quality, inconclusive

    @property
    def calibration(self) -> Calibration:
        """The encoder's calibration."""
        return self.criteria.calibration

    @property
    def encoder(self) -> EncoderInfo:
        """Which encoder runs, and how."""
        return self._encoder.info

    def detect(self, image: bytes) -> FoundFaces:
        """All faces of a photograph, largest first; none is not an error here. Raises what photographs raise."""
        return self._finder.find_all(image, self._budget())

    def enroll(
        self, request: EnrolmentRequest, idempotency: Idempotency[Enrolment] | None = None
    ) -> Enrolment | Replay:
        """Makes templates of the usable photographs and stores them, all in one step.

        Raises what decoding, detection and the gallery raise; NoUsableImage if several photographs were given and
        none was usable; TooMuchWorkError if all together cost too much; PolicyNotAllowed; IdempotencyMismatch.
        """
        if request.face_policy is FacePolicy.ALL:
            raise PolicyNotAllowed("A subject is one person: use face_policy dominant, single or largest to enrol.")
        if idempotency is not None and (replay := replay_of(self.gallery, idempotency)) is not None:
            return replay
        found, rejected = self._usable_faces(request)
        probes = self._encoded([(faces, faces.faces[0]) for faces in found.values()])
        ids = request.template_ids or [uuid.uuid4().hex for _ in request.images]
        enrolled = tuple(EnrolledImage(index, ids[index], probe) for index, probe in zip(found, probes, strict=True))
        subject_id = request.subject_id or uuid.uuid4().hex
        # Looking for duplicates is a search, so it uses the threshold of a search.
        policy = self.criteria.identification(RequestedCriterion(), self.gallery, request.collection)
        duplicates = self._duplicates(request, subject_id, enrolled, policy)

        def outcome(subject: Subject, erased: frozenset[str] = frozenset()) -> Enrolment:
            named = tuple(found for found in duplicates if found[0].template_id not in erased)
            return Enrolment(subject, enrolled, rejected, named, policy)

        receipt = None
        if idempotency is not None:
            render = idempotency.render
            receipt = PendingReceipt(
                idempotency.key,
                idempotency.fingerprint,
                lambda subject, erased: render(outcome(subject, erased)),
                {candidate.template_id: candidate.subject_id for candidate, _ in duplicates},
            )
        try:
            with stage("store"):
                subject = self.gallery.enroll(
                    request.collection,
                    subject_id,
                    [NewTemplate(e.template_id, e.probe.embedding, e.probe.norm, e.probe.face.chip) for e in enrolled],
                    metadata=request.metadata,
                    on_conflict=request.on_conflict,
                    receipt=receipt,
                    most=self.calibration.most_templates if not request.may_displace else MOST_TEMPLATES,
                )
        except ReceiptExists:
            # The same request arrived twice at once, and the other one was first.
            if idempotency is None or (replay := replay_of(self.gallery, idempotency)) is None:
                raise
            return replay
        return outcome(subject)

    def verify(
        self,
        image: bytes,
        reference: bytes,
        *,
        face_policy: FacePolicy,
        requested: RequestedCriterion = RequestedCriterion(),  # noqa: B008
        collection: str | None = None,
        names: tuple[str, str] = ("image", "reference"),
    ) -> Verification:
        """Compares two photographs. With ``all``, the closest pair of faces decides, and all pairs share the target.

        What the request leaves open follows from the targets of ``collection``; None: the service's own.
        Raises TargetUnsupported, CollectionNotFound and what photographs raise, under the name that ``names`` has for
        the photograph.
        """
        targets = Targets() if collection is None else self.gallery.targets(collection)
        criterion = self.criteria.verification(requested, targets)
        verification_policy(self.calibration, criterion, 1)
        budget = self._budget()
        probes, references = self._side_by_side(
            lambda: self._probes(image, face_policy, budget, names[0]),
            lambda: self._probes(reference, face_policy, budget, names[1]),
        )
        pairs = [(p, r, compare_probes(p, r)) for p in probes for r in references]
        policy = verification_policy(self.calibration, criterion, 1, len(pairs))
        probe, other, best = min(pairs, key=lambda pair: policy.ranking_distance(pair[2]))
        outcome = self._final(policy.outcome(best), probe, other)
        return Verification(outcome, best, policy, probe, reference=other, pairs=len(pairs))

    def verify_subject(
        self,
        image: bytes,
        collection: str,
        subject_id: str,
        *,
        face_policy: FacePolicy,
        requested: RequestedCriterion = RequestedCriterion(),  # noqa: B008
    ) -> Verification:
        """Compares a photograph with an enrolled subject. With ``all``, the closest face decides; all share the target.

        Raises TargetUnsupported, SubjectNotFound and what photographs raise.
        """
        templates = len(self.gallery.subject(collection, subject_id).templates)
        chosen = self.criteria.verification(requested, self.gallery.targets(collection))
        # A target that is not supported is refused before the costly work on the photograph.
        verification_policy(self.calibration, chosen, min(templates, self.calibration.most_templates))
        probes = self._probes(image, face_policy, self._budget())
        with stage("search"):
            pairs = [(p, self.gallery.compare(collection, subject_id, p.embedding)) for p in probes]
        policy = verification_policy(self.calibration, chosen, pairs[0][1].templates, len(pairs))
        probe, found = min(pairs, key=lambda pair: policy.ranking_distance(compared(*pair)))
        best = compared(probe, found)
        outcome = self._final(policy.outcome(best), probe)
        return Verification(outcome, best, policy, probe, candidate=found, pairs=len(pairs))

    def identify(
        self,
        image: bytes,
        collection: str,
        top_k: int,
        *,
        face_policy: FacePolicy,
        requested: RequestedCriterion = RequestedCriterion(),  # noqa: B008
    ) -> Identification:
        """Searches a collection for the faces of a photograph. Raises TargetUnsupported, TooManyCandidates."""
        policy = self.criteria.identification(requested, self.gallery, collection)
        faces = self._finder.find(image, face_policy, self._budget())
        _require_few_candidates(len(faces.faces), top_k)
        found = []
        for probe in self._encoded([(faces, face) for face in faces.faces]):
            # A second candidate is needed for the margin, even if only one was requested.
            nearest = self._best(collection, probe, max(top_k, 2), policy)
            outcome = policy.search_outcome([compared(probe, c) for c in nearest])
            # Nobody is enrolled: then whose face it is makes no difference.
            outcome = self._final(outcome, probe) if nearest else outcome
            found.append(FaceIdentification(outcome, probe, tuple(nearest[:top_k]), margin_of(policy, probe, nearest)))
        found.sort(
            key=lambda f: policy.search_key(compared(f.probe, f.candidates[0])) if f.candidates else (True, np.inf)
        )
        reason = None if any(f.candidates for f in found) else EMPTY_GALLERY
        return Identification(policy, tuple(found), reason)

    def is_match(self, collection: str, found: Verification) -> bool:
        """Whether what was compared with a subject matches by the targets of its collection, whatever was asked for."""
        criterion = self.criteria.verification(RequestedCriterion(), self.gallery.targets(collection))
        policy = verification_policy(self.calibration, criterion, found.compared.templates, found.pairs)
        return policy.threshold_decision(found.compared) is Decision.MATCH

    def search_policy(self, collection: str) -> DecisionPolicy:
        """What decides a search by the targets of the collection, whatever a request asks for."""
        return self.criteria.identification(RequestedCriterion(), self.gallery, collection)

    def _best(self, collection: str, probe: Probe, count: int, policy: DecisionPolicy) -> list[Candidate]:
        """The ``count`` best candidates, by the policy's ``search_key``, best first.

        The gallery ranks without thresholds, which differ between subjects: so more are asked of it as long as others
        may be better, up to ``MAX_CANDIDATES``.
        """
        wanted = count
        while True:
            found = self._search(collection, probe, wanted, policy)
            ranked = sorted(found, key=lambda candidate: policy.search_key(compared(probe, candidate)))[:count]
            if len(found) < wanted or wanted >= MAX_CANDIDATES:
                return ranked
            if policy.none_better(compared(probe, ranked[-1]), compared(probe, found[-1])):
                return ranked
            wanted = min(4 * wanted, MAX_CANDIDATES)

    def _search(self, collection: str, probe: Probe, top_k: int, policy: DecisionPolicy) -> list[Candidate]:
        with stage("search"):
            return self.gallery.search(collection, probe.embedding, top_k, crowded=policy.fmr is not None)

    def _final(self, outcome: Outcome, *probes: Probe) -> Outcome:
        """The outcome as it is reported, given the faces that were compared."""
        if any(probe.ambiguous for probe in probes):
            outcome = for_ambiguous_face(outcome)
        if self._inconclusive or outcome.decision is not Decision.INCONCLUSIVE:
            return outcome
        return Outcome(Decision.NO_MATCH, outcome.reason)

    def check(self) -> dict[str, str | None]:
        """What is wrong with each part, by name; None where it works."""
        return {"encoder": _failure(self.check_encoder), "gallery": _failure(self.gallery.check)}

    def check_encoder(self) -> None:
        """Encodes a blank chip; raises RuntimeError if that gives no embedding."""
        encodings = self._encoder.encode(np.zeros((1, CHIP_SIDE, CHIP_SIDE, 3), dtype=np.uint8))
        if not np.isfinite(encodings.embeddings).all():
            raise RuntimeError("the encoder gives numbers that are not finite")

    def warm_up(self) -> None:
        """Detects and encodes once, on blank pictures, so that the first request is as fast as later ones."""
        self._finder.warm_up()
        self.check_encoder()

    def close(self) -> None:
        """Ends the helping threads and closes the gallery."""
        self._side_by_side.close()
        self.gallery.close()

    def _budget(self) -> WorkBudget:
        return WorkBudget(self._work_limits)

    def _usable_faces(self, request: EnrolmentRequest) -> tuple[dict[int, FoundFaces], tuple[RejectedImage, ...]]:
        usable: dict[int, FoundFaces] = {}
        rejected: list[RejectedImage] = []
        budget = self._budget()
        for index, image in enumerate(request.images):
            try:
                found = self._finder.find(image, request.face_policy, budget)
                self._require_quality(found.faces[0])
                usable[index] = found
            except TooMuchWorkError:  # that is no photograph's own fault
                raise
            except TesseraError as error:
                rejected.append(RejectedImage(index, error))
        if not usable and len(rejected) == 1:
            raise rejected[0].error
        if not usable:
            reasons = [{"image": r.index, "code": r.error.code, "detail": r.error.message} for r in rejected]
            raise NoUsableImage("No photograph gave a usable face; see failures.", failures=reasons)
        return usable, tuple(rejected)

    def _require_quality(self, face: AlignedFace) -> None:
        if self._enforce_quality and face.quality.issues:
            issues = list(face.quality.issues)
            raise LowQuality(
                f"The face is not good enough to enrol ({', '.join(issues)}); send a sharp, large, frontal one.",
                issues=issues,
            )

    def _duplicates(
        self, request: EnrolmentRequest, subject_id: str, enrolled: Sequence[EnrolledImage], policy: DecisionPolicy
    ) -> tuple[tuple[Candidate, Probe], ...]:
        if not request.report_duplicates:
            return ()
        nearest: dict[str, tuple[float, Candidate, Probe]] = {}
        for image in enrolled:
            for candidate in self._best(request.collection, image.probe, 5, policy):
                known, pair = nearest.get(candidate.subject_id), compared(image.probe, candidate)
                near = policy.ranking_distance(pair)
                if (
                    candidate.subject_id != subject_id
                    and policy.threshold_decision(pair) is Decision.MATCH
                    and (known is None or near < known[0])
                ):
                    nearest[candidate.subject_id] = near, candidate, image.probe
        ranked = sorted(nearest.values(), key=lambda found: (found[0], found[1].subject_id))
        return tuple((candidate, probe) for _, candidate, probe in ranked)

    def _probes(
        self, image: bytes, face_policy: FacePolicy, budget: WorkBudget, name: str | None = None
    ) -> list[Probe]:
        try:
            found = self._finder.find(image, face_policy, budget)
        except TesseraError as error:
            # Too much work is that of all photographs together.
            if name is not None and not isinstance(error, TooMuchWorkError):
                error.about(name)
                error.details["photograph"] = name
            raise
        return self._encoded([(found, face) for face in found.faces])

    def _encode(self, chips: Pixels) -> Encodings:
        """Embeds uint8 [B, 112, 112, 3]; of several faces a core that is free takes half."""
        encode, half = self._encoder.encode, len(chips) // 2
        if half == 0 or self._encoder.streams == 1:
            return encode(chips)
        return Encodings.join(self._side_by_side(lambda: encode(chips[:half]), lambda: encode(chips[half:])))

    def _encoded(self, faces: Sequence[tuple[FoundFaces, AlignedFace]]) -> list[Probe]:
        """Encodes faces, each given with what was found in its photograph."""
        with stage("encode"):
            encodings = self._encode(np.stack([face.chip for _, face in faces]))
        with stage("crowding"):
            crowding = self.crowding(encodings.embeddings)
        return [
            Probe(found.faces_detected, face, embedding, norm, crowded, found.ambiguous)
            for (found, face), embedding, norm, crowded in zip(
                faces, encodings.embeddings, encodings.norms.tolist(), crowding.tolist(), strict=True
            )
        ]


def replay_of(gallery: Gallery, idempotency: Idempotency[Any]) -> Replay | None:
    """The answer that a request got before; None if it had none. Raises IdempotencyMismatch."""
    receipt = gallery.receipt(idempotency.key)
    if receipt is None:
        return None
    if receipt.fingerprint != idempotency.fingerprint:
        raise IdempotencyMismatch(
            "This Idempotency-Key belongs to another request of the last 24 hours; use a new key."
        )
    return Replay(receipt.body)


def compared(probe: Probe, candidate: Candidate) -> Comparison:
    """A probe and a candidate as a comparison for a policy."""
    crowding = probe.crowding + candidate.crowding
    return Comparison(candidate.distance, candidate.templates, probe.norm, candidate.norm, crowding)


def compare_probes(probe: Probe, reference: Probe) -> Comparison:
    """Two faces as a comparison for a policy."""
    distance = squared_distance(probe.embedding, reference.embedding)
    return Comparison(distance, 1, probe.norm, reference.norm, probe.crowding + reference.crowding)


def margin_of(policy: DecisionPolicy, probe: Probe, ranked: Sequence[Candidate]) -> float | None:
    """How much better the best subject is than the second, as they are ranked; None without a second."""
    return policy.margin(*(compared(probe, candidate) for candidate in ranked[:2])) if len(ranked) > 1 else None


def _require_few_candidates(faces: int, top_k: int) -> None:
    if faces * top_k > MAX_CANDIDATES:
        raise TooManyCandidates(
            f"{top_k} candidates for each of {faces} faces are more than the {MAX_CANDIDATES} of one answer. "
            f"Ask for a top_k of {MAX_CANDIDATES // faces} or less.",
            faces=faces,
            top_k=top_k,
            max_candidates=MAX_CANDIDATES,
        )


def _failure(check: Callable[[], None]) -> str | None:
    try:
        check()
    except TesseraError as error:
        _LOGGER.warning("a part of the service does not work: %s", error.reason)
        return error.message
    except Exception as error:
        # Catch everything: a health check that answers 500 does not say which part is broken.
        _LOGGER.warning("a part of the service does not work", exc_info=True)
        return str(error) or type(error).__name__
    return None
