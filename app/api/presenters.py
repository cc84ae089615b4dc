"""Converts the service's results into response schemas."""

from __future__ import annotations

from typing import Any

from app.api import schemas
from app.api.schemas import numbers
from app.api.schemas.decisions import (
    CriterionOut,
    EstimateOut,
    GroupOut,
    OperatingPointOut,
    OperatingPointWithGroup,
    RateOut,
    WorstGroupOut,
)
from app.decisions import (
    Calibration,
    Claim,
    Comparison,
    CriterionKind,
    DecisionPolicy,
    Group,
    RateAtDistance,
    TemplateCurve,
    rate_at,
    worst_rate_at,
)
from app.encoding import EncoderInfo
from app.faces import AlignedFace, Quality
from app.gallery import Candidate, Collection
from app.recognition.criteria import Criteria
from app.recognition.results import Enrolment, FaceIdentification, Identification, Merger, Probe, Verification
from app.recognition.service import compared

LANDMARK_NAMES = tuple(schemas.LandmarksOut.model_fields)


def face(aligned: AlignedFace) -> schemas.FaceOut:
    """One face, in pixels of the upright photograph."""
    points = dict(zip(LANDMARK_NAMES, aligned.detected.landmarks.tolist(), strict=True))
    return schemas.FaceOut(
        turned=aligned.detected.turned,
        box=schemas.BoxOut.model_validate(aligned.detected.box),
        landmarks=schemas.LandmarksOut.model_validate(points),
        confidence=numbers.decimals(aligned.detected.confidence, 3),
        quality=quality(aligned.quality),
    )


def quality(measured: Quality) -> schemas.QualityOut:
    """The measures; one beyond its limit is rounded away from it, so that it does not look as if it were within."""

    def rounding(**towards: str) -> str:
        return next((way for issue, way in towards.items() if issue in measured.issues), numbers.NEAREST)

    small = rounding(face_too_small=numbers.DOWN)
    blurred, flat = rounding(blurred=numbers.DOWN), rounding(low_contrast=numbers.DOWN)
    lit = rounding(too_dark=numbers.DOWN, too_bright=numbers.UP)
    return schemas.QualityOut(
        eye_distance=numbers.significant(measured.eye_distance, 3, small),
        sharpness=numbers.significant(measured.sharpness, 3, blurred),
        brightness=numbers.significant(measured.brightness, 3, lit),
        contrast=numbers.significant(measured.contrast, 3, flat),
        yaw=numbers.decimals(measured.yaw, 2, rounding(extreme_pose=numbers.AWAY)),
        roll=numbers.decimals(measured.roll, 1),
        issues=list(measured.issues),
    )


def probe(used: Probe, calibration: Calibration) -> schemas.ProbeOut:
    """The face used and the number of faces found."""
    norm = numbers.shown_beside(used.norm, calibration.quality.limit, numbers.NORM_DIGITS)
    return schemas.ProbeOut(faces_detected=used.faces_detected, face=face(used.face), embedding_norm=norm)


def candidate(
    found: Candidate, probe: Probe, policy: DecisionPolicy, *, shown_by: DecisionPolicy | None = None
) -> schemas.CandidateOut:
    """A candidate with its own decision; who it is only if it matches by ``shown_by``, too, where there is one."""
    pair = compared(probe, found)
    decision = policy.threshold_decision(pair)
    threshold = policy.threshold(pair)
    distance = numbers.distance_shown(found.distance, threshold)
    shown = shown_by is None or decision == shown_by.threshold_decision(pair) == "match"
    return schemas.CandidateOut(
        subject_id=found.subject_id if shown else None,
        template_id=found.template_id if shown else None,
        templates=found.templates,
        distance=distance,
        similarity=numbers.similarity_shown(distance),
        threshold=threshold,
        crowding=pair.crowding,
        false_match_rate=_rate(policy, pair),
        worst_group=_worst(policy, pair),
        decision=decision,
        metadata=dict(found.metadata) if shown else None,
    )


def _rate(policy: DecisionPolicy, pair: Comparison) -> RateOut | None:
    rate = rate_at(policy.calibration, pair.adjusted, pair.templates)
    return None if rate is None else RateOut(**_numbers(rate))


