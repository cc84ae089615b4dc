"""The application: builds its components once and wires the routers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import cv2
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from fastapi_swagger import patch_fastapi

from app.api.admission import AdmissionControl
from app.api.dependencies import Components
from app.api.metrics import Metrics
from app.api.middleware import RequestMiddleware
from app.api.problems import Problem, install_problem_handlers
from app.api.request_parsing import request_definitions
from app.api.routes import audits, collections, health, recognition, subjects
from app.audits.jobs import AuditJobs
from app.crowding import Crowding, load_crowding
from app.decisions import Calibration, load_calibration, read_calibration
from app.encoding import EncoderRuntime, EncoderWeights, create_runtime, load_weights
from app.errors import TesseraError
from app.faces import DecodeLimits, DetectorSettings, FaceFinder, QualityLimits, YunetDetector
from app.gallery import SqliteGallery
from app.openvino import available_cores
from app.recognition.collections import CollectionService
from app.recognition.criteria import Criteria
from app.recognition.service import RecognitionService
from app.recognition.subjects import SubjectService
from app.settings import Settings
from app.version import VERSION

THREADS_A_CORE = 2
"""While some threads wait for the encoder, others decode photographs and detect faces."""


@dataclass(frozen=True, slots=True)
class EncoderFiles:
    """An encoder with the calibration and the crowding that belong to it; nothing is compiled yet."""

    weights: EncoderWeights
    calibration: Calibration
    crowding: Crowding


def load_encoder_files(settings: Settings) -> EncoderFiles:
    """Reads and checks the encoder's files. Raises TesseraError, with a message for the operator."""
    directory, own = settings.encoding.directory, settings.decisions.calibration
    weights = load_weights(directory)
    calibration = load_calibration(directory, weights.sha256) if own is None else read_calibration(own, weights.sha256)
    return EncoderFiles(weights, calibration, load_crowding(directory, calibration.cohort_sha256))


def open_gallery(settings: Settings, encoder_sha256: str, crowding: Crowding) -> SqliteGallery:
    """The gallery of the data directory. Raises GalleryError."""
    return SqliteGallery(settings.gallery.data_dir, encoder_digest=encoder_sha256, crowding=crowding)


def build_encoder(settings: Settings, weights: EncoderWeights) -> EncoderRuntime:
    """The encoder, run as the settings specify. Raises WeightsError."""
    encoding = settings.encoding
    return create_runtime(weights, runtime=encoding.runtime, precision=encoding.precision, threads=encoding.threads)


def build_finder(settings: Settings) -> FaceFinder:
    """The face finder, with the limits from the settings."""
    # OpenCV's own threads would only compete: every core already has a request to work on.
    cv2.setNumThreads(1)
    faces = settings.faces
    return FaceFinder(
        YunetDetector(DetectorSettings(score_threshold=faces.detection_threshold)),
        DecodeLimits(max_bytes=faces.max_image_bytes, max_pixels=faces.max_image_pixels),
        QualityLimits(min_eye_distance=faces.min_eye_distance),
    )


def build_service(settings: Settings) -> RecognitionService:
    """Loads encoder and calibration and opens the gallery.

    Raises TesseraError, with a message for the operator, if one of them cannot be used.
    """
    files, decisions = load_encoder_files(settings), settings.decisions
    criteria = Criteria(
        files.calibration,
        target_fmr=decisions.target_fmr,
        target_fpir=decisions.target_fpir,
        claim=decisions.claim,
    )
    encoder, finder = build_encoder(settings, files.weights), build_finder(settings)
    gallery = open_gallery(settings, files.weights.sha256, files.crowding)
    try:
        service = RecognitionService(
            finder,
            encoder,
            gallery,
            criteria,
            crowding=files.crowding,
            enforce_quality=settings.faces.enforce_quality,
            inconclusive=decisions.inconclusive,
        )
        service.warm_up()
        return service
    except TesseraError:
        gallery.close()
        raise


def build_components(settings: Settings, service: RecognitionService, metrics: Metrics) -> Components:
    """The components that routes use."""
    server, cores = settings.server, available_cores()
    service.observe_encoder(metrics.encoder_ran)
    return Components(
        settings=settings,
        recognition=service,
        subjects=SubjectService(service.gallery),
        collections=CollectionService(service.gallery, service.criteria),
        audits=AuditJobs(service.gallery, service.calibration, service.crowding),
        admission=AdmissionControl(
            server.threads or THREADS_A_CORE * cores, server.max_waiting, server.request_seconds, metrics
        ),
        metrics=metrics,
        record_threads=2 * cores + 2,
    )


def create_app(settings: Settings | None = None, service: RecognitionService | None = None) -> FastAPI:
    """The ASGI application. It closes the service, given or built, when it shuts down."""
    chosen = settings or Settings()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        components = build_components(chosen, service or build_service(chosen), metrics)
        app.state.components = components
        try:
            yield
        finally:
            components.close()

    app = FastAPI(
        title="Tessera",
        version=VERSION,
        summary="Self-hosted face verification: enrol, verify and identify at a measured false match rate",
        lifespan=lifespan,
        generate_unique_id_function=_operation_id,
        # FastAPI's own pages load scripts from a public host; these come with the package.
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


def _operation_id(route: APIRoute) -> str:
    """The name of the function: clients that are generated from the document call ``verify``, ``list_subjects``."""
    return route.name
