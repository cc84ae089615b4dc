"""``/subjects``: reads, changes and erases what is stored about a person."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from app.api import schemas
from app.api.dependencies import ComponentsDependency
from app.api.problems import invalid_fields, problems
from app.api.request_parsing import json_body_of, openapi_json_body
from app.gallery import DEFAULT_COLLECTION

router = APIRouter(prefix="/subjects", tags=["subjects"])

SubjectId = Annotated[str, Path(pattern=schemas.ID_PATTERN)]
TemplateId = Annotated[str, Path(pattern=schemas.ID_PATTERN)]
CollectionId = Annotated[str, Query(pattern=schemas.ID_PATTERN)]
NOT_FOUND = ("invalid_request", "collection_not_found", "subject_not_found", "gallery_unavailable")


def encode_cursor(subject_id: str) -> str:
    """An opaque cursor for the last subject of a page."""
    return base64.urlsafe_b64encode(subject_id.encode()).decode()


def decode_cursor(cursor: str) -> str:
    """The inverse of ``encode_cursor``. Raises RequestError for anything else."""
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
    components: ComponentsDependency,
    collection: CollectionId = DEFAULT_COLLECTION,
    cursor: Annotated[str | None, Query(max_length=256, description="next_cursor of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> schemas.SubjectPage:
    """A page of subjects, ordered by id."""
    after = decode_cursor(cursor) if cursor is not None else None
    page = await components.on_thread(components.subjects.list, collection, after=after, limit=limit)
    return schemas.SubjectPage(
        subjects=[schemas.SubjectOut.model_validate(s) for s in page.subjects],
        next_cursor=None if page.next_after is None else encode_cursor(page.next_after),
    )


@router.get("/{subject_id}", summary="Show a subject", responses=problems(*NOT_FOUND))
async def get_subject(
    components: ComponentsDependency, subject_id: SubjectId, collection: CollectionId = DEFAULT_COLLECTION
) -> schemas.SubjectOut:
    """Metadata, times and templates of a subject."""
    found = await components.on_thread(components.subjects.get, collection, subject_id)
    return schemas.SubjectOut.model_validate(found)


@router.patch(
    "/{subject_id}",
    summary="Replace the metadata of a subject",
    openapi_extra=openapi_json_body(schemas.SubjectUpdate),
    responses=problems(*NOT_FOUND, "malformed_body", "unsupported_media_type", "body_too_large"),
)
async def update_subject(
    components: ComponentsDependency,
    subject_id: SubjectId,
    body: Annotated[schemas.SubjectUpdate, Depends(json_body_of(schemas.SubjectUpdate))],
    collection: CollectionId = DEFAULT_COLLECTION,
) -> schemas.SubjectOut:
    """Replaces the stored metadata; templates stay as they are."""
    found = await components.on_thread(components.subjects.update, collection, subject_id, body.metadata)
    return schemas.SubjectOut.model_validate(found)


@router.delete("/{subject_id}", summary="Erase a subject", responses=problems(*NOT_FOUND))
async def delete_subject(
    components: ComponentsDependency, subject_id: SubjectId, collection: CollectionId = DEFAULT_COLLECTION
) -> schemas.Erased:
    """Erases a subject with all its templates."""
    erased = await components.on_thread(components.subjects.delete, collection, subject_id)
    return schemas.Erased(templates=erased)


@router.delete(
    "/{subject_id}/templates/{template_id}",
    summary="Erase one template",
    responses=problems(*NOT_FOUND, "template_not_found", "last_template"),
)
async def delete_template(
    components: ComponentsDependency,
    subject_id: SubjectId,
    template_id: TemplateId,
    collection: CollectionId = DEFAULT_COLLECTION,
) -> schemas.SubjectOut:
    """Erases one template; the last one can only be erased with its subject."""
    found = await components.on_thread(components.subjects.delete_template, collection, subject_id, template_id)
    return schemas.SubjectOut.model_validate(found)
