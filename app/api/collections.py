"""``/collections``: isolated sets of subjects."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from app.api import schemas
from app.api.bodies import json_body_of, openapi_json_body
from app.api.problems import problems
from app.api.state import PartsDependency

router = APIRouter(prefix="/collections", tags=["collections"])

CollectionId = Annotated[str, Path(pattern=schemas.ID_PATTERN)]


@router.get("", summary="List collections", responses=problems("gallery_unavailable"))
async def list_collections(parts: PartsDependency) -> schemas.CollectionList:
    """All collections with their counts; `default` always exists."""
    found = await parts.read(parts.service.gallery.collections)
    return schemas.CollectionList(collections=[schemas.CollectionOut.model_validate(c) for c in found])


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
        "gallery_unavailable",
    ),
)
async def create_collection(
    parts: PartsDependency, body: Annotated[schemas.NewCollection, Depends(json_body_of(schemas.NewCollection))]
) -> schemas.CollectionOut:
    """Creates an empty collection."""
    found = await parts.read(parts.service.gallery.create_collection, body.id)
    return schemas.CollectionOut.model_validate(found)


@router.delete(
    "/{collection}",
    summary="Erase a collection",
    responses=problems("invalid_request", "collection_not_found", "gallery_unavailable"),
)
async def delete_collection(parts: PartsDependency, collection: CollectionId) -> schemas.Erased:
    """Erases a collection with all its subjects; `default` is emptied and stays."""
    return schemas.Erased(templates=await parts.read(parts.service.gallery.delete_collection, collection))