def _worst(policy: DecisionPolicy, pair: Comparison) -> WorstGroupOut | None:
    return worst_group(worst_rate_at(policy.calibration, pair.adjusted, pair.templates))


def worst_group(rate: RateAtDistance | None) -> WorstGroupOut | None:
    """The rate in the group where it is highest; None without groups."""
    return None if rate is None or rate.group is None else WorstGroupOut(group=rate.group, **_numbers(rate))


def _numbers(rate: RateAtDistance) -> dict[str, Any]:
    found = rate.estimate
    return {"value": found.value, "low": found.low, "high": found.high, "at_most": rate.at_most}


def _criterion(policy: DecisionPolicy, templates: int) -> CriterionOut:
    wanted = policy.criterion
    rated = wanted.kind is not CriterionKind.MAX_DISTANCE
    return CriterionOut(
        kind=wanted.kind,
        value=wanted.value,
        set_by=wanted.set_by,
        claim=wanted.claim if rated else None,
        bound_by=policy.bound(templates).group,
        met=policy.met,
    )


def operating_point(policy: DecisionPolicy, templates: int) -> OperatingPointWithGroup | None:
    """The rates at the threshold for this number of templates; None beyond the measured range."""
    point, rate = policy.operating_point(templates), policy.rate(templates)
    if point is None or rate is None:
        return None
    return OperatingPointWithGroup(
        threshold=point.threshold,
        false_match_rate=RateOut(**_numbers(rate)),
        false_non_match_rate=EstimateOut.model_validate(point.false_non_match_rate),
        worst_group=worst_group(policy.worst_rate(templates)),
    )


def _points(curve: TemplateCurve | Group) -> list[dict[str, Any]]:
    """The points of a curve; those beyond its strictest measured threshold have its rate or a lower one."""
    last = curve.strictest.threshold
    return [
        {
            "threshold": point.threshold,
            "false_match_rate": point.false_match_rate.model_dump() | {"at_most": point.threshold < last},
            "false_non_match_rate": point.false_non_match_rate,
        }
        for point in curve.operating_points
    ]


def _group(found: Group) -> GroupOut:
    shown = found.model_dump(exclude={"operating_points"})
    return GroupOut.model_validate(
        shown | {"operating_points": _points(found), "smallest_supported": found.smallest_supported}
    )


def merged(result: Merger, duplicate: str) -> schemas.Merged:
    """A merger, with the id of who is gone."""
    return schemas.Merged(
        subject=schemas.SubjectOut.model_validate(result.subject),
        duplicate=duplicate,
        template_ids=list(result.template_ids),
        distance=numbers.distance_shown(result.distance, result.threshold),
        threshold=result.threshold,
    )


def versions(encoder: EncoderInfo, calibration: Calibration) -> dict[str, str]:
    """The encoder and calibration versions in every answer."""
    return {
        "encoder_version": f"{encoder.name}-{encoder.version}-{encoder.sha256[:8]}",
        "calibration_version": calibration.version,
    }


def enrolment(
    result: Enrolment, encoder: EncoderInfo, calibration: Calibration, *, duplicates: bool = True
) -> schemas.EnrollResponse:
    """The answer to ``/enroll``; unless ``duplicates``, it says that there are some and not who they are."""
    return schemas.EnrollResponse(
        subject_id=result.subject.id,
        collection=result.subject.collection,
        template_count=len(result.subject.templates),
        templates=[
            schemas.EnrolledOut(image=e.index, template_id=e.template_id, probe=probe(e.probe, calibration))
            for e in result.enrolled
        ],
        failures=[
            schemas.FailureOut(image=r.index, code=r.error.code, detail=r.error.message) for r in result.rejected
        ],
        possible_duplicate=bool(result.possible_duplicates),
        possible_duplicates=[candidate(c, p, result.policy) for c, p in result.possible_duplicates if duplicates],
        **versions(encoder, calibration),
    )


