"""``/subjects``: what is stored of a person, changed and erased."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from app.api import schemas
from app.api.dependencies import PartsDependency
from app.api.problems import invalid_fields, problems
from app.api.request_parsing import json_body_of, openapi_json_body
from app.gallery import DEFAULT_COLLECTION

router = APIRouter(prefix="/subjects", tags=["subjects"])

SubjectId = Annotated[str, Path(pattern=schemas.ID_PATTERN)]
TemplateId = Annotated[str, Path(pattern=schemas.ID_PATTERN)]
CollectionId = Annotated[str, Query(pattern=schemas.ID_PATTERN)]
NOT_FOUND = ("invalid_request", "collection_not_found", "subject_not_found", "gallery_unavailable")


def encode_cursor(subject_id: str) -> str:
    """An opaque mark of the last subject of a page."""
    return base64.urlsafe_b64encode(subject_id.encode()).decode()


def decode_cursor(cursor: str) -> str:
    """The subject that ``encode_cursor`` was given. Raises RequestError for anything else."""
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise invalid_fields([{"field": "cursor", "message": "is not a next_cursor of this service"}]) from error


@router.get(
    "",
    summary="List subjects",
    responses=problems("invalid_request", "collection_not_found", "gallery_unavailable"),
)
async def list_subjects(
    parts: PartsDependency,
    collection: CollectionId = DEFAULT_COLLECTION,
    cursor: Annotated[str | None, Query(max_length=256, description="next_cursor of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> schemas.SubjectPage:
    """A page of subjects by id."""
    after = decode_cursor(cursor) if cursor is not None else None
    found = await parts.read(parts.service.gallery.subjects, collection, after=after, limit=limit + 1)
    page = found[:limit]
    return schemas.SubjectPage(
        subjects=[schemas.SubjectOut.model_validate(s) for s in page],
        next_cursor=encode_cursor(page[-1].id) if len(found) > limit else None,
    )


@router.get("/{subject_id}", summary="Show a subject", responses=problems(*NOT_FOUND))
async def get_subject(
    parts: PartsDependency, subject_id: SubjectId, collection: CollectionId = DEFAULT_COLLECTION
) -> schemas.SubjectOut:
    """Metadata, times and templates of a subject."""
    found = await parts.read(parts.service.gallery.subject, collection, subject_id)
    return schemas.SubjectOut.model_validate(found)


@router.patch(
    "/{subject_id}",
    summary="Replace the metadata of a subject",
    openapi_extra=openapi_json_body(schemas.SubjectUpdate),
    responses=problems(*NOT_FOUND, "malformed_body", "unsupported_media_type", "body_too_large"),
)
async def update_subject(
    parts: PartsDependency,
    subject_id: SubjectId,
    body: Annotated[schemas.SubjectUpdate, Depends(json_body_of(schemas.SubjectUpdate))],
    collection: CollectionId = DEFAULT_COLLECTION,
) -> schemas.SubjectOut:
    """Replaces the stored metadata; templates stay as they are."""
    found = await parts.read(parts.service.gallery.update_subject, collection, subject_id, body.metadata)
    return schemas.SubjectOut.model_validate(found)


@router.delete("/{subject_id}", summary="Erase a subject", responses=problems(*NOT_FOUND))
async def delete_subject(
    parts: PartsDependency, subject_id: SubjectId, collection: CollectionId = DEFAULT_COLLECTION
) -> schemas.Erased:
    """Erases a subject with all its templates."""
    erased = await parts.read(parts.service.gallery.delete_subject, collection, subject_id)
    return schemas.Erased(templates=erased)


@router.delete(
    "/{subject_id}/templates/{template_id}",
    summary="Erase one template",
    responses=problems(*NOT_FOUND, "template_not_found", "last_template"),
)
async def delete_template(
    parts: PartsDependency,
    subject_id: SubjectId,
    template_id: TemplateId,
    collection: CollectionId = DEFAULT_COLLECTION,
) -> schemas.SubjectOut:
    """Erases one template; a subject's last one goes only with the subject."""
    found = await parts.read(parts.service.gallery.delete_template, collection, subject_id, template_id)
    return schemas.SubjectOut.model_validate(found)
