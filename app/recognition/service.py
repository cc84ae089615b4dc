"""The three verbs: photographs in, decisions out. Composes the rooms and knows no HTTP."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from app.crowding import Crowding
from app.decisions import (
    Calibration,
    Claim,
    Compared,
    Criterion,
    CriterionKind,
    Decision,
    Origin,
    Outcome,
    Rule,
    Wish,
    rule_for_comparison,
    rule_for_search,
)
from app.encoding import Batcher, EncoderInfo, EncoderRuntime
from app.errors import TesseraError
from app.faces import FaceFinder, FacePolicy, FoundFaces
from app.gallery import Gallery, PendingReceipt, ReceiptExists
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
from app.timing import stage
from app.types import CHIP_SIDE, AlignedFace, Candidate, Collection, Embedding, NewTemplate, Subject, Targets

EMPTY_GALLERY = "empty_gallery"


class PolicyNotAllowed(TesseraError):
    """A template belongs to one face, so an enrolment cannot take all faces of a photograph."""

    code = "face_policy_not_allowed"


class LowQuality(TesseraError):
    """The face is too small, blurred, dark or turned away to stand for a person."""

    code = "low_quality"


class NoUsableImage(TesseraError):
    """None of several photographs gave a template; ``details`` holds the reason of each."""

    code = "no_usable_image"


class IdempotencyMismatch(TesseraError):
    """An idempotency key was used again with another request."""

    code = "idempotency_key_reused"


class TesseraService:
    """Enroll, verify and identify. Every method may be called from several threads at once."""

    def __init__(  # noqa: PLR0913
        self,
        finder: FaceFinder,
        encoder: EncoderRuntime,
        gallery: Gallery,
        calibration: Calibration,
        *,
        crowding: Crowding,
        enforce_quality: bool = True,
        target_fmr: float | None = None,
        target_fpir: float | None = None,
        claim: Claim = Claim.EVERY_GROUP,
        inconclusive: bool = True,
    ) -> None:
        """Ready at once.

        Args:
            finder: cuts faces out of photographs.
            encoder: makes embeddings of them; faces of several requests go through it together.
            gallery: closed with the service.
            calibration: that of the encoder.
            crowding: what the calibration's distances were adjusted by.
            enforce_quality: whether a face that is too poor is refused at enrolment.
            target_fmr: of verifications where nobody says otherwise; the calibration's default if None.
            target_fpir: of searches, likewise.
            claim: for whom these rates are promised where nobody says otherwise.
            inconclusive: whether that may be an outcome; else it is no_match.

        Raises:
            TargetUnsupported: the calibration cannot show ``target_fmr``.
        """
        self._finder, self.gallery, self.calibration, self.crowding = finder, gallery, calibration, crowding
        self._encoder = Batcher(encoder)
        self._enforce_quality, self._inconclusive = enforce_quality, inconclusive
        fmr = calibration.default_fmr if target_fmr is None else target_fmr
        fpir = calibration.default_fpir if target_fpir is None else target_fpir
        self._verification = Criterion(CriterionKind.TARGET_FMR, fmr, Origin.SERVER, claim)
        self._identification = Criterion(CriterionKind.TARGET_FPIR, fpir, Origin.SERVER, claim)
        # A default that cannot be supported is refused here, and not at the first request.
        self._require(self._verification)

    @property
    def encoder(self) -> EncoderInfo:
        """Which encoder runs, and how."""
        return self._encoder.info

    def watch_encoder(self, observe: Callable[[int, float], None]) -> None:
        """Tells of each run of the encoder from now on: how many faces, and how many seconds."""
        self._encoder.observe = observe

    @property
    def target_fmr(self) -> float:
        """The false match rate that a verification has where nobody says otherwise."""
        return self._verification.value

    @property
    def claim(self) -> Claim:
        """For whom those rates are promised where nobody says otherwise."""
        return self._verification.claim

    @property
    def target_fpir(self) -> float:
        """The false positive identification rate that a search has where nobody says otherwise."""
        return self._identification.value

    def rule(self, templates: int = 1) -> Rule:
        """What decides of a comparison with a subject of so many templates where a request does not say."""
        return rule_for_comparison(self.calibration, self._verification, templates)

    def detect(self, image: bytes) -> FoundFaces:
        """All faces of a photograph, largest first; none is no error here."""
        return self._finder.find_all(image)

    def enroll(self, request: EnrolmentRequest, idempotency: Idempotency | None = None) -> Enrolment | Replay:
        """Makes templates of the usable photographs and stores them, all in one step.

        Raises what decoding, detection and the gallery raise; NoUsableImage if several photographs were given and
        none was usable; PolicyNotAllowed; IdempotencyMismatch.
        """
        if request.face_policy is FacePolicy.ALL:
            raise PolicyNotAllowed("A subject is one person: use face_policy single or largest to enrol.")
        if idempotency is not None and (replay := self._replay(idempotency)) is not None:
            return replay
        found, rejected = self._usable_faces(request)
        probes = self._encoded([(faces.faces_detected, faces.faces[0]) for faces in found.values()])
        enrolled = tuple(
            EnrolledImage(index, uuid.uuid4().hex, probe) for index, probe in zip(found, probes, strict=True)
        )
        subject_id = request.subject_id or uuid.uuid4().hex
        # Whether somebody is enrolled already is a search, and has the threshold of one.
        rule = self._search_rule(request.collection, Wish())
        duplicates = self._duplicates(request, subject_id, enrolled, rule)

        def outcome(subject: Subject) -> Enrolment:
            return Enrolment(subject, enrolled, rejected, duplicates, rule)

        receipt = None
        if idempotency is not None:
            render = idempotency.render
            receipt = PendingReceipt(idempotency.key, idempotency.fingerprint, lambda s: render(outcome(s)))
        try:
            with stage("store"):
                subject = self.gallery.enroll(
                    request.collection,
                    subject_id,
                    [NewTemplate(e.template_id, e.probe.embedding, e.probe.length) for e in enrolled],
                    metadata=request.metadata,
                    on_conflict=request.on_conflict,
                    receipt=receipt,
                )
        except ReceiptExists:
            # The same request arrived twice at once and the other one was first.
            if idempotency is None or (replay := self._replay(idempotency)) is None:
                raise
            return replay
        return outcome(subject)

    def verify(
        self,
        image: bytes,
        reference: bytes,
        *,
        face_policy: FacePolicy,
        wish: Wish = Wish(),  # noqa: B008
    ) -> Verification:
        """Compares two photographs. With ``all``, the closest pair of faces decides. Raises TargetUnsupported."""
        criterion = self._criterion(CriterionKind.TARGET_FMR, wish, None)
        rule = rule_for_comparison(self.calibration, criterion, 1)
        found, other_found = (self._finder.find(photograph, face_policy) for photograph in (image, reference))
        encoded = self._encoded([(f.faces_detected, face) for f in (found, other_found) for face in f.faces])
        probes, references = encoded[: len(found.faces)], encoded[len(found.faces) :]
        pairs = [(p, r, _compared_faces(p, r)) for p in probes for r in references]
        probe, other, best = min(pairs, key=lambda pair: rule.nearness(pair[2]))
        return Verification(self._final(rule.outcome(best)), best, rule, probe, reference=other)

    def verify_subject(
        self,
        image: bytes,
        collection: str,
        subject_id: str,
        *,
        face_policy: FacePolicy,
        wish: Wish = Wish(),  # noqa: B008
    ) -> Verification:
        """Compares a photograph with an enrolled subject. With ``all``, the closest face decides.

        Raises TargetUnsupported, SubjectNotFound and what photographs raise.
        """
        templates = len(self.gallery.subject(collection, subject_id).templates)
        chosen = self._criterion(CriterionKind.TARGET_FMR, wish, collection)
        rule_for_comparison(self.calibration, chosen, min(templates, self.calibration.most_templates))
        probes = self._probes(image, face_policy)
        with stage("search"):
            pairs = [(p, self.gallery.compare(collection, subject_id, p.embedding)) for p in probes]
        rule = rule_for_comparison(self.calibration, chosen, pairs[0][1].templates)
        probe, found = min(pairs, key=lambda pair: rule.nearness(compared(*pair)))
        best = compared(probe, found)
        return Verification(self._final(rule.outcome(best)), best, rule, probe, candidate=found)

    def identify(
        self,
        image: bytes,
        collection: str,
        top_k: int,
        *,
        face_policy: FacePolicy,
        wish: Wish = Wish(),  # noqa: B008
    ) -> Identification:
        """Searches a collection for the faces of a photograph. Raises TargetUnsupported."""
        rule = self._search_rule(collection, wish)
        found = []
        for probe in self._probes(image, face_policy):
            # Whether the nearest is alone so near takes a second one, whatever was asked for.
            nearest = self._search(collection, probe, max(top_k, 2), rule)
            outcome = self._final(rule.search_outcome([compared(probe, c) for c in nearest]))
            found.append(FaceIdentification(outcome, probe, tuple(nearest[:top_k]), margin_of(rule, probe, nearest)))
        found.sort(key=lambda f: rule.nearness(compared(f.probe, f.candidates[0])) if f.candidates else np.inf)
        reason = None if any(f.candidates for f in found) else EMPTY_GALLERY
        return Identification(rule, tuple(found), reason)

    def _search(self, collection: str, probe: Probe, top_k: int, rule: Rule) -> list[Candidate]:
        with stage("search"):
            return self.gallery.search(collection, probe.embedding, top_k, crowded=rule.fmr is not None)

    def _search_rule(self, collection: str, wish: Wish) -> Rule:
        """Raises TargetUnsupported, CollectionNotFound."""
        chosen = self._criterion(CriterionKind.TARGET_FPIR, wish, collection)
        size = self.gallery.size(collection)
        return rule_for_search(self.calibration, chosen, size.subjects, size.most_templates)

    def _criterion(self, kind: CriterionKind, wish: Wish, collection: str | None) -> Criterion:
        """What a request asks for, completed by the collection (None: two photographs) and the service.

        Raises CollectionNotFound.
        """
        targets = Targets() if collection is None else self.gallery.targets(collection)
        default = self._identification if kind is CriterionKind.TARGET_FPIR else self._verification
        claim = wish.claim or (default.claim if targets.claim is None else Claim(targets.claim))
        if wish.max_distance is not None:
            return Criterion(CriterionKind.MAX_DISTANCE, wish.max_distance, Origin.REQUEST, claim)
        if wish.target is not None:
            return Criterion(kind, wish.target, Origin.REQUEST, claim)
        own = targets.fpir if kind is CriterionKind.TARGET_FPIR else targets.fmr
        return replace(default, claim=claim) if own is None else Criterion(kind, own, Origin.COLLECTION, claim)

    def create_collection(self, collection: str, targets: Targets) -> Collection:
        """Raises CollectionExists, TargetUnsupported."""
        self._check(targets)
        return self.gallery.create_collection(collection, targets)

    def update_collection(self, collection: str, targets: Targets) -> Collection:
        """Replaces the targets. Raises CollectionNotFound, TargetUnsupported."""
        self._check(targets)
        return self.gallery.update_collection(collection, targets)

    def _check(self, targets: Targets) -> None:
        """Raises TargetUnsupported for a FMR that cannot be kept; which FPIR can be depends on how many there are."""
        claim = self._verification.claim if targets.claim is None else Claim(targets.claim)
        if targets.fmr is not None:
            self._require(Criterion(CriterionKind.TARGET_FMR, targets.fmr, Origin.COLLECTION, claim))

    def _require(self, criterion: Criterion) -> None:
        """Raises TargetUnsupported unless the rate can be kept for subjects of any number of templates."""
        for templates in range(1, self.calibration.most_templates + 1):
            rule_for_comparison(self.calibration, criterion, templates)

    def _final(self, outcome: Outcome) -> Outcome:
        if self._inconclusive or outcome.decision is not Decision.INCONCLUSIVE:
            return outcome
        return Outcome(Decision.NO_MATCH, outcome.reason)

    def check_encoder(self) -> None:
        """Encodes a blank chip; raises RuntimeError if that gives no embedding."""
        encodings = self._encoder.encode(np.zeros((1, CHIP_SIDE, CHIP_SIDE, 3), dtype=np.uint8))
        if not np.isfinite(encodings.embeddings).all():
            raise RuntimeError("the encoder gives numbers that are not finite")

    def warm_up(self) -> None:
        """Looks for faces and encodes once, on blank pictures: the first request is then as fast as the later ones."""
        self._finder.warm_up()
        self.check_encoder()

    def close(self) -> None:
        """Gives the gallery free."""
        self.gallery.close()

    def _replay(self, idempotency: Idempotency) -> Replay | None:
        receipt = self.gallery.receipt(idempotency.key)
        if receipt is None:
            return None
        if receipt.fingerprint != idempotency.fingerprint:
            raise IdempotencyMismatch(
                "This Idempotency-Key belongs to another request of the last 24 hours; use a new key."
            )
        return Replay(receipt.body)

    def _usable_faces(self, request: EnrolmentRequest) -> tuple[dict[int, FoundFaces], tuple[RejectedImage, ...]]:
        usable: dict[int, FoundFaces] = {}
        rejected: list[RejectedImage] = []
        for index, image in enumerate(request.images):
            try:
                found = self._finder.find(image, request.face_policy)
                self._require_quality(found.faces[0])
                usable[index] = found
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
        self, request: EnrolmentRequest, subject_id: str, enrolled: Sequence[EnrolledImage], rule: Rule
    ) -> tuple[tuple[Candidate, Probe], ...]:
        if not request.report_duplicates:
            return ()
        nearest: dict[str, tuple[float, Candidate, Probe]] = {}
        for image in enrolled:
            for candidate in self._search(request.collection, image.probe, 5, rule):
                known, pair = nearest.get(candidate.subject_id), compared(image.probe, candidate)
                near = rule.nearness(pair)
                if (
                    candidate.subject_id != subject_id
                    and rule.plain_decision(pair) is Decision.MATCH
                    and (known is None or near < known[0])
                ):
                    nearest[candidate.subject_id] = near, candidate, image.probe
        ranked = sorted(nearest.values(), key=lambda found: (found[0], found[1].subject_id))
        return tuple((candidate, probe) for _, candidate, probe in ranked)

    def _probes(self, image: bytes, face_policy: FacePolicy) -> list[Probe]:
        found = self._finder.find(image, face_policy)
        return self._encoded([(found.faces_detected, face) for face in found.faces])

    def _encoded(self, faces: Sequence[tuple[int, AlignedFace]]) -> list[Probe]:
        """Faces, each with the number of faces in its photograph, and what the encoder makes of them."""
        encodings = self._encoder.encode(np.stack([face.chip for _, face in faces]))
        crowding = self.crowding(encodings.embeddings)
        return [
            Probe(count, face, embedding, length, crowded)
            for (count, face), embedding, length, crowded in zip(
                faces, encodings.embeddings, encodings.lengths.tolist(), crowding.tolist(), strict=True
            )
        ]


def compared(probe: Probe, candidate: Candidate) -> Compared:
    """What a rule decides by."""
    crowding = probe.crowding + candidate.crowding
    return Compared(candidate.distance, candidate.templates, probe.length, candidate.length, crowding)


def _compared_faces(probe: Probe, reference: Probe) -> Compared:
    distance = squared_distance(probe.embedding, reference.embedding)
    return Compared(distance, 1, probe.length, reference.length, probe.crowding + reference.crowding)


def margin_of(rule: Rule, probe: Probe, ranked: Sequence[Candidate]) -> float | None:
    """How much farther the second subject is than the best, as they are ranked; None without a second."""
    if len(ranked) < 2:
        return None
    best, second = (rule.nearness(compared(probe, candidate)) for candidate in ranked[:2])
    return second - best


def squared_distance(a: Embedding, b: Embedding) -> float:
    """Squared L2 between two unit vectors, float32 [128] each, in 0..4."""
    return float(np.clip(np.square(a - b).sum(dtype=np.float64), 0.0, 4.0))
