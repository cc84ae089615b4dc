from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app.decisions import Calibration, Decision, Outcome
from app.encoding import EncoderRuntime
from app.faces import FaceFinder, FacePolicy, MultipleFacesError, NoFaceError
from app.gallery import OnConflict, ReceiptExists, SubjectExists, SubjectNotFound
from app.results import Enrolment, EnrolmentRequest, Idempotency, Replay
from app.service import (
    IdempotencyMismatch,
    LowQuality,
    NoUsableImage,
    PolicyNotAllowed,
    TesseraService,
    squared_distance,
)
from app.types import EMBEDDING_SIZE, Encodings
from tests.app.photographs import blank, blurred, collins, two_faces, variants


def enrol(service: TesseraService, *images: bytes, subject_id: str | None = "ada", **options: object) -> Enrolment:
    result = service.enroll(EnrolmentRequest(images, subject_id, "default", **options))  # type: ignore[arg-type]
    assert isinstance(result, Enrolment)
    return result


def key(fingerprint: str = "f") -> Idempotency:
    return Idempotency("key", fingerprint, lambda enrolment: f"{enrolment.subject.id}:{len(enrolment.enrolled)}")


def test_the_index_of_each_photograph_is_its_place_in_the_request(service: TesseraService, ada: bytes) -> None:
    result = enrol(service, blank(), ada, blank(), ada)
    assert [e.index for e in result.enrolled] == [1, 3]
    assert [r.index for r in result.rejected] == [0, 2]
    assert [t.id for t in result.subject.templates] == [e.template_id for e in result.enrolled]
    assert all(isinstance(r.error, NoFaceError) for r in result.rejected)


def test_a_template_is_what_the_encoder_makes_of_the_aligned_face(
    service: TesseraService, face_finder: FaceFinder, encoder: EncoderRuntime, ada: bytes
) -> None:
    [enrolled] = enrol(service, ada).enrolled
    chip = face_finder.find(ada, FacePolicy.SINGLE).faces[0].chip
    np.testing.assert_array_equal(enrolled.probe.face.chip, chip)
    np.testing.assert_allclose(enrolled.probe.embedding, encoder.encode(chip[None]).embeddings[0], atol=1e-2)


def test_the_only_photographs_own_reason_is_raised(service: TesseraService) -> None:
    with pytest.raises(NoFaceError):
        enrol(service, blank())
    with pytest.raises(MultipleFacesError):
        enrol(service, two_faces())
    with pytest.raises(NoUsableImage) as refused:
        enrol(service, blank(), two_faces(), blurred())
    assert [f["code"] for f in refused.value.details["failures"]] == ["no_face", "multiple_faces", "low_quality"]


def test_quality_is_asked_of_enrolments_only_and_can_be_waived(
    service: TesseraService, face_finder: FaceFinder, encoder: EncoderRuntime, calibration: Calibration
) -> None:
    with pytest.raises(LowQuality) as refused:
        enrol(service, blurred())
    assert "blurred" in refused.value.details["issues"]
    assert service.verify(blurred(), blurred(), face_policy=FacePolicy.LARGEST).distance < 1e-3
    lenient = TesseraService(face_finder, encoder, service.gallery, calibration, enforce_quality=False)
    assert len(enrol(lenient, blurred()).enrolled) == 1


def test_all_faces_are_refused_before_anything_is_done(service: TesseraService) -> None:
    with pytest.raises(PolicyNotAllowed):
        enrol(service, b"no photograph", face_policy=FacePolicy.ALL)


def test_a_rejected_conflict_changes_nothing(service: TesseraService, ada: bytes) -> None:
    before = enrol(service, ada).subject
    with pytest.raises(SubjectExists):
        enrol(service, ada, on_conflict=OnConflict.REJECT, metadata={"a": 1})
    assert service.gallery.subject("default", "ada") == before


