"""Applied to every request: an id, the gate, body limits, metrics, security headers, a problem for every failure."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Mapping
from http import HTTPMethod
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.gate import Gate
from app.api.metrics import Metrics
from app.api.problems import KINDS, RequestError, problem_response, reason_of
from app.api.tracing import RequestTracing
from app.errors import TesseraError

REQUEST_ID_HEADER = "X-Request-Id"
SERVER_TIMING_HEADER = "Server-Timing"
CLIENT_GONE = 499
"""Status recorded in metrics when a client hung up before sending its whole request."""
UNMATCHED = "unmatched"
"""Route of requests that no route answers."""
PROBES = frozenset({"/livez", "/readyz", "/metrics"})
"""Routes whose successes are not logged."""
SUCCESSFUL_BELOW = 400
ACCEPTED_ID = re.compile(r"[A-Za-z0-9._~+/=-]{1,128}")

METHODS = frozenset(HTTPMethod)
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
JSON_POLICY = "default-src 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
"""For pages: everything from this service. The documentation page starts its script inline."""
HTTPS_ONLY = "max-age=31536000"

logger = logging.getLogger("tessera")


def server_timing(stages: Mapping[str, float]) -> str:
    """Seconds by stage as a ``Server-Timing`` header (W3C): milliseconds, in the order the stages began."""
    return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in stages.items())


def _route_of(scope: Scope) -> str:
    """The template of the route that answered; Starlette's own, such as that of the document, are not noted."""
    route = scope.get("route")
    if route is None:
        route = next((known for known in scope["app"].router.routes if known.matches(scope)[0] is Match.FULL), None)
    return getattr(route, "path", UNMATCHED)


class BodyBudget:
    """The bytes of bodies that all requests together may hold in memory."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0

    def take(self, size: int, retry_after: int = 1) -> None:
        """Raises RequestError (overloaded) if there is no room for them."""
        if self._held + size > self._most:
            raise RequestError(
                "overloaded",
                f"The requests under way hold {self._held} bytes already; try again later, or elsewhere.",
                retry_after=retry_after,
            )
        self._held += size

    def give_back(self, size: int) -> None:
        """What a request held."""
        self._held -= size


class RequestMiddleware:
    """The outermost layer of the application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        max_body_bytes: int,
        max_bytes_in_flight: int,
        tracing: RequestTracing | None = None,
    ) -> None:
        self._app, self._metrics, self._max_body_bytes, self._tracing = app, metrics, max_body_bytes, tracing
        self._budget = BodyBudget(max_bytes_in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID_HEADER, "")
        request_id = given if ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer[REQUEST_ID_HEADER] = request_id
                if stages := scope["state"].get("stages"):
                    answer[SERVER_TIMING_HEADER] = server_timing(stages)
                add_security_headers(answer, https=scope.get("scheme") == "https")
            await send(message)

        self._metrics.in_progress.inc()
        body = _Body(receive, self._max_body_bytes, self._budget)
        try:
            await self._guarded(scope, headers, body, send_with_headers, request_id)
        except ClientDisconnect:
            status = CLIENT_GONE
        except Exception:
            scope["state"]["problem"] = "internal_error"
            logger.exception("request %s failed", request_id)
            if status:
                raise
            response = problem_response("internal_error", KINDS["internal_error"].example, request_id)
            await response(scope, receive, send_with_headers)
        finally:
            body.release()
            self._metrics.in_progress.dec()
            self._account(scope, headers, request_id, status, time.perf_counter() - started)

    def _account(self, scope: Scope, headers: Headers, request_id: str, status: int, seconds: float) -> None:
        """What became of a request, for the metrics, the log and the collector of traces."""
        # Clients can invent methods, and each would become a permanent time series.
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = _route_of(scope)
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)
        state = scope["state"]
        if (code := state.get("problem")) is not None:
            self._metrics.problems.labels(code).inc()
        if status < SUCCESSFUL_BELOW and route in PROBES:
            return
        fields = {
            "request_id": request_id,
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": round(1000 * seconds, 2),
            "key_id": getattr(state.get("caller"), "key_id", None),
            "error": code,
            "reason": state.get("reason"),
        }
        shown = {name: value for name, value in fields.items() if value is not None}
        log_request(shown)
        if self._tracing is not None:
            now = time.time_ns()
            self._tracing.record(headers, shown, state.get("stages", {}), (now - round(1e9 * seconds), now))

    async def _guarded(self, scope: Scope, headers: Headers, body: _Body, send: Send, request_id: str) -> None:
        try:
            gate: Gate | None = getattr(scope["app"].state, "gate", None)
            if gate is not None:
                scope["state"]["caller"] = await gate.admit(scope, headers)
            length = headers.get("content-length", "")
            if length.isdecimal() and int(length[:20]) > self._max_body_bytes:
                raise too_large(self._max_body_bytes)
        except TesseraError as error:
            scope["state"] |= {"problem": error.code, "reason": reason_of(error)}
            response = problem_response(error.code, error.message, request_id, error.details)
            await response(scope, body.receive, send)
            return
        await self._app(scope, body.receive, send)


class _Body:
    """Counts the bytes as they arrive: a chunked body announces no length."""

    def __init__(self, receive: Receive, most: int, budget: BodyBudget) -> None:
        self._receive, self._most, self._budget, self._received = receive, most, budget, 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            if self._received + size > self._most:
                raise too_large(self._most)
            self._budget.take(size)
            self._received += size
        return message

    def release(self) -> None:
        """The request is answered."""
        self._budget.give_back(self._received)
        self._received = 0


def log_request(fields: dict[str, Any]) -> None:
    """One record: a warning if it tells why the service failed."""
    level = logging.WARNING if "reason" in fields else logging.INFO
    if not logger.isEnabledFor(level):
        return
    shown = " ".join(str(fields[name]) for name in ("method", "route", "status"))
    rest = " ".join(f"{name}={fields[name]}" for name in ("request_id", "key_id", "error") if name in fields)
    reason = f": {fields['reason']}" if "reason" in fields else ""
    logger.log(level, "%s", f"{shown} {fields['duration_ms']} ms {rest}{reason}", extra={"fields": fields})


def add_security_headers(headers: MutableHeaders, *, https: bool) -> None:
    """What keeps browsers from guessing types, framing pages, keeping answers and leaking addresses (OWASP)."""
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    page = headers.get("content-type", "").startswith("text/html")
    headers.setdefault("Content-Security-Policy", PAGE_POLICY if page else JSON_POLICY)
    if https:
        headers.setdefault("Strict-Transport-Security", HTTPS_ONLY)


def too_large(most: int) -> RequestError:
    """The error for a body of more bytes."""
    return RequestError(
        "body_too_large",
        f"The body is larger than {most / 1e6:.1f} MB ({most} bytes), the most of any request "
        "(TESSERA_SERVER__MAX_BODY_BYTES); send fewer or smaller photographs.",
        max_body_bytes=most,
    )