def verification(result: Verification, encoder: EncoderInfo, calibration: Calibration) -> schemas.VerifyResponse:
    """The answer to ``/verify``."""
    found, pair = result.candidate, result.compared
    threshold = result.policy.threshold(pair)
    distance = numbers.distance_shown(pair.distance, threshold)
    return schemas.VerifyResponse(
        decision=result.outcome.decision,
        reason=result.outcome.reason,
        distance=distance,
        similarity=numbers.similarity_shown(distance),
        threshold=threshold,
        crowding=pair.crowding,
        criterion=_criterion(result.policy, pair.templates),
        false_match_rate=_rate(result.policy, pair),
        worst_group=_worst(result.policy, pair),
        operating_point=operating_point(result.policy, pair.templates),
        subject_id=found.subject_id if found else None,
        template_id=found.template_id if found else None,
        templates=pair.templates,
        probe=probe(result.probe, calibration),
        reference=probe(result.reference, calibration) if result.reference else None,
        **versions(encoder, calibration),
    )


def _identified(
    result: FaceIdentification, policy: DecisionPolicy, shown_by: DecisionPolicy | None
) -> schemas.IdentifiedFace:
    return schemas.IdentifiedFace(
        decision=result.outcome.decision,
        reason=result.outcome.reason,
        probe=probe(result.probe, policy.calibration),
        candidates=[candidate(c, result.probe, policy, shown_by=shown_by) for c in result.candidates],
    )


def identification(
    result: Identification,
    encoder: EncoderInfo,
    calibration: Calibration,
    *,
    shown_by: DecisionPolicy | None = None,
) -> schemas.IdentifyResponse:
    """The answer to ``/identify``; with ``shown_by``, it says only who those are that match by that policy, too."""
    policy = result.policy
    faces = [_identified(f, policy, shown_by) for f in result.faces]
    first = faces[0]
    nearest = first.candidates[0] if first.candidates else None
    templates = nearest.templates if nearest else 1
    return schemas.IdentifyResponse(
        decision=first.decision,
        subject_id=nearest.subject_id if nearest and first.decision == "match" else None,
        distance=nearest.distance if nearest else None,
        similarity=nearest.similarity if nearest else None,
        threshold=nearest.threshold if nearest else policy.bound(templates).threshold,
        criterion=_criterion(policy, templates),
        operating_point=operating_point(policy, templates),
        gallery_subjects=policy.subjects or 0,
        false_positive_identification_rate=policy.false_positive_identification_rate(),
        false_positive_identification_rate_at_most=policy.identification_rate_at_most(),
        margin=_margin(result.faces[0].margin, calibration),
        reason="empty_gallery" if result.reason else first.reason,
        probe=first.probe,
        candidates=first.candidates,
        faces=faces,
        **versions(encoder, calibration),
    )


def _margin(margin: float | None, calibration: Calibration) -> float | None:
    return None if margin is None else numbers.shown_beside(margin, calibration.margin.limit, numbers.DISTANCE_DIGITS)


def collection(found: Collection) -> schemas.CollectionOut:
    """A collection."""
    return schemas.CollectionOut(
        id=found.id,
        created_at=found.created_at,
        subjects=found.subjects,
        templates=found.templates,
        target_fmr=found.targets.fmr,
        target_fpir=found.targets.fpir,
        claim=None if found.targets.claim is None else Claim(found.targets.claim),
        keep_chips=found.keep_chips,
        chips=found.chips,
    )


def model(encoder: EncoderInfo, criteria: Criteria) -> schemas.ModelResponse:
    """The answer to ``/model``."""
    table = criteria.calibration
    point = operating_point(criteria.default_policy(), 1)
    assert point is not None
    return schemas.ModelResponse(
        encoder=schemas.EncoderOut.model_validate(encoder),
        calibration_version=table.version,
        target_fmr=criteria.target_fmr,
        target_fpir=criteria.target_fpir,
        claim=criteria.claim,
        smallest_supported_fmr=table.smallest_supported(criteria.claim, table.most_templates),
        weak_below=table.quality.limit,
        ambiguous_below=table.margin.limit,
        most_templates=table.most_templates,
        operating_point=point,
        operating_points=[OperatingPointOut.model_validate(p) for p in _points(table.curves[0])],
        groups=[_group(g) for g in table.groups],
        cohort_sha256=table.cohort_sha256,
    )
