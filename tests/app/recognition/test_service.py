from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app.crowding import NoCrowding
from app.decisions import Calibration, Claim, Decision, Outcome, Reason, RequestedCriterion
from app.embeddings import EMBEDDING_SIZE, MOST_FUSED, squared_distance
from app.encoding import EncoderRuntime, Encodings
from app.faces import FaceFinder, FacePolicy, MultipleFacesError, NoFaceError, TooMuchWorkError, WorkLimits
from app.gallery import NewTemplate, OnConflict, ReceiptExists, SqliteGallery, SubjectExists, SubjectNotFound
from app.recognition.criteria import Criteria
from app.recognition.results import Enrolment, EnrolmentRequest, Idempotency, Replay
from app.recognition.service import (
    IdempotencyMismatch,
    LowQuality,
    NoUsableImage,
    PolicyNotAllowed,
    RecognitionService,
    TooManyCandidates,
    compared,
)
from tests.app.faces.attacks import blank_webp
from tests.app.photographs import blank, blurred, collins, jpeg, tiled, two_alike, two_faces, variants

pytestmark = pytest.mark.slow


def enrol(service: RecognitionService, *images: bytes, subject_id: str | None = "ada", **options: object) -> Enrolment:
    result = service.enroll(EnrolmentRequest(images, subject_id, "default", **options))  # type: ignore[arg-type]
    assert isinstance(result, Enrolment)
    return result


def key(fingerprint: str = "f") -> Idempotency[Enrolment]:
    return Idempotency("key", fingerprint, lambda enrolment: f"{enrolment.subject.id}:{len(enrolment.enrolled)}")


def test_the_index_of_each_photograph_is_its_place_in_the_request(service: RecognitionService, ada: bytes) -> None:
    result = enrol(service, blank(), ada, blank(), ada)
    assert [e.index for e in result.enrolled] == [1, 3]
    assert [r.index for r in result.rejected] == [0, 2]
    assert [t.id for t in result.subject.templates] == [e.template_id for e in result.enrolled]
    assert all(isinstance(r.error, NoFaceError) for r in result.rejected)


def test_a_template_is_what_the_encoder_makes_of_the_aligned_face(
    service: RecognitionService, face_finder: FaceFinder, encoder: EncoderRuntime, ada: bytes
) -> None:
    [enrolled] = enrol(service, ada).enrolled
    chip = face_finder.find(ada, FacePolicy.SINGLE).faces[0].chip
    np.testing.assert_array_equal(enrolled.probe.face.chip, chip)
    np.testing.assert_allclose(enrolled.probe.embedding, encoder.encode(chip[None]).embeddings[0], atol=1e-2)


def test_the_only_photographs_own_reason_is_raised(service: RecognitionService) -> None:
    with pytest.raises(NoFaceError):
        enrol(service, blank())
    with pytest.raises(MultipleFacesError):
        enrol(service, two_alike())
    with pytest.raises(NoUsableImage) as refused:
        enrol(service, blank(), two_alike(), blurred())
    assert [f["code"] for f in refused.value.details["failures"]] == ["no_face", "multiple_faces", "low_quality"]


def test_quality_is_asked_of_enrolments_only_and_can_be_waived(
    service: RecognitionService, face_finder: FaceFinder, encoder: EncoderRuntime, calibration: Calibration
) -> None:
    with pytest.raises(LowQuality) as refused:
        enrol(service, blurred())
    assert "blurred" in refused.value.details["issues"]
    assert service.verify(blurred(), blurred(), face_policy=FacePolicy.LARGEST).compared.distance < 1e-3
    lenient = RecognitionService(
        face_finder, encoder, service.gallery, Criteria(calibration), crowding=NoCrowding(), enforce_quality=False
    )
    assert len(enrol(lenient, blurred()).enrolled) == 1


def test_all_faces_are_refused_before_anything_is_done(service: RecognitionService) -> None:
    with pytest.raises(PolicyNotAllowed):
        enrol(service, b"no photograph", face_policy=FacePolicy.ALL)


def test_a_rejected_conflict_changes_nothing(service: RecognitionService, ada: bytes) -> None:
    before = enrol(service, ada).subject
    with pytest.raises(SubjectExists):
        enrol(service, ada, on_conflict=OnConflict.REJECT, metadata={"a": 1})
    assert service.gallery.subject("default", "ada") == before


