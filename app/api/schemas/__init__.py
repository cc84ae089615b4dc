"""Request and response schemas, by resource."""

from app.api.schemas.audits import AuditOut, AuditReportOut
from app.api.schemas.common import ID_PATTERN
from app.api.schemas.faces import BoxOut, DetectRequest, DetectResponse, FaceOut, LandmarksOut, ProbeOut, QualityOut
from app.api.schemas.health import EncoderOut, Health, ModelResponse
from app.api.schemas.recognition import (
    CandidateOut,
    EnrolledOut,
    EnrollRequest,
    EnrollResponse,
    FailureOut,
    IdentifiedFace,
    IdentifyRequest,
    IdentifyResponse,
    VerifyRequest,
    VerifyResponse,
)
from app.api.schemas.records import (
    CollectionList,
    CollectionOut,
    CollectionUpdate,
    Erased,
    Merged,
    MergeRequest,
    NewCollection,
    SubjectOut,
    SubjectPage,
    SubjectUpdate,
)

FORMS = (EnrollRequest, VerifyRequest, IdentifyRequest, DetectRequest)
"""Request bodies with photographs: forms or JSON."""
REQUESTS = (*FORMS, SubjectUpdate, MergeRequest, NewCollection, CollectionUpdate)
"""All request bodies."""

__all__ = [
    "FORMS",
    "ID_PATTERN",
    "REQUESTS",
    "AuditOut",
    "AuditReportOut",
    "BoxOut",
    "CandidateOut",
    "CollectionList",
    "CollectionOut",
    "CollectionUpdate",
    "DetectRequest",
    "DetectResponse",
    "EncoderOut",
    "EnrollRequest",
    "EnrollResponse",
    "EnrolledOut",
    "Erased",
    "FaceOut",
    "FailureOut",
    "Health",
    "IdentifiedFace",
    "IdentifyRequest",
    "IdentifyResponse",
    "LandmarksOut",
    "MergeRequest",
    "Merged",
    "ModelResponse",
    "NewCollection",
    "ProbeOut",
    "QualityOut",
    "SubjectOut",
    "SubjectPage",
    "SubjectUpdate",
    "VerifyRequest",
    "VerifyResponse",
]
