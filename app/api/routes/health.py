"""``/livez``, ``/readyz``, ``/model`` and ``/metrics``: for operators."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.api import examples, presenters, schemas
from app.api.dependencies import CallerDependency, ComponentsDependency, allow
from app.api.problems import RequestError, problems
from app.security.keys import Scope

router = APIRouter(tags=["health"])

WITHOUT_KEY: dict[str, Any] = {"security": []}


@router.get("/livez", summary="The process answers", responses=problems(key=False), openapi_extra=WITHOUT_KEY)
async def livez() -> schemas.Health:
    """Shows only that the process is alive; restart it when this fails."""
    return schemas.Health()


@router.get(
    "/readyz",
    summary="Every part works",
    responses=problems("not_ready", key=False),
    openapi_extra=WITHOUT_KEY,
)
async def readyz(components: ComponentsDependency, caller: CallerDependency) -> schemas.Health:
    """Encodes a blank face, reads the database, searches the index and asks the audit trail.

    What is wrong is told to keys with the scope `read` for all collections; to others, which part it is.
    """
    told = caller.may(Scope.READ) and caller.collections is None
    checks = await components.check()
    failed = sorted(name for name, failure in checks.items() if failure is not None)
    if failed:
        states = {name: (failure if told else "failed") if failure else "ok" for name, failure in checks.items()}
        raise RequestError("not_ready", f"Not working: {', '.join(failed)}.", checks=states)
    return schemas.Health(checks=dict.fromkeys(checks, "ok"))


@router.get(
    "/model",
    dependencies=[allow(*Scope)],
    summary="Encoder and calibration in use",
    responses=problems(),
)
async def get_model(components: ComponentsDependency) -> schemas.ModelResponse:
    """The encoder in use, its device and precision, and the operating points measured for it."""
    return presenters.model(components.recognition.encoder, components.recognition.criteria)


@router.get(
    "/metrics",
    dependencies=[allow(Scope.READ)],
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    responses=problems() | {200: {"content": {"text/plain": {"example": examples.METRICS}}}},
)
async def get_metrics(components: ComponentsDependency, caller: CallerDependency) -> PlainTextResponse:
    """Requests, durations, decisions, failures, storage and the process; for keys of all collections.

    Every part is checked as by `/readyz`; the numbers of a part that does not work are left out.
    """
    caller.require_all_collections()
    checks = await components.check()
    components.metrics.show(await components.on_thread(components.snapshot, checks))
    return PlainTextResponse(generate_latest(components.metrics.registry), media_type=CONTENT_TYPE_LATEST)
