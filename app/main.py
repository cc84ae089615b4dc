"""The application: builds its components once and wires the routers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import cast

import cv2
from fastapi import Depends, FastAPI
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from app.api.admission import AdmissionControl
from app.api.dependencies import Components, Security
from app.api.document import install_document
from app.api.field_errors import query_errors
from app.api.gate import Gate, GateSettings
from app.api.metrics import Metrics
from app.api.middleware import RequestMiddleware
from app.api.problems import install_problem_handlers
from app.api.routes import audits, collections, health, recognition, subjects
from app.api.tracing import RequestTracing, open_tracing
from app.api.undeclared import refuse_undeclared
from app.audits.jobs import AuditJobs
from app.crowding import Crowding, load_crowding
from app.decisions import Calibration, load_calibration, read_calibration
from app.embeddings import MOST_FUSED
from app.encoding import EncoderRuntime, EncoderWeights, create_runtime, load_weights
from app.errors import TesseraError
from app.faces import DecodeLimits, DetectorSettings, FaceFinder, QualityLimits, WorkLimits, YunetDetector
from app.gallery import Gallery, GalleryUnavailable, SqliteGallery
from app.gallery.sqlite.snapshot import GalleryCopy
from app.gallery.sqlite.vault import VAULT_NAME, FileKeyWrapper, Vault, load_wrapper
from app.openvino import available_cores
from app.recognition.collections import CollectionService
from app.recognition.criteria import Criteria
from app.recognition.service import RecognitionService
from app.recognition.subjects import SubjectService
from app.security.errors import SecurityStoreUnavailable
from app.security.keys import Authenticator
from app.security.lockout import Lockout
from app.security.rates import LocalRateLimits, RateLimits
from app.security.store import SecurityStore
from app.security.trail import AuditTrail
from app.settings import Settings, listed
from app.version import VERSION
from app.web.page import page_router

SHORTEST_ADMIN_KEY = 32
PRUNE_SECONDS = 24 * 3600.0

_LOGGER = logging.getLogger("tessera")

THREADS_A_CORE = 2
"""While some threads wait for the encoder, others decode photographs and detect faces."""


@dataclass(frozen=True, slots=True)
class EncoderFiles:
    """An encoder with the calibration and the crowding that belong to it; nothing is compiled yet."""

    weights: EncoderWeights
    calibration: Calibration
    crowding: Crowding

    @property
    def most_fused(self) -> int:
        """How many templates of a subject are compared at most: rates of more were not measured."""
        return min(self.calibration.most_templates, MOST_FUSED)


def load_encoder_files(settings: Settings) -> EncoderFiles:
    """Reads and checks the encoder's files. Raises TesseraError, with a message for the operator."""
    directory, own = settings.encoding.directory, settings.decisions.calibration
    weights = load_weights(directory)
    calibration = load_calibration(directory, weights.sha256) if own is None else read_calibration(own, weights.sha256)
    return EncoderFiles(weights, calibration, load_crowding(directory, calibration.cohort_sha256))


def open_gallery(
    settings: Settings, encoder_sha256: str, crowding: Crowding, most_fused: int = MOST_FUSED, *, serves: bool = True
) -> Gallery:
    """The gallery in PostgreSQL if the settings name one, else that of the data directory.

    serves: as a service, whose encoder and calibration the gallery takes. Raises GalleryError.
    """
    chosen = settings.gallery
    if chosen.url is not None:
        gallery = postgres_part("gallery.postgres.gallery").PostgresGallery(
            chosen.url.get_secret_value(),
            encoder_digest=encoder_sha256,
            crowding=crowding,
            most_fused=most_fused,
            read_url=None if chosen.read_url is None else chosen.read_url.get_secret_value(),
            connections=chosen.connections,
            index=postgres_part("gallery.postgres.search").IndexUse(
                chosen.search_exact_up_to, chosen.search_breadth, audit_seconds=chosen.search_audit_seconds or None
            ),
            rebinds=serves,
        )
        return cast(Gallery, gallery)
    return SqliteGallery(
        settings.gallery.data_dir,
        encoder_digest=encoder_sha256,
        crowding=crowding,
        most_fused=most_fused,
        keys=open_vault(settings),
    )


def open_beside(settings: Settings, encoder_sha256: str, crowding: Crowding, most_fused: int = MOST_FUSED) -> Gallery:
    """As ``open_gallery``, for a command: the gallery of services that compute otherwise is refused."""
    return open_gallery(settings, encoder_sha256, crowding, most_fused, serves=False)


