"""The service's results -> what goes over the wire."""

from __future__ import annotations

from app.api import schemas
from app.decisions import Calibration, decide, similarity
from app.encoding import EncoderInfo
from app.service import Enrolment, FaceIdentification, Identification, Probe, Verification
from app.types import AlignedFace, Candidate

LANDMARK_NAMES = tuple(schemas.LandmarksOut.model_fields)


def face(aligned: AlignedFace) -> schemas.FaceOut:
    """One face, in pixels of the upright photograph."""
    points = dict(zip(LANDMARK_NAMES, aligned.detected.landmarks.tolist(), strict=True))
    return schemas.FaceOut(
        box=schemas.BoxOut.model_validate(aligned.detected.box),
        landmarks=schemas.LandmarksOut.model_validate(points),
        confidence=round(aligned.detected.confidence, 4),
        quality=schemas.QualityOut.model_validate(aligned.quality),
    )


def probe(used: Probe) -> schemas.ProbeOut:
    """The face used and how many there were."""
    return schemas.ProbeOut(faces_detected=used.faces_detected, face=face(used.face))


def candidate(found: Candidate, threshold: float) -> schemas.CandidateOut:
    """A candidate with the decision on it alone."""
    return schemas.CandidateOut(
        subject_id=found.subject_id,
        template_id=found.template_id,
        distance=found.distance,
        similarity=similarity(found.distance),
        decision=decide(found.distance, threshold),
        metadata=dict(found.metadata),
    )


def versions(encoder: EncoderInfo, calibration: Calibration) -> dict[str, str]:
    """The two versions that every answer carries."""
    return {
        "encoder_version": f"{encoder.name}-{encoder.version}-{encoder.sha256[:8]}",
        "calibration_version": calibration.version,
    }


def enrolment(result: Enrolment, encoder: EncoderInfo, calibration: Calibration) -> schemas.EnrollResponse:
    """Answer of ``/enroll``."""
    threshold = calibration.default.threshold
    return schemas.EnrollResponse(
        subject_id=result.subject.id,
        collection=result.subject.collection,
        template_count=len(result.subject.templates),
        templates=[
            schemas.EnrolledOut(image=e.index, template_id=e.template_id, probe=probe(e.probe)) for e in result.enrolled
        ],
        failures=[
            schemas.FailureOut(image=r.index, code=r.error.code, detail=r.error.message) for r in result.rejected
        ],
        possible_duplicate=bool(result.possible_duplicates),
        possible_duplicates=[candidate(c, threshold) for c in result.possible_duplicates],
        **versions(encoder, calibration),
    )


def verification(result: Verification, encoder: EncoderInfo, calibration: Calibration) -> schemas.VerifyResponse:
    """Answer of ``/verify``."""
    return schemas.VerifyResponse(
        decision=result.decision,
        distance=result.distance,
        similarity=similarity(result.distance),
        threshold=result.threshold,
        operating_point=schemas.OperatingPointOut.model_validate(calibration.default),
        subject_id=result.candidate.subject_id if result.candidate else None,
        template_id=result.candidate.template_id if result.candidate else None,
        probe=probe(result.probe),
        reference=probe(result.reference) if result.reference else None,
        **versions(encoder, calibration),
    )


def _identified(result: FaceIdentification, threshold: float) -> schemas.IdentifiedFace:
    return schemas.IdentifiedFace(
        decision=result.decision,
        probe=probe(result.probe),
        candidates=[candidate(c, threshold) for c in result.candidates],
    )


def identification(result: Identification, encoder: EncoderInfo, calibration: Calibration) -> schemas.IdentifyResponse:
    """Answer of ``/identify``."""
    faces = [_identified(f, result.threshold) for f in result.faces]
    first = faces[0]
    nearest = first.candidates[0] if first.candidates else None
    return schemas.IdentifyResponse(
        decision=first.decision,
        subject_id=nearest.subject_id if nearest and first.decision == "match" else None,
        distance=nearest.distance if nearest else None,
        similarity=nearest.similarity if nearest else None,
        threshold=result.threshold,
        operating_point=schemas.OperatingPointOut.model_validate(calibration.default),
        reason="empty_gallery" if result.reason else None,
        probe=first.probe,
        candidates=first.candidates,
        faces=faces,
        **versions(encoder, calibration),
    )
