"""What the service answers, as frozen dataclasses; fields that a later service adds are left out.

Names that the service chooses from a list have a type here. A later service may know more of them: they are passed on.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")

Decision = Literal["match", "no_match", "inconclusive"]
Reason = Literal["weak_probe", "weak_reference", "ambiguous_subjects", "ambiguous_face"]
"""Why a decision is inconclusive."""
Issue = Literal["face_too_small", "blurred", "too_dark", "too_bright", "low_contrast", "extreme_pose"]
"""Why a face is too poor to be enrolled."""
Claim = Literal["every_group", "pooled"]
"""For whom a rate is claimed."""
CriterionKind = Literal["target_fmr", "target_fpir", "max_distance"]
CriterionSource = Literal["request", "collection", "server"]
AuditStatus = Literal["waiting", "running", "done", "failed", "interrupted"]
Population = Literal["as_measured", "harder", "easier", "too_few"]
"""How the people of a collection compare with those that were measured."""

MATCH: Decision = "match"
INCONCLUSIVE: Decision = "inconclusive"


class _Decided:
    """What has a decision."""

    decision: Decision

    @property
    def matched(self) -> bool:
        """Whether the decision is a match; False also for an inconclusive one."""
        return self.decision == MATCH

    @property
    def inconclusive(self) -> bool:
        """Whether the service could not decide; ``reason`` says why."""
        return self.decision == INCONCLUSIVE


@dataclass(frozen=True)
class Box:
    """Pixels of the photograph, turned as its EXIF says."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Landmarks:
    """x and y in pixels; left and right as the viewer sees them."""

    left_eye: tuple[float, ...]
    right_eye: tuple[float, ...]
    nose: tuple[float, ...]
    left_mouth: tuple[float, ...]
    right_mouth: tuple[float, ...]


@dataclass(frozen=True)
class Quality:
    """Measures of a face; ``issues`` names those outside their limits."""

    eye_distance: float
    sharpness: float
    brightness: float
    contrast: float
    yaw: float
    roll: float
    issues: tuple[Issue, ...]


@dataclass(frozen=True)
class Face:
    """One face of a photograph.

    ``turned``: 0, or by how many degrees, clockwise, the photograph had to be turned to be upright; box and landmarks
    are in the photograph as it was sent.
    """

    turned: int
    box: Box
    landmarks: Landmarks
    confidence: float
    quality: Quality


@dataclass(frozen=True)
class Probe:
    """How many faces the photograph shows and which one was used."""

    faces_detected: int
    face: Face
    embedding_norm: float


@dataclass(frozen=True)
class Detection:
    """All faces, largest first; width and height of the photograph in pixels, turned as its EXIF says."""

    width: int
    height: int
    faces: tuple[Face, ...]


@dataclass(frozen=True)
class Estimate:
    """A measured rate, 0..1, and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Rate(Estimate):
    """The false match rate at a distance or a threshold; ``at_most``: this or lower."""

    at_most: bool


@dataclass(frozen=True)
class WorstGroup(Rate):
    """The false match rate in the measured group of people where it is highest."""

    group: str


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and the error rates measured at it."""

    threshold: float
    false_match_rate: Rate
    false_non_match_rate: Estimate | None
    worst_group: WorstGroup | None = None


@dataclass(frozen=True)
class Criterion:
    """What the threshold follows from."""

    kind: CriterionKind
    value: float
    set_by: CriterionSource
    claim: Claim | None
    bound_by: str | None
    met: bool


@dataclass(frozen=True)
class Candidate(_Decided):
    """A subject compared with the probe; its id is None for keys that may not see it."""

    subject_id: str | None
    template_id: str | None
    templates: int
    distance: float
    similarity: float
    threshold: float
    crowding: float
    false_match_rate: Rate | None
    worst_group: WorstGroup | None
    decision: Decision
    metadata: dict[str, Any] | None


@dataclass(frozen=True)
class EnrolledTemplate:
    """The template made from one photograph; ``image`` is its index in the request, from 0."""

    image: int
    template_id: str
    probe: Probe


@dataclass(frozen=True)
class Failure:
    """Why a photograph gave no template."""

    image: int
    code: str
    detail: str


@dataclass(frozen=True)
class Enrolment:
    """What was stored, what was not, and which other subjects match."""

    subject_id: str
    collection: str
    template_count: int
    templates: tuple[EnrolledTemplate, ...]
    failures: tuple[Failure, ...]
    possible_duplicate: bool
    possible_duplicates: tuple[Candidate, ...]
    encoder_version: str
    calibration_version: str


@dataclass(frozen=True)
class Verification(_Decided):
    """The outcome of a 1:1 comparison."""

    decision: Decision
    reason: Reason | None
    distance: float
    similarity: float
    threshold: float
    crowding: float
    criterion: Criterion
    false_match_rate: Rate | None
    worst_group: WorstGroup | None
    operating_point: OperatingPoint | None
    subject_id: str | None
    template_id: str | None
    templates: int
    probe: Probe
    reference: Probe | None
    encoder_version: str
    calibration_version: str