def test_duplicates_are_the_other_subjects_within_the_threshold(
    service: RecognitionService, ada: bytes, grace: bytes
) -> None:
    for name, image in variants(collins()).items():
        enrol(service, image, subject_id=name)
    enrol(service, grace, subject_id="grace")
    result = enrol(service, ada, ada, subject_id="compressed")
    distances = [c.distance for c, _ in result.possible_duplicates]
    assert distances == sorted(distances)
    assert max(distances) <= result.policy.bound(1).threshold
    assert result.policy.subjects == 1 + len(variants(collins()))
    found = {c.subject_id for c, _ in result.possible_duplicates}
    assert len(found) == len(distances)
    assert found <= variants(collins()).keys() - {"compressed"}
    assert len(found) >= 4
    assert enrol(service, ada, subject_id="x", report_duplicates=False).possible_duplicates == ()


@pytest.mark.parametrize("inconclusive", [True, False])
def test_of_two_faces_of_like_size_the_larger_one_matches_but_does_not_fail(
    service: RecognitionService,
    face_finder: FaceFinder,
    encoder: EncoderRuntime,
    calibration: Calibration,
    ada: bytes,
    grace: bytes,
    inconclusive: bool,
) -> None:
    asked = RecognitionService(
        face_finder,
        encoder,
        service.gallery,
        Criteria(calibration),
        crowding=NoCrowding(),
        inconclusive=inconclusive,
    )
    largest, both = FacePolicy.LARGEST, two_alike()
    unclear = Decision.INCONCLUSIVE if inconclusive else Decision.NO_MATCH
    unsure, sure = Outcome(unclear, Reason.AMBIGUOUS_FACE), Outcome(Decision.MATCH)
    # Nobody is there who could be meant.
    assert asked.identify(both, "default", 1, face_policy=largest).faces[0].outcome == Outcome(Decision.NO_MATCH)
    enrol(asked, grace, subject_id="grace")
    assert asked.verify(both, ada, face_policy=largest).outcome == sure
    assert asked.verify(both, grace, face_policy=largest).outcome == unsure
    assert asked.verify(grace, both, face_policy=largest).outcome == unsure
    assert asked.verify(grace, ada, face_policy=largest).outcome == Outcome(Decision.NO_MATCH)
    assert asked.verify(two_faces(), grace, face_policy=largest).outcome == Outcome(Decision.NO_MATCH)
    assert asked.verify(both, grace, face_policy=FacePolicy.ALL).outcome == sure
    assert asked.verify_subject(both, "default", "grace", face_policy=largest).outcome == unsure
    assert asked.identify(both, "default", 1, face_policy=largest).faces[0].outcome == unsure
    enrol(asked, ada, subject_id="ada")
    assert asked.verify_subject(both, "default", "ada", face_policy=largest).outcome == sure
    assert asked.identify(both, "default", 1, face_policy=largest).faces[0].outcome == sure


class TestIdempotency:
    def test_the_answer_is_kept_as_it_was_written(self, service: RecognitionService, ada: bytes) -> None:
        request = EnrolmentRequest([ada], "ada", "default")
        assert isinstance(service.enroll(request, key()), Enrolment)
        assert service.enroll(request, key()) == Replay("ada:1")
        assert len(service.gallery.subject("default", "ada").templates) == 1
        with pytest.raises(IdempotencyMismatch):
            service.enroll(request, key("other"))

    def test_a_replay_needs_no_photograph_to_be_read(self, service: RecognitionService, ada: bytes) -> None:
        service.enroll(EnrolmentRequest([ada], "ada", "default"), key())
        assert service.enroll(EnrolmentRequest([b"no photograph"], "ada", "default"), key()) == Replay("ada:1")

    def test_the_slower_of_two_twins_gets_the_answer_of_the_faster(
        self, service: RecognitionService, ada: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        request = EnrolmentRequest([ada], None, "default")
        receipt, first_look = service.gallery.receipt, [True]

        def receipt_after_the_twin(name: str) -> object:
            if first_look:
                first_look.clear()
                service.enroll(request, key())
                return None
            return receipt(name)

        monkeypatch.setattr(service.gallery, "receipt", receipt_after_the_twin)
        assert isinstance(service.enroll(request, key()), Replay)
        assert sum(c.templates for c in service.gallery.collections()) == 1

    def test_a_receipt_that_is_gone_again_is_a_conflict(
        self, service: RecognitionService, ada: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        request = EnrolmentRequest([ada], None, "default")
        service.enroll(request, key())
        monkeypatch.setattr(service.gallery, "receipt", lambda _: None)
        with pytest.raises(ReceiptExists):
            service.enroll(request, key())

    def test_many_threads_make_one_enrolment(self, service: RecognitionService, ada: bytes) -> None:
        request = EnrolmentRequest([ada], None, "default")
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda _: service.enroll(request, key()), range(8)))
        assert sum(isinstance(r, Enrolment) for r in results) == 1
        assert sum(c.templates for c in service.gallery.collections()) == 1


