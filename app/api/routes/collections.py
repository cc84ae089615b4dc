"""``/collections``: isolated sets of subjects."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request

from app.api import presenters, schemas
from app.api.dependencies import CallerDependency, ComponentsDependency, allow
from app.api.document import openapi_json_body
from app.api.problems import problems
from app.api.request_parsing import json_body_of
from app.security.keys import Scope

router = APIRouter(prefix="/collections", tags=["collections"])


async def collection_of(caller: CallerDependency, collection: Annotated[str, Path(pattern=schemas.ID_PATTERN)]) -> str:
    """The collection of the path, which the caller must be allowed to use."""
    caller.require_collection(collection)
    return collection


CollectionId = Annotated[str, Depends(collection_of)]


@router.get("", dependencies=[allow(Scope.READ)], summary="List collections", responses=problems("gallery_unavailable"))
async def list_collections(components: ComponentsDependency, caller: CallerDependency) -> schemas.CollectionList:
    """All collections that the key may use, with their counts; `default` always exists."""
    found = await components.on_thread(components.collections.list)
    return schemas.CollectionList(collections=[presenters.collection(c) for c in found if caller.sees(c.id)])


@router.post(
    "",
    dependencies=[allow(Scope.ADMIN)],
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
        "chips_need_encryption",
        "gallery_unavailable",
    ),
)
async def create_collection(
    request: Request,
    components: ComponentsDependency,
    caller: CallerDependency,
    body: Annotated[schemas.NewCollection, Depends(json_body_of(schemas.NewCollection))],
) -> schemas.CollectionOut:
    """Creates an empty collection, with its own targets if given."""
    caller.require_collection(body.id)
    keep_chips = bool(body.keep_chips)
    async with components.recorded_change(request, "create_collection", body.id) as outcome:
        created = await components.on_thread(
            components.collections.create, body.id, body.targets(), keep_chips=keep_chips
        )
        outcome.details = {"keep_chips": keep_chips}
    return presenters.collection(created)


@router.get(
    "/{collection}",
    dependencies=[allow(Scope.READ)],
    summary="Get a collection",
    responses=problems("invalid_request", "collection_not_found", "gallery_unavailable"),
)
async def get_collection(components: ComponentsDependency, collection: CollectionId) -> schemas.CollectionOut:
    """Its counts, targets, and how many templates have a chip."""
    return presenters.collection(await components.on_thread(components.collections.get, collection))


@router.put(
    "/{collection}",
    dependencies=[allow(Scope.ADMIN)],
    summary="Set the targets of a collection, and whether it keeps chips",
    openapi_extra=openapi_json_body(schemas.CollectionUpdate),
    responses=problems(
        "invalid_request",
        "malformed_body",
        "unsupported_media_type",
        "body_too_large",
        "collection_not_found",
        "target_unsupported",
        "chips_need_encryption",
        "gallery_unavailable",
    ),
)
async def update_collection(
    request: Request,
    components: ComponentsDependency,
    collection: CollectionId,
    body: Annotated[schemas.CollectionUpdate, Depends(json_body_of(schemas.CollectionUpdate))],
) -> schemas.CollectionOut:
    """Replaces both targets and the claim; one left out falls back to the service's.

    `keep_chips` left out stays as it is; `false` erases the chips kept so far.
    """
    erases = body.keep_chips is False
    async with components.recorded_change(request, "update_collection", collection, erases=erases) as outcome:
        updated = await components.on_thread(
            components.collections.update, collection, body.targets(), keep_chips=body.keep_chips
        )
        outcome.details = {"keep_chips": updated.keep_chips}
    return presenters.collection(updated)


@router.delete(
    "/{collection}",
    dependencies=[allow(Scope.ADMIN)],
    summary="Erase a collection",
    responses=problems("invalid_request", "collection_not_found", "collection_not_empty", "gallery_unavailable"),
)
async def delete_collection(
    request: Request,
    components: ComponentsDependency,
    collection: CollectionId,
    force: Annotated[bool, Query(description="erase its subjects, too")] = False,
) -> schemas.Erased:
    """Erases a collection; `default` is emptied but kept. One that has subjects is erased only with `force=true`."""
    async with components.recorded_change(request, "delete_collection", collection, erases=True) as outcome:
        erased = await components.on_thread(components.collections.delete, collection, force=force)
        outcome.forget = partial(components.lockout.forget_collection, collection)
        outcome.details = {"templates": erased}
    return schemas.Erased.of(erased, outcome.receipt)
