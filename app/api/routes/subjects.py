"""``/subjects``: reads, changes, merges and erases what is stored about a person."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from app.api import presenters, schemas
from app.api.dependencies import CallerDependency, ComponentsDependency, allow
from app.api.document import openapi_json_body
from app.api.problems import invalid_fields, problems
from app.api.request_parsing import json_body_of
from app.api.routes.recognition import IdempotencyKey
from app.gallery import DEFAULT_COLLECTION
from app.recognition.results import Idempotency, Merger, Replay
from app.security.keys import Scope
from app.security.trail import DUPLICATE

router = APIRouter(prefix="/subjects", tags=["subjects"])

SubjectId = Annotated[str, Path(pattern=schemas.ID_PATTERN)]
TemplateId = Annotated[str, Path(pattern=schemas.ID_PATTERN)]


async def _collection(
    caller: CallerDependency, collection: Annotated[str, Query(pattern=schemas.ID_PATTERN)] = DEFAULT_COLLECTION
) -> str:
    caller.require_collection(collection)
    return collection


CollectionId = Annotated[str, Depends(_collection)]
"""A collection that the caller may use."""
NOT_FOUND = ("invalid_request", "collection_not_found", "subject_not_found", "gallery_unavailable", "subject_damaged")


def encode_cursor(subject_id: str) -> str:
    """An opaque cursor for the last subject of a page."""
    return base64.urlsafe_b64encode(subject_id.encode()).decode()


def decode_cursor(cursor: str) -> str:
    """The inverse of ``encode_cursor``. Raises RequestError for anything else."""
    try:
        found = base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        found = ""
    if re.fullmatch(schemas.ID_PATTERN, found) is None:
        raise invalid_fields([{"field": "cursor", "message": "is not a next_cursor of this service"}])
    return found


@router.get(
    "",
    dependencies=[allow(Scope.READ)],
    summary="List subjects",
    responses=problems("invalid_request", "collection_not_found", "gallery_unavailable", "subject_damaged"),
)
async def list_subjects(
    components: ComponentsDependency,
    collection: CollectionId,
    cursor: Annotated[
        str | None, Query(min_length=1, max_length=256, description="next_cursor of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> schemas.SubjectPage:
    """A page of subjects, ordered by id."""
    after = decode_cursor(cursor) if cursor is not None else None
    page = await components.on_thread(components.subjects.list, collection, after=after, limit=limit)
    return schemas.SubjectPage(
        subjects=[schemas.SubjectOut.model_validate(s) for s in page.subjects],
        next_cursor=None if page.next_after is None else encode_cursor(page.next_after),
    )


@router.get("/{subject_id}", dependencies=[allow(Scope.READ)], summary="Show a subject", responses=problems(*NOT_FOUND))
async def get_subject(
    components: ComponentsDependency, subject_id: SubjectId, collection: CollectionId
) -> schemas.SubjectOut:
    """Metadata, times and templates of a subject."""
    found = await components.on_thread(components.subjects.get, collection, subject_id)
    return schemas.SubjectOut.model_validate(found)


@router.patch(
    "/{subject_id}",
    dependencies=[allow(Scope.ENROLL)],
    summary="Replace the metadata of a subject",
    openapi_extra=openapi_json_body(schemas.SubjectUpdate),
    responses=problems(*NOT_FOUND, "malformed_body", "unsupported_media_type", "body_too_large"),
)
async def update_subject(
    request: Request,
    components: ComponentsDependency,
    subject_id: SubjectId,
    body: Annotated[schemas.SubjectUpdate, Depends(json_body_of(schemas.SubjectUpdate))],
    collection: CollectionId,
) -> schemas.SubjectOut:
    """Replaces the stored metadata; templates stay as they are."""
    async with components.recorded_change(request, "update_subject", collection, subject_id):
        found = await components.on_thread(components.subjects.update, collection, subject_id, body.metadata)
    return schemas.SubjectOut.model_validate(found)


@router.post(
    "/{subject_id}/merge",
    dependencies=[allow(Scope.DELETE), allow(Scope.ENROLL)],
    summary="Merge a subject that was enrolled twice",
    openapi_extra=openapi_json_body(schemas.MergeRequest),
    responses=problems(
        *NOT_FOUND,
        "template_damaged",
        "subjects_not_alike",
        "too_many_templates",
        "idempotency_key_reused",
        "idempotency_conflict",
        "malformed_body",
        "unsupported_media_type",
        "body_too_large",
    ),
)
async def merge_subjects(
    request: Request,
    response: Response,
    components: ComponentsDependency,
    caller: CallerDependency,
    subject_id: SubjectId,
    body: Annotated[schemas.MergeRequest, Depends(json_body_of(schemas.MergeRequest))],
    collection: CollectionId,
    idempotency_key: IdempotencyKey = None,
) -> schemas.Merged:
    """Gives this subject all templates of its duplicate, which is gone then with its metadata; it cannot be undone.

    Two who are farther apart than the possible duplicates of an audit are merged only with `force`. A key needs the
    scopes `delete` and `enroll`.
    """
    if body.duplicate == subject_id:
        raise invalid_fields([{"field": "duplicate", "message": "is this subject itself; name the other one"}])
    named = components.trail.name_of(collection, body.duplicate)
    idempotency = None
    if idempotency_key:
        pseudonym = components.security.secret.pseudonym(collection, body.duplicate)
        request_content = ("merge", collection, subject_id, pseudonym, body.force)
        idempotency = _idempotency(f"{caller.key_id or ''}:{idempotency_key}", request_content)
    async with components.recorded_change(
        request, "merge_subjects", collection, subject_id, erases=True, details={DUPLICATE: named}
    ) as outcome:
        result = await components.on_thread(
            components.subjects.merge,
            collection,
            subject_id,
            body.duplicate,
            force=body.force,
            idempotency=idempotency,
        )
        if isinstance(result, Replay):
            outcome.value = "replayed"
        else:
            outcome.forget = partial(components.lockout.forget, collection, body.duplicate)
            outcome.details |= {"templates": len(result.template_ids), "force": body.force}
    if isinstance(result, Replay):
        response.headers["Idempotency-Replayed"] = "true"
        return schemas.Merged.model_validate(json.loads(result.body) | {"duplicate": body.duplicate})
    return presenters.merged(result, body.duplicate)


def _idempotency(key: str, content: Sequence[str | bool]) -> Idempotency[Merger]:
    """What is stored names nobody who is gone: neither the answer, nor a digest that a list of names would open."""
    fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return Idempotency(
        key, fingerprint, lambda result: presenters.merged(result, "").model_dump_json(exclude={"duplicate"})
    )


@router.delete(
    "/{subject_id}", dependencies=[allow(Scope.DELETE)], summary="Erase a subject", responses=problems(*NOT_FOUND)
)
async def delete_subject(
    request: Request, components: ComponentsDependency, subject_id: SubjectId, collection: CollectionId
) -> schemas.Erased:
    """Erases a subject with all its templates; the receipt is the record of it in the audit trail."""
    async with components.recorded_change(request, "delete_subject", collection, subject_id, erases=True) as outcome:
        erased = await components.on_thread(components.subjects.delete, collection, subject_id)
        outcome.forget = partial(components.lockout.forget, collection, subject_id)
        outcome.details = {"templates": erased}
    return schemas.Erased.of(erased, outcome.receipt)


@router.delete(
    "/{subject_id}/templates/{template_id}",
    dependencies=[allow(Scope.DELETE)],
    summary="Erase one template",
    responses=problems(*NOT_FOUND, "template_not_found", "last_template"),
)
async def delete_template(
    request: Request,
    components: ComponentsDependency,
    subject_id: SubjectId,
    template_id: TemplateId,
    collection: CollectionId,
) -> schemas.SubjectOut:
    """Erases one template; the last one can only be erased with its subject."""
    async with components.recorded_change(request, "delete_template", collection, subject_id, erases=True):
        found = await components.on_thread(components.subjects.delete_template, collection, subject_id, template_id)
    return schemas.SubjectOut.model_validate(found)
