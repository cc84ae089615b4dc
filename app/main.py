"""The application: builds its components once and wires the routers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
from app.composition import (
    THREADS_A_CORE,
    build_authenticator,
    build_service,
    open_lockout,
    open_rates,
    open_security,
)
from app.gallery import SqliteGallery
from app.openvino import available_cores
from app.recognition.collections import CollectionService
from app.recognition.service import RecognitionService
from app.recognition.subjects import SubjectService
from app.security.errors import SecurityStoreUnavailable
from app.security.keys import Authenticator
from app.security.rates import RateLimits
from app.security.store import SecurityStore
from app.security.trail import AuditTrail
from app.settings import Settings, listed
from app.version import VERSION
from app.web.page import page_router

PRUNE_SECONDS = 24 * 3600.0

_LOGGER = logging.getLogger("tessera")


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
