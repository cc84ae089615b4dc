"""``/collections/{id}/audit``: audits a whole collection in the background."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.api import schemas
from app.api.dependencies import ComponentsDependency, allow
from app.api.problems import RequestError, problems
from app.api.routes.collections import CollectionId
from app.audits.page import audit_page
from app.security.keys import Scope

router = APIRouter(prefix="/collections/{collection}/audit", tags=["collections"])

CODES = ("invalid_request", "collection_not_found", "gallery_unavailable")


@router.post(
    "",
    dependencies=[allow(Scope.ADMIN)],
    status_code=202,
    summary="Audit a collection",
    responses=problems(*CODES),
)
async def start_audit(request: Request, components: ComponentsDependency, collection: CollectionId) -> schemas.AuditOut:
    """Looks for subjects enrolled twice, templates that do not match their subject, and people who look alike.

    The audit runs in the background; `GET` shows its progress. An audit in progress is not started again.
    """
    async with components.recorded(request, "start_audit", collection):
        job = await components.on_thread(components.audits.start, collection)
    return schemas.AuditOut.model_validate(job)


@router.get(
    "",
    dependencies=[allow(Scope.READ)],
    summary="The last audit of a collection",
    responses=problems(*CODES, "audit_not_found"),
)
async def get_audit(components: ComponentsDependency, collection: CollectionId) -> schemas.AuditOut:
    """The progress of the audit and, once done, its findings. The latest audit of each collection
    is kept; one that was `interrupted` because the service stopped can be started again.
    """
    return schemas.AuditOut.model_validate(await components.on_thread(components.audits.get, collection))


@router.get(
    "/page",
    dependencies=[allow(Scope.READ)],
    summary="The last audit as a page",
    response_class=HTMLResponse,
    responses=problems(*CODES, "audit_not_found", "audit_not_done")
    | {200: {"content": {"text/html": {"example": "<!doctype html>"}}}},
)
async def get_audit_page(components: ComponentsDependency, collection: CollectionId) -> HTMLResponse:
    """The report as a readable page with a plot. Until there is one, the refusal has `audit_status` and `progress`."""
    job = await components.on_thread(components.audits.get, collection)
    if job.report is None:
        raise RequestError(
            "audit_not_done",
            job.error or f"The audit is {100 * job.progress:.0f} % done; ask again later.",
            audit_status=job.status,
            progress=job.progress,
        )
    return HTMLResponse(audit_page(job.report))
