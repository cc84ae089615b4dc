"""Time and size limits for connections: what uvicorn itself does not bound.

A connection that sends half a header, or a body that never ends, would otherwise stay open for ever, and headers could
be of any size. The idea follows Apache's ``mod_reqtimeout``: a time for the header, and a rate for the body.
"""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_PIPELINED = 4
"""Requests of one connection that may wait for the answer to an earlier one."""
CHECK_SECONDS = 1.0
"""How often a connection is looked at."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may do.

    Attributes:
        max_connections: open at once; more are refused with 503.
        max_header_bytes: of one request's first line and headers.
        header_seconds: from the first byte of a request, or from the connection, until its headers are complete.
        idle_seconds: between two requests.
        body_bytes_per_second: lowest rate of a body, over each window of ``window_seconds``.
        body_seconds: until a body is complete.
        write_seconds: how long a client may leave an answer unread.
        window_seconds: over which a rate is taken.
    """

    max_connections: int
    max_header_bytes: int
    header_seconds: float
    idle_seconds: float
    body_bytes_per_second: int
    body_seconds: float
    write_seconds: float
    window_seconds: float = 5.0


class Phase(Enum):
    """What a connection waits for."""

    IDLE = auto()
    """The next request."""
    HEADER = auto()
    """The rest of a request's headers."""
    BODY = auto()
    """The rest of a request's body."""
    ANSWER = auto()
    """This service's answer."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, with `ConnectionLimits`."""

    def __init__(self, *arguments: Any, limits: ConnectionLimits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = limits
        self._phase, self._since = Phase.IDLE, self.loop.time()
        self._requests = 0
        self._header_bytes, self._header_too_large = 0, False
        self._window_since, self._window_bytes = self._since, 0
        self._write_paused_at: float | None = None
        self._check_timer: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuses one connection too many."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        self._check_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the checks."""
        if self._check_timer is not None:
            self._check_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what arrives; headers may come in many pieces."""
        if self.transport.is_closing():
            return
        self._window_bytes += len(data)
        self._header_bytes += len(data)
        super().data_received(data)
        if self._phase is Phase.HEADER and self._header_bytes > self._limits.max_header_bytes:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._enter(Phase.HEADER)
        self._header_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Passes over trailers, which nobody reads and nothing else bounds."""
        if self._phase is Phase.HEADER:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body follows. Raises ValueError, which the parser passes on, for headers that are too large.

        So it does for too many requests that arrived before the first of them was answered: each waits in memory.
        """
        if len(self.pipeline) >= MOST_PIPELINED:
            raise ValueError("too many requests wait for answers on this connection")
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        self._header_too_large = size > self._limits.max_header_bytes
        if self._header_too_large:
            raise ValueError("the headers are too large")
        self._requests += 1
        self._enter(Phase.BODY)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The answer follows, if it was not sent already."""
        super().on_message_complete()
        self._enter(Phase.IDLE if self.cycle.response_complete else Phase.ANSWER)

    def on_response_complete(self) -> None:
        """The next request may follow, once the body is in."""
        super().on_response_complete()
        if self._phase is Phase.ANSWER and not self.pipeline:
            self._enter(Phase.IDLE)

    def pause_writing(self) -> None:
        """The client does not read."""
        self._write_paused_at = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._write_paused_at = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answers a request that cannot be parsed, or whose headers ``on_headers_complete`` refused."""
        if self._header_too_large:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # an answer is under way: anything else would be taken for a part of it
        else:
            super().send_400_response(msg)

    def _enter(self, phase: Phase) -> None:
        self._phase, self._since = phase, self.loop.time()
        self._window_since, self._window_bytes = self._since, 0

    def _check_later(self) -> None:
        self._check_timer = self.loop.call_later(CHECK_SECONDS, self._check)

    def _check(self) -> None:
        if self.transport.is_closing():
            # What is left to send gets until the next check; a client that does not read it would keep it for ever.
            self.transport.abort()
            return
        now, limits = self.loop.time(), self._limits
        if self._write_paused_at is not None and now - self._write_paused_at > limits.write_seconds:
            self.transport.abort()
        elif self._phase is Phase.IDLE:
            if now - self._since > (limits.idle_seconds if self._requests else limits.header_seconds):
                self.transport.close()
        elif self._phase is Phase.HEADER:
            if now - self._since > limits.header_seconds:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        elif self._phase is Phase.BODY:
            self._check_body(now)
        self._check_later()

    def _check_body(self, now: float) -> None:
        limits = self._limits
        if self.flow.read_paused:  # this service reads too slowly, not the client
            self._window_since, self._window_bytes = now, 0
            return
        if now - self._since > limits.body_seconds:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        elif now - self._window_since > limits.window_seconds:
            if self._window_bytes < limits.body_bytes_per_second * (now - self._window_since):
                self._refuse(HTTPStatus.REQUEST_TIMEOUT)
            self._window_since, self._window_bytes = now, 0

    def _refuse(self, status: HTTPStatus) -> None:
        """Sends a problem, unless an answer was begun, and closes the connection."""
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
                self.transport.write(_refusal(status))
            self.transport.close()


REFUSALS = {
    HTTPStatus.REQUEST_TIMEOUT: ("request_timeout", "The request did not arrive in time; send it whole."),
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: ("header_too_large", "The headers are too large; send fewer."),
    HTTPStatus.SERVICE_UNAVAILABLE: ("overloaded", "Too many connections are open; try again later."),
}


def _refusal(status: HTTPStatus) -> bytes:
    code, detail = REFUSALS[status]
    body = (
        f'{{"type":"urn:tessera:problem:{code}","title":"{status.phrase}","status":{status.value},'
        f'"detail":"{detail}","code":"{code}"}}'
    )
    retry = "retry-after: 1\r\n" if status is HTTPStatus.SERVICE_UNAVAILABLE else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\n{retry}connection: close\r\n\r\n"
    )
    return (head + body).encode()