def open_copy(settings: Settings, encoder_sha256: str, crowding: Crowding, most_fused: int = MOST_FUSED) -> Gallery:
    """What is in the gallery, for reading; services may be using it. Raises GalleryError."""
    if settings.gallery.url is not None:
        return open_beside(settings, encoder_sha256, crowding, most_fused)
    keys = open_vault(settings, create=False)
    return GalleryCopy(
        settings.gallery.data_dir, encoder_digest=encoder_sha256, crowding=crowding, most_fused=most_fused, keys=keys
    )


def no_gallery(settings: Settings, encoder_sha256: str, crowding: Crowding, most_fused: int) -> GalleryCopy:  # noqa: ARG001
    """An empty gallery, in memory, for what needs none; the data directory is not touched."""
    return GalleryCopy(None, encoder_digest=encoder_sha256, crowding=crowding, most_fused=most_fused)


def postgres_part(name: str) -> ModuleType:
    """A module of ``app`` that needs the packages of an extra. Raises GalleryUnavailable without them."""
    try:
        return import_module(f"app.{name}")
    except ImportError as error:
        raise GalleryUnavailable(
            f"gallery.url is set, but {error.name} is not installed: pip install 'tessera-face[postgres]'."
        ) from error


def open_vault(settings: Settings, *, create: bool = True) -> Vault | None:
    """The keys of encrypted templates; None if they are not encrypted, or, unless ``create``, if there are none yet.

    Raises GalleryError.
    """
    chosen = settings.gallery
    if not create and not (chosen.data_dir / VAULT_NAME).exists():
        return None
    if chosen.key_wrapper is not None:
        return Vault(chosen.data_dir, load_wrapper(chosen.key_wrapper))
    if chosen.master_key_file is not None:
        return Vault(chosen.data_dir, FileKeyWrapper(chosen.master_key_file))
    return None


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
        max_faces=faces.max_faces,
    )


OpenGallery = Callable[[Settings, str, Crowding, int], Gallery]
"""Opens a gallery for the encoder with a digest, with its crowding and the most templates of a subject to compare."""


def build_service(settings: Settings, open_gallery: OpenGallery = open_gallery) -> RecognitionService:
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
    faces = settings.faces
    with ThreadPoolExecutor(max_workers=2) as pool:
        # Compiling runs outside of Python's lock, reading the gallery inside it: side by side they take less time.
        encoder = pool.submit(build_encoder, settings, files.weights)
        finder = pool.submit(build_finder, settings)
        gallery = open_gallery(settings, files.weights.sha256, files.crowding, files.most_fused)
    try:
        service = RecognitionService(
            finder.result(),
            encoder.result(),
            gallery,
            criteria,
            crowding=files.crowding,
            enforce_quality=faces.enforce_quality,
            inconclusive=decisions.inconclusive,
            work_limits=WorkLimits(max_pixels=faces.max_request_pixels, max_seconds=faces.max_request_seconds),
        )
        service.warm_up()
        return service
    except TesseraError:
        gallery.close()
        raise


def open_security(settings: Settings, *, create: bool = True) -> SecurityStore:
    """Keys and audit trail, where the gallery is. Raises SecurityStoreUnavailable."""
    directory, secret_file, url = settings.gallery.data_dir, settings.security.secret_file, settings.gallery.url
    if url is None:
        return SecurityStore(directory, secret_file, create=create)
    store = postgres_part("security.postgres").PostgresSecurityStore
    return cast(SecurityStore, store(url.get_secret_value(), directory, secret_file, create=create))


def open_lockout(settings: Settings, store: SecurityStore) -> Lockout:
    """Failed verifications, counted where the keys are. Raises SecurityStoreUnavailable."""
    kind = Lockout if settings.gallery.url is None else postgres_part("security.postgres").SharedLockout
    return cast(Lockout, kind(store, enabled=settings.security.lockout))


def open_rates(settings: Settings, store: SecurityStore) -> RateLimits:
    """Rates of requests, counted where the keys are."""
    if settings.gallery.url is None:
        return LocalRateLimits()
    return cast(RateLimits, postgres_part("security.shared_rates").SharedRateLimits(store))


def build_authenticator(settings: Settings, store: SecurityStore) -> Authenticator:
    """The keys that are accepted. Raises SecurityStoreUnavailable, also for an admin key file without a key."""
    path = settings.security.admin_key_file
    if path is None:
        return Authenticator(store)
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise SecurityStoreUnavailable(f"The admin key file {path} cannot be read: {error}.") from error
    if len(key) < SHORTEST_ADMIN_KEY:
        raise SecurityStoreUnavailable(
            f"The key in {path} is too short to be safe: at least {SHORTEST_ADMIN_KEY} characters, such as from "
            "`openssl rand -hex 32`."
        )
    return Authenticator(store, admin_key=key)


