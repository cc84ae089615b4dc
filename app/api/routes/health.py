"""``/livez``, ``/readyz``, ``/model`` and ``/metrics``: for those who run the service."""

from __future__ import annotations

import logging

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.api import examples, presenters, schemas
from app.api.decision_schemas import GroupOut, OperatingPointOut
from app.api.dependencies import PartsDependency
from app.api.problems import RequestError, problems

logger = logging.getLogger("tessera")
router = APIRouter(tags=["operations"])


@router.get("/livez", summary="The process answers", responses=problems())
async def livez() -> schemas.Health:
    """Says only that the process is alive; restart it when this fails."""
    return schemas.Health()


@router.get("/readyz", summary="Every part works", responses=problems("not_ready"))
async def readyz(parts: PartsDependency) -> schemas.Health:
    """Encodes a blank face, reads the database and searches the index."""
    checks = {"encoder": parts.service.check_encoder, "gallery": parts.service.gallery.check}
    failed = {}
    for name, check in checks.items():
        try:
            await parts.read(check)
        except Exception as error:
            # Whatever it is: a probe that answers 500 would not say which part is broken.
            logger.warning("the check of the %s failed", name, exc_info=True)
            failed[name] = str(error) or type(error).__name__
    if failed:
        states = {name: failed.get(name, "ok") for name in checks}
        raise RequestError("not_ready", f"Not working: {', '.join(sorted(failed))}.", checks=states)
    return schemas.Health(checks=dict.fromkeys(checks, "ok"))


@router.get("/model", summary="Encoder and calibration in use", responses=problems())
async def model(parts: PartsDependency) -> schemas.ModelResponse:
    """Which encoder runs, on what, in which precision, and the operating points that were measured for it."""
    service = parts.service
    table = service.calibration
    point = presenters.operating_point(service.rule(), 1)
    assert point is not None
    return schemas.ModelResponse(
        encoder=schemas.EncoderOut.model_validate(service.encoder),
        calibration_version=table.version,
        target_fmr=service.target_fmr,
        target_fpir=service.target_fpir,
        claim=service.claim,
        smallest_supported_fmr=table.smallest_supported(service.claim, table.most_templates),
        weak_below=table.quality.limit,
        ambiguous_below=table.margin.limit,
        most_templates=table.most_templates,
        operating_point=point,
        operating_points=[OperatingPointOut.model_validate(p) for p in table.curves[0].operating_points],
        groups=[GroupOut.model_validate(g) for g in table.groups],
        cohort_sha256=table.cohort_sha256,
    )


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    responses=problems("gallery_unavailable") | {200: {"content": {"text/plain": {"example": examples.METRICS}}}},
)
async def metrics(parts: PartsDependency) -> PlainTextResponse:
    """Requests, durations, decisions and the size of the gallery."""
    parts.metrics.show_gallery(await parts.read(parts.service.gallery.collections))
    return PlainTextResponse(generate_latest(parts.metrics.registry), media_type=CONTENT_TYPE_LATEST)