@dataclass(frozen=True)
class IdentifiedFace(_Decided):
    """The search result for one face."""

    decision: Decision
    reason: Reason | None
    probe: Probe
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Identification(_Decided):
    """The outcome of a 1:N search, for the face with the best candidate; ``faces`` has all."""

    decision: Decision
    subject_id: str | None
    distance: float | None
    similarity: float | None
    threshold: float
    criterion: Criterion
    operating_point: OperatingPoint | None
    gallery_subjects: int
    false_positive_identification_rate: float | None
    false_positive_identification_rate_at_most: bool | None
    margin: float | None
    reason: Reason | Literal["empty_gallery"] | None
    probe: Probe
    candidates: tuple[Candidate, ...]
    faces: tuple[IdentifiedFace, ...]
    encoder_version: str
    calibration_version: str


@dataclass(frozen=True)
class Template:
    """A stored template; ``chip``: whether its aligned face is kept."""

    id: str
    created_at: datetime
    embedding_norm: float
    chip: bool


@dataclass(frozen=True)
class Subject:
    """An enrolled person."""

    id: str
    collection: str
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    templates: tuple[Template, ...]


@dataclass(frozen=True)
class Merger:
    """A subject with the templates of its duplicate, whose ids are ``template_ids``, and how far apart the two were."""

    subject: Subject
    duplicate: str
    template_ids: tuple[str, ...]
    distance: float
    threshold: float


@dataclass(frozen=True)
class SubjectPage:
    """Subjects, ordered by id; ``next_cursor`` is None on the last page."""

    subjects: tuple[Subject, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class Collection:
    """An isolated set of subjects; targets that are None are the service's."""

    id: str
    created_at: datetime
    subjects: int
    templates: int
    target_fmr: float | None
    target_fpir: float | None
    claim: Claim | None
    keep_chips: bool
    chips: int


@dataclass(frozen=True)
class CollectionList:
    """All collections that the key may use."""

    collections: tuple[Collection, ...]


@dataclass(frozen=True)
class Erasure:
    """The number of templates erased, and the record in the audit trail that proves it."""

    templates: int
    receipt: str | None


@dataclass(frozen=True)
class SubjectPair:
    """Two subjects, how far apart they are, and how often at most two different people are as near.

    distance: squared, from the newest template of the one with fewer to the fused templates of the other.
    false_match_rate: None beyond 50 %.
    """

    first: str
    second: str
    distance: float
    false_match_rate: float | None


@dataclass(frozen=True)
class Outlier:
    """A template that does not match the rest of its subject."""

    subject_id: str
    template_id: str
    distance: float
    threshold: float


@dataclass(frozen=True)
class WeakTemplate:
    """A template whose embedding has a small norm."""

    subject_id: str
    template_id: str
    norm: float


@dataclass(frozen=True)
class RateCheck:
    """At one threshold: the calibrated false match rate and the share of the collection's own pairs within it."""

    threshold: float
    calibrated: Estimate
    observed: Estimate
    pairs: int


@dataclass(frozen=True)
class AuditReport:
    """The findings of an audit. Lists hold the most notable ones; counts cover all."""

    created_at: datetime
    subjects: int
    templates: int
    population: Population
    duplicate_count: int
    duplicates: tuple[SubjectPair, ...]
    confusable: tuple[SubjectPair, ...]
    outlier_count: int
    outliers: tuple[Outlier, ...]
    weak_count: int
    weak: tuple[WeakTemplate, ...]
    compared_subjects: int
    rates: tuple[RateCheck, ...]


@dataclass(frozen=True)
class Audit:
    """The last audit of a collection; ``report`` is None until ``status`` is ``done``."""

    collection: str
    status: AuditStatus
    started_at: datetime
    progress: float
    report: AuditReport | None
    error: str | None


@dataclass(frozen=True)
class Encoder:
    """The encoder in use."""

    name: str
    version: str
    sha256: str
    runtime: Literal["openvino", "onnxruntime"]
    precision: Literal["auto", "f32", "bf16", "int8"]
    device: str


@dataclass(frozen=True)
class Group:
    """Rates among people of one kind, compared only with each other."""

    name: str
    definition: str
    claimed: bool
    part_of: str | None
    subjects: int
    faces: int
    smallest_supported_fmr: float
    operating_points: tuple[OperatingPoint, ...]


@dataclass(frozen=True)
class Model:
    """Encoder, calibration and the operating points in force."""

    encoder: Encoder
    calibration_version: str
    target_fmr: float
    target_fpir: float
    claim: Claim
    smallest_supported_fmr: float
    weak_below: float
    ambiguous_below: float
    most_templates: int
    operating_point: OperatingPoint
    operating_points: tuple[OperatingPoint, ...]
    groups: tuple[Group, ...]
    cohort_sha256: str | None


@dataclass(frozen=True)
class Health:
    """Whether the service, or each part of it, works."""

    status: Literal["ok"]
    checks: dict[str, Any]


def parsed(kind: type[T], value: Any) -> T:
    """A result from JSON. Raises KeyError, TypeError, ValueError if the JSON is none."""
    result: T = _value(kind, value)
    return result


def _value(kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {Union, types.UnionType}:
        inner = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else _value(inner, value)
    if origin is tuple:
        return tuple(_value(arguments[0], item) for item in value)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value)
    if kind is datetime:
        return datetime.fromisoformat(value)
    return value


def _dataclass(kind: Any, value: dict[str, Any]) -> Any:
    hints, given = _hints(kind), {}
    for field in dataclasses.fields(kind):
        if field.name in value or field.default is dataclasses.MISSING:
            given[field.name] = _value(hints[field.name], value[field.name])
    return kind(**given)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
