"""The application: builds the parts once and wires the routers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import cv2
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_swagger import patch_fastapi

from app.api.dependencies import Parts
from app.api.metrics import Metrics
from app.api.middleware import RequestMiddleware
from app.api.problems import Problem, install_problem_handlers
from app.api.request_parsing import request_definitions
from app.api.routes import audits, collections, health, recognition, subjects
from app.crowding import load_crowding
from app.decisions import load_calibration, read_calibration
from app.encoding import EncoderRuntime, EncoderWeights, create_runtime, load_weights
from app.errors import TesseraError
from app.faces import DecodeLimits, DetectorSettings, FaceFinder, QualityLimits, YunetDetector
from app.gallery import SqliteGallery
from app.openvino import available_cores
from app.recognition.service import TesseraService
from app.settings import Settings
from app.version import VERSION


def build_encoder(settings: Settings, weights: EncoderWeights) -> EncoderRuntime:
    """The encoder as the settings have it run. Raises WeightsError."""
    encoding = settings.encoding
    return create_runtime(weights, runtime=encoding.runtime, precision=encoding.precision, threads=encoding.threads)


def build_finder(settings: Settings) -> FaceFinder:
    """What finds faces on photographs, within the limits of the settings."""
    # OpenCV's own threads would only get in each other's way: every core has a request to work on.
    cv2.setNumThreads(1)
    faces = settings.faces
    return FaceFinder(
        YunetDetector(DetectorSettings(score_threshold=faces.detection_threshold)),
        DecodeLimits(max_bytes=faces.max_image_bytes, max_pixels=faces.max_image_pixels),
        QualityLimits(min_eye_distance=faces.min_eye_distance),
    )


def build_service(settings: Settings) -> TesseraService:
    """Loads encoder and calibration and opens the gallery.

    Raises TesseraError, with a message for the operator, where one of them cannot be used.
    """
    weights = load_weights(settings.encoding.directory)
    own = settings.decisions.calibration
    if own is None:
        calibration = load_calibration(settings.encoding.directory, weights.sha256)
    else:
        calibration = read_calibration(own, weights.sha256)
    crowding = load_crowding(settings.encoding.directory, calibration.cohort_sha256)
    encoder = build_encoder(settings, weights)
    finder = build_finder(settings)
    gallery = SqliteGallery(settings.gallery.data_dir, encoder_digest=weights.sha256, crowding=crowding)
    try:
        service = TesseraService(
            finder,
            encoder,
            gallery,
            calibration,
            crowding=crowding,
            enforce_quality=settings.faces.enforce_quality,
            target_fmr=settings.decisions.target_fmr,
            target_fpir=settings.decisions.target_fpir,
            claim=settings.decisions.claim,
            inconclusive=settings.decisions.inconclusive,
        )
        service.warm_up()
        return service
    except TesseraError:
        gallery.close()
        raise


def create_app(settings: Settings | None = None, service: TesseraService | None = None) -> FastAPI:
    """The ASGI application. It closes the service, given or built, when it shuts down."""
    chosen = settings or Settings()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running = service or build_service(chosen)
        parts = app.state.parts = Parts(chosen, running, metrics, available_cores())
        running.watch_encoder(metrics.encoder_ran)
        try:
            yield
        finally:
            parts.close()

    app = FastAPI(
        title="Tessera",
        version=VERSION,
        summary="Self-hosted face verification: enrol, verify and identify at a measured false match rate",
        lifespan=lifespan,
        # FastAPI's own pages load their scripts from a public host; these come with the package.
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    patch_fastapi(app, swagger_ui_parameters={"tryItOutEnabled": True, "validatorUrl": None})
    app.add_middleware(RequestMiddleware, metrics=metrics, max_body_bytes=chosen.server.max_body_bytes)
    install_problem_handlers(app)
    for router in (recognition.router, subjects.router, collections.router, audits.router, health.router):
        app.include_router(router)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            document["components"]["schemas"] |= {"Problem": Problem.model_json_schema()} | request_definitions()
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app