class TestLimits:
    @pytest.fixture
    def limited(
        self, service: RecognitionService, face_finder: FaceFinder, encoder: EncoderRuntime, calibration: Calibration
    ) -> Callable[[WorkLimits], RecognitionService]:
        """The service with other limits on the work for one request."""

        def make(limits: WorkLimits) -> RecognitionService:
            criteria = Criteria(calibration)
            return RecognitionService(
                face_finder, encoder, service.gallery, criteria, crowding=NoCrowding(), work_limits=limits
            )

        return make

    def test_the_photographs_of_a_request_share_its_pixels(
        self, limited: Callable[[WorkLimits], RecognitionService], ada: bytes
    ) -> None:
        two = limited(WorkLimits(max_pixels=2 * 512 * 512))
        assert len(enrol(two, ada, ada).enrolled) == 2
        two.verify(ada, ada, face_policy=FacePolicy.SINGLE)
        # Each request has a budget of its own.
        assert len(enrol(two, ada, ada).enrolled) == 2
        before = two.gallery.collections()
        for images in ((ada, ada, ada), (ada, b"no photograph", ada, ada)):
            with pytest.raises(TooMuchWorkError) as refused:
                enrol(two, *images)
            assert refused.value.details["budget"] == "pixels"
        assert two.gallery.collections() == before
        one = limited(WorkLimits(max_pixels=512 * 512))
        with pytest.raises(TooMuchWorkError) as both:
            one.verify(ada, ada, face_policy=FacePolicy.SINGLE)
        assert "photograph" not in both.value.details
        enrol(two, ada)
        one.verify_subject(ada, "default", "ada", face_policy=FacePolicy.SINGLE)
        small = limited(WorkLimits(max_pixels=512 * 512 - 1))
        for ask in (
            lambda: small.detect(ada),
            lambda: small.identify(ada, "default", 5, face_policy=FacePolicy.SINGLE),
            lambda: small.verify_subject(ada, "default", "ada", face_policy=FacePolicy.SINGLE),
        ):
            with pytest.raises(TooMuchWorkError):
                ask()

    def test_sixteen_large_blank_photographs_are_refused_before_they_cost_much(
        self, limited: Callable[[WorkLimits], RecognitionService]
    ) -> None:
        blanks = [blank_webp(7000, 7000)] * 16
        assert len(blanks[0]) < 10_000
        roomy = limited(WorkLimits(max_pixels=60_000_000, max_seconds=3600))
        with pytest.raises(TooMuchWorkError) as refused:
            enrol(roomy, *blanks)
        assert refused.value.details["budget"] == "pixels"
        hurried = limited(WorkLimits(max_pixels=10**10, max_seconds=0.001))
        with pytest.raises(TooMuchWorkError) as late:
            enrol(hurried, *blanks)
        assert late.value.details["budget"] == "seconds"
        assert roomy.gallery.collections()[0].templates == 0

    def test_the_candidates_of_one_answer_are_limited(self, service: RecognitionService, ada: bytes) -> None:
        enrol(service, ada)
        crowd = jpeg(tiled(6, 2, 160))
        found = service.identify(crowd, "default", 41, face_policy=FacePolicy.ALL)
        assert len(found.faces) == 12
        with pytest.raises(TooManyCandidates, match="top_k of 41 or less") as refused:
            service.identify(crowd, "default", 42, face_policy=FacePolicy.ALL)
        assert refused.value.details == {"faces": 12, "top_k": 42, "max_candidates": 500}
        assert len(service.identify(crowd, "default", 100, face_policy=FacePolicy.LARGEST).faces) == 1


