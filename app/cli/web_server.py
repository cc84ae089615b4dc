"""uvicorn as ``tessera serve`` runs it."""

from __future__ import annotations

import logging
import os
import socket
import threading
from functools import partial

import uvicorn
from fastapi import FastAPI

from app.api.connections import BoundedHttpProtocol, ConnectionLimits
from app.api.tracing import RequestTracing
from app.cli.host import notify
from app.main import create_app
from app.recognition.service import RecognitionService
from app.settings import Settings, listed
from app.version import VERSION

_LOGGER = logging.getLogger("tessera")

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than the usual 60 seconds of proxies and clients, so that they close
it first. A server that closes first resets requests in flight."""
WRITE_SECONDS = 60
"""How long a client may leave an answer unread."""
EXIT_SECONDS = 10
"""How long after the graceful period the process may take to end."""


def web_server(
    settings: Settings, service: RecognitionService, tracing: RequestTracing | None, start: tuple[str, ...]
) -> WebServer:
    """The service behind HTTP. ``start``: what the log says when it answers."""
    return WebServer(_configuration(settings, create_app(settings, service, tracing)), start)


class WebServer(uvicorn.Server):
    """uvicorn that says what serves, and ends in time.

    What still works after the graceful period, and cannot be interrupted, is ended.
    """

    def __init__(self, config: uvicorn.Config, start: tuple[str, ...]) -> None:
        super().__init__(config)
        self._start = start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says where it answers, once it does."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            scheme = "https" if self.config.is_ssl else "http"
            address = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
            for line in (f"tessera {VERSION} answers at {address}, interface at {address}/docs", *self._start):
                _LOGGER.info(line)
            notify("READY=1")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Everything that was acknowledged is on the disk, so the process may end at any moment."""
        notify("STOPPING=1")
        patience = (self.config.timeout_graceful_shutdown or 0) + EXIT_SECONDS
        end = threading.Timer(patience, os._exit, (1,))
        end.daemon = True
        end.start()
        await super().shutdown(sockets)


def _configuration(settings: Settings, app: FastAPI) -> uvicorn.Config:
    server = settings.server
    limits = ConnectionLimits(
        max_connections=server.max_connections,
        max_header_bytes=server.max_header_bytes,
        header_seconds=server.header_seconds,
        idle_seconds=KEEP_ALIVE_SECONDS,
        body_bytes_per_second=server.min_body_rate,
        body_seconds=server.body_seconds,
        write_seconds=WRITE_SECONDS,
    )
    proxies = sorted(listed(server.trusted_proxies))
    return uvicorn.Config(
        app,
        host=server.host,
        port=server.port,
        http=partial(BoundedHttpProtocol, limits=limits),  # type: ignore[arg-type]
        ws="none",
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        server_header=False,
        # It would keep addresses and the ids of subjects in the log; the service writes lines of its own.
        access_log=False,
        log_config=None,
        ssl_certfile=server.tls_certificate,
        ssl_keyfile=server.tls_key,
        timeout_graceful_shutdown=server.graceful_seconds,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