def test_duplicates_are_the_other_subjects_within_the_threshold(
    service: TesseraService, ada: bytes, grace: bytes
) -> None:
    for name, image in variants(collins()).items():
        enrol(service, image, subject_id=name)
    enrol(service, grace, subject_id="grace")
    result = enrol(service, ada, ada, subject_id="compressed")
    distances = [c.distance for c in result.possible_duplicates]
    assert distances == sorted(distances)
    assert max(distances) <= result.rule.threshold(1)
    assert result.rule.subjects == 1 + len(variants(collins()))
    found = {c.subject_id for c in result.possible_duplicates}
    assert len(found) == len(distances)
    assert found <= variants(collins()).keys() - {"compressed"}
    assert len(found) >= 4
    assert enrol(service, ada, subject_id="x", report_duplicates=False).possible_duplicates == ()


class TestIdempotency:
    def test_the_answer_is_kept_as_it_was_written(self, service: TesseraService, ada: bytes) -> None:
        request = EnrolmentRequest([ada], "ada", "default")
        assert isinstance(service.enroll(request, key()), Enrolment)
        assert service.enroll(request, key()) == Replay("ada:1")
        assert len(service.gallery.subject("default", "ada").templates) == 1
        with pytest.raises(IdempotencyMismatch):
            service.enroll(request, key("other"))

    def test_a_replay_needs_no_photograph_to_be_read(self, service: TesseraService, ada: bytes) -> None:
        service.enroll(EnrolmentRequest([ada], "ada", "default"), key())
        assert service.enroll(EnrolmentRequest([b"no photograph"], "ada", "default"), key()) == Replay("ada:1")

    def test_the_slower_of_two_twins_gets_the_answer_of_the_faster(
        self, service: TesseraService, ada: bytes, monkeypatch: pytest.MonkeyPatch
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
        self, service: TesseraService, ada: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        request = EnrolmentRequest([ada], None, "default")
        service.enroll(request, key())
        monkeypatch.setattr(service.gallery, "receipt", lambda _: None)
        with pytest.raises(ReceiptExists):
            service.enroll(request, key())

    def test_many_threads_make_one_enrolment(self, service: TesseraService, ada: bytes) -> None:
        request = EnrolmentRequest([ada], None, "default")
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda _: service.enroll(request, key()), range(8)))
        assert sum(isinstance(r, Enrolment) for r in results) == 1
        assert sum(c.templates for c in service.gallery.collections()) == 1


def test_an_unknown_subject_is_said_before_the_photograph_is_read(service: TesseraService) -> None:
    with pytest.raises(SubjectNotFound):
        service.verify_subject(b"no photograph", "default", "nobody", face_policy=FacePolicy.LARGEST)


def test_verification_is_symmetric(service: TesseraService, ada: bytes, grace: bytes) -> None:
    there = service.verify(ada, grace, face_policy=FacePolicy.LARGEST)
    back = service.verify(grace, ada, face_policy=FacePolicy.LARGEST)
    assert there.distance == pytest.approx(back.distance, abs=1e-6)
    assert there.outcome == back.outcome == Outcome(Decision.NO_MATCH)
    assert there.rule.threshold(1) == service.calibration.default.threshold


def test_verify_and_identify_measure_the_same_distance(service: TesseraService, ada: bytes, grace: bytes) -> None:
    enrol(service, ada)
    for image in (ada, grace, *variants(collins()).values()):
        verified = service.verify_subject(image, "default", "ada", face_policy=FacePolicy.LARGEST)
        [face] = service.identify(image, "default", 1, face_policy=FacePolicy.LARGEST).faces
        against = service.verify(image, ada, face_policy=FacePolicy.LARGEST)
        assert face.candidates[0].distance == pytest.approx(verified.distance, abs=1e-6)
        assert against.distance == pytest.approx(verified.distance, abs=1e-2)


def test_a_broken_encoder_is_noticed(service: TesseraService, monkeypatch: pytest.MonkeyPatch) -> None:
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