def test_an_unknown_subject_is_said_before_the_photograph_is_read(service: RecognitionService) -> None:
    with pytest.raises(SubjectNotFound):
        service.verify_subject(b"no photograph", "default", "nobody", face_policy=FacePolicy.LARGEST)


def test_verification_is_symmetric(service: RecognitionService, ada: bytes, grace: bytes) -> None:
    there = service.verify(ada, grace, face_policy=FacePolicy.LARGEST)
    back = service.verify(grace, ada, face_policy=FacePolicy.LARGEST)
    assert there.compared.distance == pytest.approx(back.compared.distance, abs=1e-6)
    assert there.outcome == back.outcome == Outcome(Decision.NO_MATCH)
    default = service.calibration.bound(Claim.EVERY_GROUP, service.calibration.default_fmr, 1)
    assert there.policy.bound(1) == default


def test_verify_and_identify_measure_the_same_distance(service: RecognitionService, ada: bytes, grace: bytes) -> None:
    enrol(service, ada)
    for image in (ada, grace, *variants(collins()).values()):
        verified = service.verify_subject(image, "default", "ada", face_policy=FacePolicy.LARGEST)
        [face] = service.identify(image, "default", 1, face_policy=FacePolicy.LARGEST).faces
        against = service.verify(image, ada, face_policy=FacePolicy.LARGEST)
        assert face.candidates[0].distance == pytest.approx(verified.compared.distance, abs=1e-6)
        assert against.compared.distance == pytest.approx(verified.compared.distance, abs=1e-2)


class Crowded:
    """One person's face, and what is like it, is as crowded as it is told; everybody else stands alone."""

    digest = "made up"

    def __init__(self, face: np.ndarray, crowding: float) -> None:
        self._face, self._crowding = face, crowding

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        return np.where(embeddings @ self._face > 0.6, self._crowding, 0).astype(np.float32)


@pytest.fixture
def with_crowding(
    tmp_path: Path, face_finder: FaceFinder, encoder: EncoderRuntime, calibration: Calibration, grace: bytes
) -> Iterator[Callable[[float], RecognitionService]]:
    """A service for which one person is so crowded."""
    chip = face_finder.find(grace, FacePolicy.SINGLE).faces[0].chip
    face, running = encoder.encode(chip[None]).embeddings[0], list[RecognitionService]()

    def make(crowding: float) -> RecognitionService:
        crowded = Crowded(face, crowding)
        gallery = SqliteGallery(tmp_path / f"{crowding}", encoder_digest=encoder.info.sha256, crowding=crowded)
        running.append(RecognitionService(face_finder, encoder, gallery, Criteria(calibration), crowding=crowded))
        return running[-1]

    yield make
    for each in running:
        each.close()


def test_a_comparison_matches_within_the_bound_less_the_crowding_of_both(
    with_crowding: Callable[[float], RecognitionService], ada: bytes, grace: bytes
) -> None:
    bound = with_crowding(0.0).criteria.default_policy().bound(1).threshold
    for crowding, decision in ((bound / 2 - 0.02, Decision.MATCH), (bound / 2 + 0.02, Decision.NO_MATCH)):
        service = with_crowding(crowding)
        same = service.verify(grace, grace, face_policy=FacePolicy.LARGEST)
        assert (same.outcome.decision, same.compared.crowding) == (decision, pytest.approx(2 * crowding))
        assert same.policy.threshold(same.compared) == pytest.approx(bound - 2 * crowding)
        enrol(service, grace, subject_id="grace")
        found = service.verify_subject(grace, "default", "grace", face_policy=FacePolicy.LARGEST)
        assert (found.outcome.decision, found.compared.crowding) == (decision, pytest.approx(2 * crowding))
        other = service.verify(ada, grace, face_policy=FacePolicy.LARGEST)
        assert other.compared.crowding == pytest.approx(crowding)


