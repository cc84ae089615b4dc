"""The service's results -> what goes over the wire."""

from __future__ import annotations

from app.api import schemas
from app.api.decision_schemas import CriterionOut, OperatingPointOut, RateOut
from app.decisions import Calibration, Rule, decide, rate_at, similarity
from app.encoding import EncoderInfo
from app.results import Enrolment, FaceIdentification, Identification, Probe, Verification
from app.types import AlignedFace, Candidate, Collection

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
    return schemas.ProbeOut(
        faces_detected=used.faces_detected, face=face(used.face), embedding_length=round(used.length, 2)
    )


def candidate(found: Candidate, rule: Rule) -> schemas.CandidateOut:
    """A candidate with the decision on it alone."""
    threshold = rule.threshold(found.templates)
    return schemas.CandidateOut(
        subject_id=found.subject_id,
        template_id=found.template_id,
        templates=found.templates,
        distance=found.distance,
        similarity=similarity(found.distance),
        threshold=threshold,
        false_match_rate=_rate(rule.calibration, found.distance, found.templates),
        decision=decide(found.distance, threshold),
        metadata=dict(found.metadata),
    )


def _rate(calibration: Calibration, distance: float, templates: int) -> RateOut | None:
    rate = rate_at(calibration, distance, templates)
    if rate is None:
        return None
    estimate = rate.estimate
    return RateOut(value=estimate.value, low=estimate.low, high=estimate.high, at_most=rate.at_most)


def _criterion(rule: Rule) -> CriterionOut:
    wanted = rule.criterion
    return CriterionOut(kind=wanted.kind, value=wanted.value, set_by=wanted.origin, met=rule.met)


def _point(rule: Rule, templates: int) -> OperatingPointOut | None:
    point = rule.operating_point(templates)
    return None if point is None else OperatingPointOut.model_validate(point)


def versions(encoder: EncoderInfo, calibration: Calibration) -> dict[str, str]:
    """The two versions that every answer carries."""
    return {
        "encoder_version": f"{encoder.name}-{encoder.version}-{encoder.sha256[:8]}",
        "calibration_version": calibration.version,
    }


def enrolment(result: Enrolment, encoder: EncoderInfo, calibration: Calibration) -> schemas.EnrollResponse:
    """Answer of ``/enroll``."""
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
        possible_duplicates=[candidate(c, result.rule) for c in result.possible_duplicates],
        **versions(encoder, calibration),
    )


def verification(result: Verification, encoder: EncoderInfo, calibration: Calibration) -> schemas.VerifyResponse:
    """Answer of ``/verify``."""
    found = result.candidate
    return schemas.VerifyResponse(
        decision=result.outcome.decision,
        reason=result.outcome.reason,
        distance=result.distance,
        similarity=similarity(result.distance),
        threshold=result.rule.threshold(result.templates),
        criterion=_criterion(result.rule),
        false_match_rate=_rate(calibration, result.distance, result.templates),
        operating_point=_point(result.rule, result.templates),
        subject_id=found.subject_id if found else None,
        template_id=found.template_id if found else None,
        templates=result.templates,
        probe=probe(result.probe),
        reference=probe(result.reference) if result.reference else None,
        **versions(encoder, calibration),
    )


def _identified(result: FaceIdentification, rule: Rule) -> schemas.IdentifiedFace:
    return schemas.IdentifiedFace(
        decision=result.outcome.decision,
        reason=result.outcome.reason,
        probe=probe(result.probe),
        candidates=[candidate(c, rule) for c in result.candidates],
    )


def identification(result: Identification, encoder: EncoderInfo, calibration: Calibration) -> schemas.IdentifyResponse:
    """Answer of ``/identify``."""
    rule = result.rule
    faces = [_identified(f, rule) for f in result.faces]
    first = faces[0]
    nearest = first.candidates[0] if first.candidates else None
    templates = nearest.templates if nearest else 1
    return schemas.IdentifyResponse(
        decision=first.decision,
        subject_id=nearest.subject_id if nearest and first.decision == "match" else None,
        distance=nearest.distance if nearest else None,
        similarity=nearest.similarity if nearest else None,
        threshold=rule.threshold(templates),
        criterion=_criterion(rule),
        operating_point=_point(rule, templates),
        gallery_subjects=rule.subjects or 0,
        false_positive_identification_rate=rule.false_positive_identification_rate(),
        margin=result.faces[0].margin,
        reason="empty_gallery" if result.reason else first.reason,
        probe=first.probe,
        candidates=first.candidates,
        faces=faces,
        **versions(encoder, calibration),
    )


def collection(found: Collection) -> schemas.CollectionOut:
    """A collection."""
    return schemas.CollectionOut(
        id=found.id,
        created_at=found.created_at,
        subjects=found.subjects,
        templates=found.templates,
        target_fmr=found.targets.fmr,
        target_fpir=found.targets.fpir,
    )
