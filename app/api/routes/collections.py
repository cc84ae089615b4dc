"""``/collections``: isolated sets of subjects."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from app.api import presenters, schemas
from app.api.dependencies import ComponentsDependency
from app.api.problems import problems
from app.api.request_parsing import json_body_of, openapi_json_body

router = APIRouter(prefix="/collections", tags=["collections"])

CollectionId = Annotated[str, Path(pattern=schemas.ID_PATTERN)]


@router.get("", summary="List collections", responses=problems("gallery_unavailable"))
async def list_collections(components: ComponentsDependency) -> schemas.CollectionList:
    """All collections with their counts; `default` always exists."""
    found = await components.on_thread(components.collections.list)
    return schemas.CollectionList(collections=[presenters.collection(c) for c in found])


@router.post(
    "",
    status_code=201,
    summary="Create a collection",
    openapi_extra=openapi_json_body(schemas.NewCollection),
    responses=problems(
        "invalid_request",
        "malformed_body",
        "unsupported_media_type",
        "body_too_large",
        "collection_exists",
        "target_unsupported",
        "gallery_unavailable",
    ),
)
async def create_collection(
    components: ComponentsDependency,
    body: Annotated[schemas.NewCollection, Depends(json_body_of(schemas.NewCollection))],
) -> schemas.CollectionOut:
    """Creates an empty collection, with its own targets if given."""
    return presenters.collection(await components.on_thread(components.collections.create, body.id, body.targets()))


@router.put(
    "/{collection}",
    summary="Set the targets of a collection",
    openapi_extra=openapi_json_body(schemas.CollectionUpdate),
    responses=problems(
        "invalid_request",
        "malformed_body",
        "unsupported_media_type",
        "body_too_large",
        "collection_not_found",
        "target_unsupported",
        "gallery_unavailable",
    ),
)
async def update_collection(
    components: ComponentsDependency,
    collection: CollectionId,
    body: Annotated[schemas.CollectionUpdate, Depends(json_body_of(schemas.CollectionUpdate))],
) -> schemas.CollectionOut:
    """Replaces both targets and the claim; one left out falls back to the service's."""
    return presenters.collection(await components.on_thread(components.collections.update, collection, body.targets()))


@router.delete(
    "/{collection}",
    summary="Erase a collection",
    responses=problems("invalid_request", "collection_not_found", "gallery_unavailable"),
)
async def delete_collection(components: ComponentsDependency, collection: CollectionId) -> schemas.Erased:
    """Erases a collection with all its subjects; `default` is emptied but kept."""
    return schemas.Erased(templates=await components.on_thread(components.collections.delete, collection))