def test_a_search_matches_within_the_bound_less_the_crowding_of_both(
    with_crowding: Callable[[float], RecognitionService], grace: bytes
) -> None:
    empty = with_crowding(0.0)
    enrol(empty, grace, subject_id="grace")
    bound = empty.identify(grace, "default", 1, face_policy=FacePolicy.LARGEST).policy.bound(1).threshold
    for crowding, decision in ((bound / 2 - 0.02, Decision.MATCH), (bound / 2 + 0.02, Decision.NO_MATCH)):
        service = with_crowding(crowding)
        enrol(service, grace, subject_id="grace")
        [face] = service.identify(grace, "default", 1, face_policy=FacePolicy.LARGEST).faces
        assert (face.outcome.decision, face.candidates[0].crowding) == (decision, pytest.approx(crowding))
        assert face.probe.crowding == pytest.approx(crowding)
        duplicates = enrol(service, grace, subject_id="again").possible_duplicates
        assert [c.subject_id for c, _ in duplicates] == (["grace"] if decision is Decision.MATCH else [])
        assert all(probe.crowding == pytest.approx(crowding) for _, probe in duplicates)


def test_of_several_faces_the_one_with_the_smallest_adjusted_distance_decides(
    with_crowding: Callable[[float], RecognitionService], grace: bytes
) -> None:
    # Left is Ada, and right Grace, who is as crowded as nobody is; her own face is nearer, and less of a reason.
    for crowding, left in ((0.3, False), (2.5, True)):
        service = with_crowding(crowding)
        enrol(service, grace, subject_id="grace")
        for found in (
            service.verify(two_faces(), grace, face_policy=FacePolicy.ALL),
            service.verify_subject(two_faces(), "default", "grace", face_policy=FacePolicy.ALL),
        ):
            assert (found.probe.face.detected.box.x < 300) is left
            assert found.compared.crowding == pytest.approx(crowding if left else 2 * crowding)
        faces = service.identify(two_faces(), "default", 1, face_policy=FacePolicy.ALL).faces
        assert (faces[0].probe.face.detected.box.x < 300) is left
        ranked = [compared(face.probe, face.candidates[0]).adjusted for face in faces]
        assert ranked == sorted(ranked)


def test_a_search_by_a_distance_given_outright_finds_the_nearest(
    with_crowding: Callable[[float], RecognitionService], encoder: EncoderRuntime, face_finder: FaceFinder, grace: bytes
) -> None:
    service = with_crowding(0.9)
    enrol(service, grace, subject_id="grace")
    chip = face_finder.find(grace, FacePolicy.SINGLE).faces[0].chip
    face = encoder.encode(chip[None]).embeddings[0]
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        # Farther, and not crowded: at a distance of 0.85 or so.
        away = rng.normal(size=EMBEDDING_SIZE)
        away -= (away @ face) * face
        vector = 0.58 * face + (1 - 0.58**2) ** 0.5 * away / np.linalg.norm(away)
        template = NewTemplate(name, (vector / np.linalg.norm(vector)).astype(np.float32), 10.0)
        service.gallery.enroll("default", name, [template])
    requested = RequestedCriterion(max_distance=0.3)
    [found] = service.identify(grace, "default", 1, face_policy=FacePolicy.LARGEST, requested=requested).faces
    assert (found.candidates[0].subject_id, found.outcome.decision) == ("grace", Decision.MATCH)


def test_many_templates_just_beyond_their_threshold_do_not_hide_a_match(
    with_crowding: Callable[[float], RecognitionService], encoder: EncoderRuntime, face_finder: FaceFinder, grace: bytes
) -> None:
    service, rng = with_crowding(0.0), np.random.default_rng(0)
    chip = face_finder.find(grace, FacePolicy.SINGLE).faces[0].chip
    face = encoder.encode(chip[None]).embeddings[0]

    def enrol_at(name: str, distance: float, templates: int) -> None:
        cosine, away = 1 - distance / 2, rng.normal(size=EMBEDDING_SIZE)
        away -= (away @ face) * face
        vector = cosine * face + (1 - cosine**2) ** 0.5 * away / np.linalg.norm(away)
        vector = (vector / np.linalg.norm(vector)).astype(np.float32)
        service.gallery.enroll("default", name, [NewTemplate(f"{name}{n}", vector, 20.0) for n in range(templates)])

    enrol_at("far", 1.9, MOST_FUSED)
    # As for a gallery of as many as there will be.
    for number in range(30):
        enrol_at(f"filler{number}", 1.8, 1)
    policy = service.search_policy("default")
    strict, lax = policy.bound(MOST_FUSED).threshold, policy.bound(1).threshold
    assert strict < lax - 0.01
    for number in range(10):
        service.gallery.delete_subject("default", f"filler{number}")
    for number in range(9):
        enrol_at(f"many{number}", strict + 0.002, MOST_FUSED)
    enrol_at("one", lax - 0.002, 1)
    [found] = service.identify(grace, "default", 1, face_policy=FacePolicy.LARGEST).faces
    assert (found.candidates[0].subject_id, found.outcome.decision) == ("one", Decision.MATCH)
    assert found.margin is not None
    assert found.margin > 0


