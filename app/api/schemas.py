"""What goes over the wire. Requests are the same as multipart fields and as JSON."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from app.api import examples
from app.api.decision_schemas import (
    CriterionOut,
    GroupOut,
    OperatingPointOut,
    Rate,
    RateOut,
    ThresholdChoice,
    WorstGroupOut,
)
from app.decisions import Claim, Decision, Reason
from app.encoding import Precision, RuntimeName
from app.faces import FacePolicy
from app.gallery import DEFAULT_COLLECTION, OnConflict, Targets

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@:+~-]{0,127}$"
MAX_TOP_K = 100


def _decode_image(value: object) -> object:
    """Bytes of a file pass; text is base64, with or without a ``data:`` prefix."""
    if not isinstance(value, str):
        return value
    text = value.partition(";base64,")[2] or "?" if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("an image in JSON is base64; in a form it is a file") from error


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


Identifier = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
Image = Annotated[
    bytes,
    BeforeValidator(_decode_image),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "a JPEG, PNG or WebP"}),
]
Images = Annotated[
    list[Image],
    Field(min_length=1),
    BeforeValidator(_as_list),
    WithJsonSchema(
        {
            "oneOf": [
                {"type": "string", "contentEncoding": "base64"},
                {"type": "array", "minItems": 1, "items": {"type": "string", "contentEncoding": "base64"}},
            ],
            "description": "one or more photographs of the subject",
        }
    ),
]
Metadata = dict[str, JsonValue]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Request(_Body):
    collection: Identifier = DEFAULT_COLLECTION


class EnrollRequest(_Request):
    """One subject and one or more photographs of it."""

    model_config = examples.config(examples.ENROLL_REQUEST)

    image: Images
    subject_id: Identifier | None = Field(default=None, description="generated if left out")
    metadata: Metadata | None = Field(
        default=None, description="a JSON object kept with the subject; replaces the old one"
    )
    face_policy: FacePolicy = Field(default=FacePolicy.SINGLE, description="single or largest")
    on_conflict: OnConflict = Field(default=OnConflict.APPEND, description="what to do if the subject exists")
    report_duplicates: bool | None = Field(
        default=None, description="look for the same face under other subjects; the service's setting if left out"
    )


class VerifyRequest(_Request, ThresholdChoice):
    """A photograph with either a second photograph or an enrolled subject."""

    model_config = examples.config(examples.VERIFY_REQUEST)

    image: Image
    reference: Image | None = None
    subject_id: Identifier | None = None
    face_policy: FacePolicy = FacePolicy.LARGEST
    target_fmr: Rate | None = Field(
        default=None, description="highest false match rate put up with; the service's setting if left out"
    )

    @model_validator(mode="after")
    def _one_reference(self) -> Self:
        if (self.reference is None) == (self.subject_id is None):
            raise ValueError("give either reference or subject_id")
        return self


class IdentifyRequest(_Request, ThresholdChoice):
    """A photograph to be searched for in a collection."""

    model_config = examples.config(examples.IDENTIFY_REQUEST)

    image: Image
    top_k: int = Field(default=5, ge=1, le=MAX_TOP_K, description="most candidates to return")
    face_policy: FacePolicy = FacePolicy.LARGEST
    target_fpir: Rate | None = Field(
        default=None,
        description="highest rate of strangers' searches that find somebody; the service's setting if left out",
    )


class DetectRequest(_Body):
    """A photograph to be looked at; nothing is stored or compared."""

    model_config = examples.config(examples.DETECT_REQUEST)

    image: Image


class SubjectUpdate(_Body):
    """What can be changed of a subject."""

    model_config = examples.config(examples.SUBJECT_UPDATE)

    metadata: Metadata = Field(description="replaces the stored metadata")


class CollectionUpdate(_Body):
    """What a match is in a collection where a request does not say; null leaves it to the service."""

    model_config = examples.config(examples.COLLECTION_UPDATE)

    target_fmr: Rate | None = Field(default=None, description="false match rate of /verify")
    target_fpir: Rate | None = Field(default=None, description="false positive identification rate of /identify")
    claim: Claim | None = Field(default=None, description="for whom these rates are promised")

    def targets(self) -> Targets:
        """The same for the service."""
        return Targets(self.target_fmr, self.target_fpir, self.claim and self.claim.value)


class NewCollection(CollectionUpdate):
    """A collection to be created."""

    model_config = examples.config(examples.NEW_COLLECTION)

    id: Identifier


REQUESTS = (
    EnrollRequest,
    VerifyRequest,
    IdentifyRequest,
    DetectRequest,
    SubjectUpdate,
    NewCollection,
    CollectionUpdate,
)


class _FromAttributes(BaseModel):
    model_config = ConfigDict(from_attributes=True)


Rounded = Annotated[float, AfterValidator(lambda value: round(value, 2))]


class BoxOut(_FromAttributes):
    """Pixels of the upright photograph; of a face at its border, the box may reach beyond it."""

    x: Rounded
    y: Rounded
    width: Rounded
    height: Rounded


class LandmarksOut(BaseModel):
    """x and y in pixels, beyond the photograph where the face is cut off; left and right as seen in the picture."""

    left_eye: tuple[Rounded, Rounded]
    right_eye: tuple[Rounded, Rounded]
    nose: tuple[Rounded, Rounded]
    left_mouth: tuple[Rounded, Rounded]
    right_mouth: tuple[Rounded, Rounded]


class QualityOut(_FromAttributes):
    """Measures of a face; ``issues`` names those outside their limits."""

    eye_distance: Rounded = Field(description="pixels between the eyes in the photograph")
    sharpness: Rounded = Field(description="variance of the Laplacian of the aligned face")
    brightness: Rounded = Field(description="mean grey level, 0..255")
    contrast: Rounded = Field(description="standard deviation of the grey levels")
    yaw: Rounded = Field(description="offset of the nose from the middle of the eyes, in eye distances; 0 is frontal")
    roll: Rounded = Field(description="inclination of the eyes, degrees")
    issues: list[str]


class FaceOut(BaseModel):
    """One face of a photograph."""

    box: BoxOut
    landmarks: LandmarksOut
    confidence: float = Field(description="the detector's, 0..1")
    quality: QualityOut


class ProbeOut(BaseModel):
    """How many faces the photograph shows and which one was used."""

    faces_detected: int
    face: FaceOut
    embedding_norm: float = Field(
        description="the less the encoder recognises in a face the shorter; below the limit in /model it is weak"
    )


class Versions(BaseModel):
    """What made the decision."""

    encoder_version: str
    calibration_version: str


class TemplateOut(_FromAttributes):
    """A stored template."""

    id: str
    created_at: datetime


class SubjectOut(_FromAttributes):
    """An enrolled person."""

    model_config = examples.config(examples.SUBJECT)

    id: str
    collection: str
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    templates: list[TemplateOut]


class SubjectPage(BaseModel):
    """Subjects by id; ask again with ``next_cursor`` until it is null."""

    model_config = examples.config(examples.SUBJECT_PAGE)

    subjects: list[SubjectOut]
    next_cursor: str | None


class EnrolledOut(BaseModel):
    """The template made from one photograph (``image``: its place in the request, from 0)."""

    image: int
    template_id: str
    probe: ProbeOut


class FailureOut(BaseModel):
    """Why a photograph gave no template."""

    image: int
    code: str
    detail: str


CROWDING = (
    "how much the threshold is below the usual one because both faces lie where many look alike (above it, if negative)"
)


class OperatingPointWithGroup(OperatingPointOut):
    """A threshold, its error rates, and the false match rate in the group of people where it is highest."""

    worst_group: WorstGroupOut | None = Field(description="null where no groups were measured")


class CandidateOut(BaseModel):
    """A subject as it compares with the probe."""

    subject_id: str
    template_id: str = Field(description="the nearest of its templates")
    templates: int = Field(description="so many templates stand for it; the distance is that of their mean direction")
    distance: float = Field(description="squared L2 of unit vectors, 0..4")
    similarity: float = Field(description="cosine: 1 - distance / 2")
    threshold: float = Field(description="a distance up to this is a match, for these two faces")
    crowding: float = Field(description=CROWDING)
    false_match_rate: RateOut | None = Field(
        description="of one comparison at this very distance, over all pairs; null beyond 50 %"
    )
    worst_group: WorstGroupOut | None = Field(description="the same in the group of people where it is highest")
    decision: Decision
    metadata: dict[str, Any]


class EnrollResponse(BaseModel):
    """What was stored, what was not, and who looks the same."""

    model_config = examples.config(examples.ENROLL)

    subject_id: str
    collection: str
    template_count: int = Field(description="templates of the subject now")
    templates: list[EnrolledOut]
    failures: list[FailureOut]
    possible_duplicate: bool = Field(description="another subject is within the threshold")
    possible_duplicates: list[CandidateOut]
    encoder_version: str
    calibration_version: str


class VerifyResponse(Versions):
    """Is this that person?"""

    model_config = examples.config(examples.VERIFY)

    decision: Decision
    reason: Reason | None = Field(description="of an inconclusive decision")
    distance: float = Field(description="squared L2 of unit vectors, 0..4")
    similarity: float = Field(description="cosine: 1 - distance / 2")
    threshold: float = Field(description="a distance up to this is a match, for these two faces")
    crowding: float = Field(description=CROWDING)
    criterion: CriterionOut
    false_match_rate: RateOut | None = Field(description="at this very distance, over all pairs; null beyond 50 %")
    worst_group: WorstGroupOut | None = Field(description="the same in the group of people where it is highest")
    operating_point: OperatingPointWithGroup | None = Field(
        description="null for a max_distance beyond all that was measured"
    )
    subject_id: str | None
    template_id: str | None = Field(description="the subject's nearest template")
    templates: int = Field(description="so many templates or photographs stand for the reference")
    probe: ProbeOut
    reference: ProbeOut | None


class IdentifiedFace(BaseModel):
    """Who one face may be."""

    decision: Decision
    reason: Reason | None = Field(description="of an inconclusive decision")
    probe: ProbeOut
    candidates: list[CandidateOut]


class IdentifyResponse(Versions):
    """Who is this? The first members are about the face with the nearest candidate; ``faces`` has every face used."""

    model_config = examples.config(examples.IDENTIFY)

    decision: Decision
    subject_id: str | None = Field(description="the best candidate's, if it is a match")
    distance: float | None
    similarity: float | None
    threshold: float = Field(description="the best candidate's")
    criterion: CriterionOut
    operating_point: OperatingPointWithGroup | None
    gallery_subjects: int = Field(description="subjects that were searched, for which the threshold was chosen")
    false_positive_identification_rate: float | None = Field(
        description="of a search by a stranger among so many, in the group where it is highest if that is claimed; "
        "null where it cannot be told"
    )
    margin: float | None = Field(
        description="distance from the best candidate to the next, crowding included; null without a second"
    )
    reason: Reason | Literal["empty_gallery"] | None = Field(
        description="of an inconclusive decision, or why there are no candidates"
    )
    probe: ProbeOut
    candidates: list[CandidateOut] = Field(description="one a subject, by distance plus crowding, the smallest first")
    faces: list[IdentifiedFace]


class DetectResponse(BaseModel):
    """All faces, largest first; width and height of the upright photograph in pixels."""

    model_config = examples.config(examples.DETECT)

    width: int
    height: int
    faces: list[FaceOut]


class CollectionOut(BaseModel):
    """An isolated set of subjects."""

    model_config = examples.config(examples.COLLECTION)

    id: str
    created_at: datetime
    subjects: int
    templates: int
    target_fmr: float | None = Field(description="null: the service's")
    target_fpir: float | None = Field(description="null: the service's")
    claim: Claim | None = Field(description="null: the service's")


class CollectionList(BaseModel):
    """All collections by id."""

    model_config = examples.config(examples.COLLECTION_LIST)

    collections: list[CollectionOut]


class Erased(BaseModel):
    """How many templates were erased."""

    model_config = examples.config(examples.ERASED)

    templates: int


class Health(BaseModel):
    """The service, or each part of it, works."""

    model_config = examples.config(examples.HEALTH)

    status: Literal["ok"] = "ok"
    checks: dict[str, Literal["ok"]] = {}


class EncoderOut(_FromAttributes):
    """The encoder in use."""

    name: str
    version: str
    sha256: str
    runtime: RuntimeName
    precision: Precision
    device: str


class ModelResponse(BaseModel):
    """What decides: encoder, calibration and the operating point in force."""

    model_config = examples.config(examples.MODEL)

    encoder: EncoderOut
    calibration_version: str
    target_fmr: float = Field(description="of /verify where neither request nor collection says")
    target_fpir: float = Field(description="of /identify, likewise")
    claim: Claim = Field(description="for whom these rates are promised, likewise")
    smallest_supported_fmr: float = Field(description="with that claim")
    weak_below: float = Field(description="a face with a shorter embedding is weak")
    ambiguous_below: float = Field(description="two matching subjects with a smaller margin cannot be told apart")
    most_templates: int = Field(description="so many templates of a subject are compared, the newest")
    operating_point: OperatingPointWithGroup
    operating_points: list[OperatingPointOut] = Field(description="over all pairs, of subjects with one template")
    groups: list[GroupOut] = Field(description="groups of people, each compared within itself")
    cohort_sha256: str | None = Field(description="what crowding is measured against; null: nothing")