def build_gate(settings: Settings, authenticator: Authenticator, rates: RateLimits, components: Components) -> Gate:
    """What every request has to pass."""
    server, security = settings.server, settings.security
    without_keys = "never" if server.beyond_loopback else "without_keys"
    chosen = GateSettings(
        hosts=listed(server.allowed_hosts),
        origins=listed(server.cors_origins),
        anonymous="always" if security.allow_anonymous else without_keys,
        per_key=security.key_rate,
        per_address=security.address_rate,
        failed_keys=security.failed_key_rate,
    )
    return Gate(chosen, authenticator, rates, components.on_thread)


def build_components(
    settings: Settings, service: RecognitionService, metrics: Metrics, store: SecurityStore
) -> Components:
    """The components that routes use."""
    server, security, cores = settings.server, settings.security, available_cores()
    metrics.describe(version=VERSION, **_description(service))
    if isinstance(service.gallery, SqliteGallery):
        store.make_room = service.gallery.make_room
    trail = AuditTrail(store, plain_ids=security.audit_plain_ids)
    trail.prune(security.audit_days)
    return Components(
        settings=settings,
        recognition=service,
        subjects=SubjectService(service.gallery, service.calibration, service.crowding),
        collections=CollectionService(service.gallery, service.criteria),
        audits=AuditJobs(service.gallery, service.calibration, service.crowding),
        admission=AdmissionControl(
            server.threads or THREADS_A_CORE * cores, server.max_waiting, server.request_seconds, metrics
        ),
        metrics=metrics,
        security=Security(store, open_lockout(settings, store), trail),
    )


def _description(service: RecognitionService) -> dict[str, str]:
    encoder, calibration = service.encoder, service.calibration
    return {
        "encoder": encoder.name,
        "encoder_version": encoder.version,
        "runtime": encoder.runtime,
        "precision": encoder.precision,
        "calibration_version": str(calibration.version),
    }


def create_app(
    settings: Settings | None = None,
    service: RecognitionService | None = None,
    tracing: RequestTracing | None = None,
) -> FastAPI:
    """The ASGI application. It closes the service and the tracing, given or built, when it shuts down.

    Raises TracingUnavailable.
    """
    chosen = settings or Settings()
    metrics, traces = Metrics(), tracing or open_tracing()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = open_security(chosen)
        authenticator = build_authenticator(chosen, store)
        components = build_components(chosen, service or build_service(chosen), metrics, store)
        app.state.components = components
        app.state.gate = build_gate(chosen, authenticator, open_rates(chosen, store), components)
        pruning = asyncio.create_task(_prune_daily(components, chosen.security.audit_days))
        try:
            yield
        finally:
            pruning.cancel()
            components.close()
            if traces is not None:
                traces.close()

    app = FastAPI(
        title="Tessera",
        version=VERSION,
        summary="Self-hosted face verification: enrol, verify and identify at a measured false match rate",
        lifespan=lifespan,
        generate_unique_id_function=_operation_id,
        # The address it makes leads out of the prefix of a proxy, and clients send photographs and key after it.
        redirect_slashes=False,
        # FastAPI's own pages load scripts from a public host; these come with the package.
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    # FastAPI warns of the argument: uvicorn should have the prefix. What serves in tests is not uvicorn.
    app.root_path = chosen.server.root_path
    app.add_middleware(
        RequestMiddleware,
        metrics=metrics,
        max_body_bytes=chosen.server.max_body_bytes,
        max_bytes_in_flight=chosen.server.max_bytes_in_flight,
        tracing=traces,
    )
    if origins := listed(chosen.server.cors_origins):
        # The outermost, so that pages can read refusals, too. Keys come in a header; cookies do not exist.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Prefer", "X-Request-Id"],
            expose_headers=["Retry-After", "Server-Timing", "X-Request-Id"],
        )
    install_problem_handlers(app, query_errors)
    for router in (recognition.router, subjects.router, collections.router, audits.router, health.router):
        app.include_router(router, dependencies=[Depends(refuse_undeclared)])
    install_document(app)
    if chosen.server.page:
        app.include_router(page_router())
    else:

        @app.get("/", include_in_schema=False)
        async def root() -> RedirectResponse:
            # Relative: a prefix or a scheme that only a proxy knows is not lost.
            return RedirectResponse("docs")

    return app


async def _prune_daily(components: Components, days: int) -> None:
    """Removes old records of the audit trail as long as the service runs; it was done once at the start."""
    while True:
        await asyncio.sleep(PRUNE_SECONDS)
        try:
            await components.on_thread(components.trail.prune, days)
            await components.on_thread(components.lockout.forget_old)
        except SecurityStoreUnavailable as error:
            _LOGGER.warning("%s Old records are removed a day later.", error.message)


def _operation_id(route: APIRoute) -> str:
    """The name of the function: clients that are generated from the document call ``verify``, ``list_subjects``."""
    return route.name