def test_the_margin_is_one_of_adjusted_distances(
    with_crowding: Callable[[float], RecognitionService], ada: bytes, grace: bytes
) -> None:
    margins = []
    for crowding in (0.0, 0.4):
        service = with_crowding(crowding)
        enrol(service, ada, subject_id="ada")
        enrol(service, grace, subject_id="grace")
        [face] = service.identify(ada, "default", 1, face_policy=FacePolicy.LARGEST).faces
        assert face.candidates[0].subject_id == "ada"
        margins.append(face.margin)
    plain, crowded = margins
    assert plain is not None
    assert crowded == pytest.approx(plain + 0.4, abs=1e-3)


def test_a_broken_encoder_is_noticed(service: RecognitionService, monkeypatch: pytest.MonkeyPatch) -> None:
    service.check_encoder()

    class Broken:
        def encode(self, _: object) -> object:
            embeddings = np.full((1, EMBEDDING_SIZE), np.inf, dtype=np.float32)
            return Encodings(embeddings, np.ones(1, dtype=np.float32))

    monkeypatch.setattr(service, "_encoder", Broken())
    with pytest.raises(RuntimeError, match="not finite"):
        service.check_encoder()


UNIT = arrays.arrays(np.float32, EMBEDDING_SIZE, elements=st.floats(-1, 1, width=32)).filter(
    lambda v: float(np.linalg.norm(v)) > 0.1
)


@given(a=UNIT, b=UNIT)
def test_squared_distance(a: np.ndarray, b: np.ndarray) -> None:
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    distance = squared_distance(a, b)
    assert 0 <= distance <= 4
    assert distance == pytest.approx(2 - 2 * float(a.astype(np.float64) @ b), abs=1e-5)
    assert distance == squared_distance(b, a)
    assert squared_distance(a, a) == 0
    assert squared_distance(a, -a) == pytest.approx(4, abs=1e-5)


def test_all_pairs_of_faces_share_the_target(service: RecognitionService, ada: bytes, grace: bytes) -> None:
    enrol(service, grace, subject_id="grace")
    requested = RequestedCriterion(target=1e-3)

    def thresholds(image: bytes, reference: bytes) -> tuple[float, float]:
        choice = FacePolicy.ALL
        pair = service.verify(image, reference, face_policy=choice, requested=requested)
        stored = service.verify_subject(image, "default", "grace", face_policy=choice, requested=requested)
        assert pair.policy.criterion.value == stored.policy.criterion.value == 1e-3
        return pair.policy.bound(1).threshold, stored.policy.bound(1).threshold

    def at(rate: float) -> float:
        bound = service.calibration.bound(Claim.EVERY_GROUP, rate, 1)
        assert bound is not None
        return bound.threshold

    assert thresholds(ada, grace) == (at(1e-3), at(1e-3))
    # Two faces, with one and with two others.
    assert thresholds(two_faces(), grace) == (at(5e-4), at(5e-4))
    assert thresholds(two_faces(), two_faces()) == (at(2.5e-4), at(5e-4))


def test_a_match_by_the_targets_of_the_collection_counts_all_faces(service: RecognitionService, grace: bytes) -> None:
    enrol(service, grace, subject_id="grace")
    found = service.verify_subject(two_faces(), "default", "grace", face_policy=FacePolicy.ALL)
    assert found.pairs == 2
    rate = service.criteria.target_fmr
    wide, narrow = (service.calibration.bound(Claim.EVERY_GROUP, rate / pairs, 1) for pairs in (1, 2))
    assert wide is not None
    assert narrow is not None
    assert narrow.threshold < wide.threshold
    between = (narrow.threshold + wide.threshold) / 2 - found.compared.crowding
    near = replace(found, compared=replace(found.compared, distance=between))
    assert not service.is_match("default", near)
    assert service.is_match("default", replace(near, pairs=1))
