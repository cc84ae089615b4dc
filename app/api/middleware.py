"""Applied to every request: an id, a body limit, metrics, and a problem response when a handler fails."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Mapping
from http import HTTPMethod

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.metrics import Metrics
from app.api.problems import KINDS, RequestError, problem_response

REQUEST_ID_HEADER = "X-Request-Id"
SERVER_TIMING_HEADER = "Server-Timing"
CLIENT_GONE = 499
"""Status recorded in metrics when a client hung up before sending its whole request."""
ACCEPTED_ID = re.compile(r"[A-Za-z0-9._~+/=-]{1,128}")

METHODS = frozenset(HTTPMethod)

logger = logging.getLogger("tessera")


def server_timing(stages: Mapping[str, float]) -> str:
    """Seconds by stage as a ``Server-Timing`` header (W3C): milliseconds, in the order the stages began."""
    return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in stages.items())


class RequestMiddleware:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, max_body_bytes: int) -> None:
        self._app, self._metrics, self._max_body_bytes = app, metrics, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID_HEADER, "")
        request_id = given if ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer[REQUEST_ID_HEADER] = request_id
                if stages := scope["state"].get("stages"):
                    answer[SERVER_TIMING_HEADER] = server_timing(stages)
            await send(message)

        self._metrics.in_progress.inc()
        try:
            await self._guarded(scope, self._limited(receive), send_with_id, request_id)
        except ClientDisconnect:
            status = CLIENT_GONE
        except Exception:
            logger.exception("request %s failed", request_id)
            if status:
                raise
            response = problem_response("internal_error", KINDS["internal_error"].example, request_id)
            await response(scope, receive, send_with_id)
        finally:
            self._metrics.in_progress.dec()
            # Clients can invent methods, and each would become a permanent time series.
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.seconds.labels(method, route).observe(time.perf_counter() - started)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            error = self._too_large()
            response = problem_response(error.code, error.message, request_id, error.details)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _limited(self, receive: Receive) -> Receive:
        """Counts the bytes as they arrive: a chunked body announces no length."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._max_body_bytes:
                    raise self._too_large()
            return message

        return counted

    def _too_large(self) -> RequestError:
        return RequestError(
            "body_too_large",
            f"The body is larger than {self._max_body_bytes} bytes; send fewer or smaller images.",
            max_body_bytes=self._max_body_bytes,
        )
