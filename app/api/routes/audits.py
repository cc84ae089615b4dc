"""``/collections/{id}/audit``: a look over a whole collection, in the background."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from app.api import examples, schemas
from app.api.decision_schemas import EstimateOut
from app.api.dependencies import ComponentsDependency
from app.api.problems import RequestError, problems
from app.audits.jobs import AuditStatus
from app.audits.page import audit_page
from app.audits.report import Population

router = APIRouter(prefix="/collections/{collection}/audit", tags=["collections"])

CollectionId = Annotated[str, Path(pattern=schemas.ID_PATTERN)]
CODES = ("invalid_request", "collection_not_found", "gallery_unavailable")


class _FromAttributes(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class SubjectPairOut(_FromAttributes):
    """Two subjects and the squared distance between them."""

    first: str
    second: str
    distance: float
    false_match_rate: float | None = Field(description="how often different people are as near; null beyond 50 %")


class OutlierOut(_FromAttributes):
    """A template that the rest of its subject does not match."""

    subject_id: str
    template_id: str
    distance: float = Field(description="squared, to what the others are fused to")
    threshold: float


class WeakTemplateOut(_FromAttributes):
    """A template in which the encoder found little."""

    subject_id: str
    template_id: str
    norm: float


class RateCheckOut(_FromAttributes):
    """The false match rate as calibrated, and the share of the collection's own pairs, at one threshold."""

    threshold: float
    calibrated: EstimateOut
    observed: EstimateOut
    pairs: int


class AuditReportOut(_FromAttributes):
    """What was found. Lists hold the most telling ones, counts all of them."""

    created_at: datetime
    subjects: int
    templates: int
    population: Population = Field(description="whether these people are as far apart as those that were measured")
    duplicate_count: int
    duplicates: list[SubjectPairOut] = Field(description="within the default threshold: possibly enrolled twice")
    confusable: list[SubjectPairOut] = Field(description="the subjects most alike")
    outlier_count: int
    outliers: list[OutlierOut]
    weak_count: int
    weak: list[WeakTemplateOut]
    compared_subjects: int = Field(description="how many subjects were compared with each other for `rates`")
    rates: list[RateCheckOut]


class AuditOut(_FromAttributes):
    """The last audit of a collection."""

    model_config = ConfigDict(from_attributes=True, **examples.config(examples.AUDIT))

    collection: str
    status: AuditStatus
    started_at: datetime
    progress: float = Field(description="share of the work that is done, 0..1")
    report: AuditReportOut | None
    error: str | None


@router.post("", status_code=202, summary="Audit a collection", responses=problems(*CODES))
async def start_audit(components: ComponentsDependency, collection: CollectionId) -> AuditOut:
    """Looks for subjects enrolled twice, templates that do not fit and people who are hard to tell apart.

    It runs in the background; ask with `GET` how far it is. One that is under way is not started again.
    """
    return AuditOut.model_validate(await components.on_thread(components.audits.start, collection))


@router.get("", summary="The last audit of a collection", responses=problems(*CODES, "audit_not_found"))
async def get_audit(components: ComponentsDependency, collection: CollectionId) -> AuditOut:
    """How far it is and, when it is done, what it found. Audits are kept until the service stops."""
    return AuditOut.model_validate(await components.on_thread(components.audits.get, collection))


@router.get(
    "/page",
    summary="The last audit as a page",
    response_class=HTMLResponse,
    responses=problems(*CODES, "audit_not_found", "audit_not_done")
    | {200: {"content": {"text/html": {"example": "<!doctype html>"}}}},
)
async def get_audit_page(components: ComponentsDependency, collection: CollectionId) -> HTMLResponse:
    """The report for a person to read, with a plot."""
    job = await components.on_thread(components.audits.get, collection)
    if job.report is None:
        raise RequestError(
            "audit_not_done",
            job.error or f"The audit is {100 * job.progress:.0f} % done; ask again later.",
            status=job.status,
            progress=job.progress,
        )
    return HTMLResponse(audit_page(job.report))
