"""Refuses what a request has and its route would not read, before anything is done."""

from __future__ import annotations

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute

from app.api.field_errors import no_such_name
from app.api.middleware import PROBES
from app.api.problems import MOST_ERRORS, invalid_fields


async def refuse_undeclared(request: Request) -> None:
    """A dependency of every router of the API.

    An ignored parameter is a silent pick: with ``?colection=staff`` the subject of another collection is erased. The
    page, its files and the documentation are not of the API and take any query, such as what gets round a cache; so do
    probes and the scraping of metrics, which are configured far from here and read nothing from it.

    Raises RequestError (invalid_request) for a query parameter that the route does not have, or that is repeated, and
    for a body where none is read.
    """
    route = request.scope.get("route")
    if not isinstance(route, APIRoute) or route.path in PROBES:
        return
    given = request.query_params.multi_items()
    if given:
        _check_query([name for name, _ in given], route, request.method)
    if not _takes_body(route) and await _has_body(request):
        message = f"{request.method} {route.path} reads no body{_in_query(route)}"
        raise invalid_fields([{"field": "body", "message": message}])


def _check_query(names: list[str], route: APIRoute, method: str) -> None:
    declared = _declared(route)
    unknown = [name for name in dict.fromkeys(names) if name not in declared]
    # No route has a parameter that is a list; FastAPI would take the last one.
    repeated = [name for name in declared if names.count(name) > 1]
    if unknown or repeated:
        raise invalid_fields(
            [{"field": name, "message": "given more than once"} for name in repeated]
            + [{"field": name, "message": _unknown(name, route, method)} for name in unknown[:MOST_ERRORS]]
        )


def _unknown(name: str, route: APIRoute, method: str) -> str:
    declared, of = _declared(route), f"{method} {route.path}"
    if declared:
        return no_such_name(name, declared, kind="query parameter", of=of)
    return f"{of} has no query parameters{'; send it in the body' if _takes_body(route) else ''}"


def _declared(route: APIRoute) -> tuple[str, ...]:
    """The names of the query parameters of a route and of what it depends on."""
    return tuple(
        dict.fromkeys(field.alias for field in get_flat_params(route.dependant) if isinstance(field.field_info, Query))
    )


def _takes_body(route: APIRoute) -> bool:
    # Bodies are read by dependencies of ours, which FastAPI does not know as bodies; the document does.
    return "requestBody" in (route.openapi_extra or {})


def _in_query(route: APIRoute) -> str:
    declared = _declared(route)
    return f"; its query parameters are {', '.join(declared)}" if declared else ""


async def _has_body(request: Request) -> bool:
    headers = request.headers
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return False
    # A proxy may announce a body of unknown length that turns out to be none.
    async for chunk in request.stream():
        if chunk:
            return True
    return False
