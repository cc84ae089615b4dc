"""``/collections/{id}/audit``: audits a whole collection in the background."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import HTMLResponse

from app.api import schemas
from app.api.dependencies import ComponentsDependency
from app.api.problems import RequestError, problems
from app.audits.page import audit_page

router = APIRouter(prefix="/collections/{collection}/audit", tags=["collections"])

CollectionId = Annotated[str, Path(pattern=schemas.ID_PATTERN)]
CODES = ("invalid_request", "collection_not_found", "gallery_unavailable")


@router.post("", status_code=202, summary="Audit a collection", responses=problems(*CODES))
async def start_audit(components: ComponentsDependency, collection: CollectionId) -> schemas.AuditOut:
    """Looks for subjects enrolled twice, templates that do not match their subject, and people who look alike.

    The audit runs in the background; `GET` shows its progress. An audit in progress is not started again.
    """
    return schemas.AuditOut.model_validate(await components.on_thread(components.audits.start, collection))


@router.get("", summary="The last audit of a collection", responses=problems(*CODES, "audit_not_found"))
async def get_audit(components: ComponentsDependency, collection: CollectionId) -> schemas.AuditOut:
    """The progress of the audit and, once done, its findings. Audits are kept until the service stops."""
    return schemas.AuditOut.model_validate(await components.on_thread(components.audits.get, collection))


@router.get(
    "/page",
    summary="The last audit as a page",
    response_class=HTMLResponse,
    responses=problems(*CODES, "audit_not_found", "audit_not_done")
    | {200: {"content": {"text/html": {"example": "<!doctype html>"}}}},
)
async def get_audit_page(components: ComponentsDependency, collection: CollectionId) -> HTMLResponse:
    """The report as a readable page with a plot."""
    job = await components.on_thread(components.audits.get, collection)
    if job.report is None:
        raise RequestError(
            "audit_not_done",
            job.error or f"The audit is {100 * job.progress:.0f} % done; ask again later.",
            status=job.status,
            progress=job.progress,
        )
    return HTMLResponse(audit_page(job.report))
