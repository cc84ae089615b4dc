"""Schemas of ``/enroll``, ``/verify`` and ``/identify``. Requests have the same fields as multipart and as JSON."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from app.api import examples
from app.api.schemas import numbers
from app.api.schemas.common import Identifier, Image, Images, Integer, Metadata, RequestModel
from app.api.schemas.decisions import (
    CROWDING,
    RATE_HERE,
    WORST_HERE,
    CriterionOut,
    OperatingPointWithGroup,
    Rate,
    RateOut,
    ThresholdChoice,
    WorstGroupOut,
)
from app.api.schemas.faces import ProbeOut
from app.decisions import Decision, Reason
from app.faces import FORMATS, FacePolicy
from app.gallery import DEFAULT_COLLECTION, OnConflict

MAX_TOP_K = 100


class _Request(RequestModel):
    collection: Identifier = DEFAULT_COLLECTION


class EnrollRequest(_Request):
    """One subject and one or more photographs of them."""

    model_config = examples.config(examples.ENROLL_REQUEST)

    image: Images
    subject_id: Identifier | None = Field(default=None, description="generated if left out")
    metadata: Metadata | None = Field(
        default=None, description="a JSON object kept with the subject; replaces the old one"
    )
    face_policy: FacePolicy = Field(
        default=FacePolicy.DOMINANT,
        description="dominant (an error unless one face is clearly larger than all others), single (an error if there "
        "is more than one) or largest",
    )
    on_conflict: OnConflict = Field(default=OnConflict.APPEND, description="what to do if the subject exists")
    report_duplicates: bool | None = Field(
        default=None, description="look for the same face under other subjects; the service's setting if left out"
    )

    @model_validator(mode="after")
    def _somebody_to_replace(self) -> Self:
        if self.on_conflict is OnConflict.REPLACE and self.subject_id is None:
            # A new id would be made up, and what should have been replaced would go on matching.
            raise ValueError("on_conflict replace needs the subject_id of who is replaced")
        return self


class VerifyRequest(_Request, ThresholdChoice):
    """A photograph with either a second photograph or an enrolled subject."""

    model_config = examples.config(examples.VERIFY_REQUEST, examples.VERIFY_SUBJECT_REQUEST)

    image: Image
    reference: Image | None = Field(default=None, description=f"a second photograph to compare with: {FORMATS}")
    subject_id: Identifier | None = None
    face_policy: FacePolicy = Field(
        default=FacePolicy.LARGEST,
        description="which face is meant; with all, the nearest pair of faces decides, and the pairs share the target: "
        "of n, each has to keep the nth part",
    )
    target_fmr: Rate | None = Field(
        default=None,
        description="highest acceptable false match rate; the collection's or the service's setting if left out",
    )

    @model_validator(mode="after")
    def _one_reference(self) -> Self:
        if (self.reference is None) == (self.subject_id is None):
            raise ValueError("give either reference or subject_id")
        return self


class IdentifyRequest(_Request, ThresholdChoice):
    """A photograph to search a collection with."""

    model_config = examples.config(examples.IDENTIFY_REQUEST)

    image: Image
    top_k: Integer = Field(default=5, ge=1, le=MAX_TOP_K, description="maximum number of candidates to return")
    face_policy: FacePolicy = Field(
        default=FacePolicy.LARGEST, description="which face is meant; with all, each is a search of its own"
    )
    target_fpir: Rate | None = Field(
        default=None,
        description="highest acceptable FPIR; the collection's or the service's setting if left out",
    )


class Versions(BaseModel):
    """The versions that made the decision."""

    encoder_version: str
    calibration_version: str


class EnrolledOut(BaseModel):
    """The template made from one photograph (``image``: its index in the request, from 0)."""

    image: int
    template_id: str
    probe: ProbeOut


class FailureOut(BaseModel):
    """Why a photograph gave no template."""

    image: int
    code: str
    detail: str


class CandidateOut(BaseModel):
    """A subject compared with the probe."""

    subject_id: str | None = Field(
        description="null for a candidate that does not match, unless the key may read subjects"
    )
    template_id: str | None = Field(description="the nearest of its templates; null where subject_id is")
    templates: int = Field(description="how many templates were compared; the distance is to their mean direction")
    distance: float = Field(description="squared L2 of unit vectors, 0..4")
    similarity: float = Field(description="cosine: 1 - distance / 2")
    threshold: numbers.Threshold = Field(description="a distance up to this is a match, for these two faces")
    crowding: numbers.Distance = Field(description=CROWDING)
    false_match_rate: RateOut | None = Field(description=f"of one comparison {RATE_HERE}")
    worst_group: WorstGroupOut | None = Field(description=WORST_HERE)
    decision: Decision
    metadata: dict[str, Any] | None = Field(description="null where subject_id is")


class EnrollResponse(BaseModel):
    """What was stored, what was not, and which other subjects match."""

    model_config = examples.config(examples.ENROLL)

    subject_id: str
    collection: str
    template_count: int = Field(description="number of templates the subject has now")
    templates: list[EnrolledOut]
    failures: list[FailureOut]
    possible_duplicate: bool = Field(description="another subject is within the threshold")
    possible_duplicates: list[CandidateOut]
    encoder_version: str
    calibration_version: str


class VerifyResponse(Versions):
    """The outcome of a 1:1 comparison."""

    model_config = examples.config(examples.VERIFY)

    decision: Decision
    reason: Reason | None = Field(description="of an inconclusive decision")
    distance: float = Field(description="squared L2 of unit vectors, 0..4")
    similarity: float = Field(description="cosine: 1 - distance / 2")
    threshold: numbers.Threshold = Field(description="a distance up to this is a match, for these two faces")
    crowding: numbers.Distance = Field(description=CROWDING)
    criterion: CriterionOut
    false_match_rate: RateOut | None = Field(description=RATE_HERE)
    worst_group: WorstGroupOut | None = Field(description=WORST_HERE)
    operating_point: OperatingPointWithGroup | None = Field(
        description="null for a max_distance beyond the measured range"
    )
    subject_id: str | None
    template_id: str | None = Field(description="the subject's nearest template")
    templates: int = Field(description="number of templates, or photographs, in the reference")
    probe: ProbeOut
    reference: ProbeOut | None


class IdentifiedFace(BaseModel):
    """The search result for one face."""

    decision: Decision
    reason: Reason | None = Field(description="of an inconclusive decision")
    probe: ProbeOut
    candidates: list[CandidateOut]


class IdentifyResponse(Versions):
    """The outcome of a 1:N search. Top-level members are for the face with the best candidate; ``faces`` has all."""

    model_config = examples.config(examples.IDENTIFY)

    decision: Decision
    subject_id: str | None = Field(description="the best candidate's, if it is a match")
    distance: float | None
    similarity: float | None
    threshold: numbers.Threshold = Field(description="the best candidate's")
    criterion: CriterionOut
    operating_point: OperatingPointWithGroup | None
    gallery_subjects: int = Field(description="number of subjects searched; the threshold is chosen for it")
    false_positive_identification_rate: numbers.Rate | None = Field(
        description="of a non-mated search among `gallery_subjects`; in the worst group if every_group is claimed; "
        "null where it is unknown"
    )
    false_positive_identification_rate_at_most: bool | None = Field(
        description="whether it is that or lower, for the threshold is smaller than any that could be measured"
    )
    margin: float | None = Field(
        description="how much farther the next candidate is than the best, crowding included, or, where the best "
        "matches, how much farther within its threshold the best is; null without a second"
    )
    reason: Reason | Literal["empty_gallery"] | None = Field(
        description="of an inconclusive decision, or why there are no candidates"
    )
    probe: ProbeOut
    candidates: list[CandidateOut] = Field(
        description="one per subject: those within their thresholds first, which are stricter for subjects of many "
        "templates, the farthest within first; then by distance plus crowding"
    )
    faces: list[IdentifiedFace]
