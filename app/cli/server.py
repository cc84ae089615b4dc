"""``tessera serve`` and ``tessera health``."""

from __future__ import annotations

import errno
import http.client
import ipaddress
import json
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import threading
import urllib.error
import urllib.request
from functools import partial
from typing import Annotated

import typer
import uvicorn
from fastapi import FastAPI
from pydantic_settings import SettingsError

from app.api.connections import BoundedHttpProtocol, ConnectionLimits
from app.api.tracing import open_tracing
from app.cli.host import check_certificate, notify
from app.cli.options import DataDirOption, load_settings, refuse, refusing, settings_without_data
from app.cli.output import ExitCode
from app.logs import configure_logging
from app.main import build_authenticator, build_service, create_app, open_security
from app.memory import share_arenas
from app.recognition.service import RecognitionService
from app.security.errors import SecurityStoreUnavailable
from app.settings import ServerSettings, Settings, listed
from app.version import VERSION

_LOGGER = logging.getLogger("tessera")

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than the usual 60 seconds of proxies and clients, so that they close
it first. A server that closes first resets requests in flight."""
WRITE_SECONDS = 60
"""How long a client may leave an answer unread."""
HEALTH_SECONDS = 10
MOST_ANSWER = 64 * 1024
"""Bytes of a health check's answer that are read."""
EXIT_SECONDS = 10
"""How long after the graceful period the process may take to end."""
SPARE_DESCRIPTORS = 100
"""Open files besides connections: databases, libraries."""


def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on  [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(help="port; 0 lets the system choose  [default: 8000]", min=0, max=65535)
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Starts the service; SIGTERM and Ctrl-C let requests under way finish."""
    share_arenas()
    with refusing():
        settings = load_settings(host, port, data_dir)
        configure_logging(settings.server.log_format, settings.server.log_level)
        require_address(settings.server)
        check_certificate(settings.server)
        tracing = open_tracing()
        open_to_all = require_keys(settings)
        service = build_service(settings)
        start = _start_lines(settings, service)
    if open_to_all:
        _LOGGER.warning(
            "Whoever reaches %s:%d may enrol, search and erase without a key (TESSERA_SECURITY__ALLOW_ANONYMOUS).",
            settings.server.host,
            settings.server.port,
        )
    # After a graceful stop uvicorn re-raises the signal, which would end the process as if it had been killed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _allow_descriptors(2 * settings.server.max_connections + SPARE_DESCRIPTORS)
    server = _Server(_configuration(settings, create_app(settings, service, tracing)), start)
    try:
        server.run()
    except SystemExit as ended:
        # uvicorn has said why: an address that is taken, a certificate that cannot be read.
        raise typer.Exit(ExitCode.CANNOT if ended.code else ExitCode.OK) from ended
    finally:
        service.close()
    if not server.started:
        raise typer.Exit(ExitCode.CANNOT)


def _start_lines(settings: Settings, service: RecognitionService) -> tuple[str, ...]:
    """What serves: one line each for data, encoder, decisions and keys."""
    encoder, criteria = service.encoder, service.criteria
    collections = service.gallery.collections()
    return (
        f"{_where(settings)}: {sum(c.subjects for c in collections)} subjects in {len(collections)} collection(s)",
        f"encoder {encoder.name} {encoder.version} on {encoder.runtime} {encoder.precision}",
        f"decisions at a false match rate of {criteria.target_fmr:g}, claim {criteria.claim}, calibration "
        f"{service.calibration.version}",
        f"keys {_keys_needed(settings)}",
    )


def _where(settings: Settings) -> str:
    return "PostgreSQL" if settings.gallery.url else f"data directory {settings.gallery.data_dir.resolve()}"


def _keys_needed(settings: Settings) -> str:
    if settings.security.allow_anonymous:
        return "not needed (TESSERA_SECURITY__ALLOW_ANONYMOUS)"
    if settings.server.beyond_loopback or _has_keys(settings):
        return "needed for every request"
    return "not needed on this machine while there are none (`tessera keys create NAME` makes one)"


def _has_keys(settings: Settings) -> bool:
    store = open_security(settings)
    try:
        return build_authenticator(settings, store).has_keys
    finally:
        store.close()


def require_address(server: ServerSettings) -> None:
    """Ends the command, before anything is opened, if another program listens there or this one may not."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # As the server does it: an IPv4 socket on this port is no hindrance.
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)
    except OSError as error:
        reason = {
            errno.EADDRINUSE: "is in use. Stop what uses it (`tessera health` says whether it is Tessera), or choose "
            "another port with --port.",
            errno.EACCES: "may not be used by this user. Choose a port from 1024 on with --port.",
        }.get(error.errno or 0, f"cannot be used: {error.strerror}. Look at --host and --port.")
        raise refuse(f"{server.host}:{server.port} {reason}", ExitCode.CANNOT) from error


def require_keys(settings: Settings) -> bool:
    """Whether anybody on the network may do everything, as the settings say; False if keys are needed or nobody can.

    Raises TesseraError for a service that other machines reach, without a key and without being told so.
    """
    if not settings.server.beyond_loopback:
        return False
    if settings.security.allow_anonymous:
        return True
    if not _has_keys(settings):
        raise SecurityStoreUnavailable(
            f"{settings.server.host} is reached from other machines, and there is no key yet. Create one with "
            f"`tessera keys create NAME --data-dir {settings.gallery.data_dir}`, name a file with one in "
            "TESSERA_SECURITY__ADMIN_KEY_FILE, or let everybody in with TESSERA_SECURITY__ALLOW_ANONYMOUS=true."
        )
    return False


class _Server(uvicorn.Server):
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


def _allow_descriptors(wanted: int) -> None:
    """Raises the soft limit on open files as far as it is needed and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def health(
    url: Annotated[
        str | None, typer.Option(help="address of the service  [default: this machine, by the settings]")
    ] = None,
) -> None:
    """Asks a running service whether it is ready; exit code 0 if so, 1 if not.

    Without --url it asks where the settings say that a service on this machine answers: port, TLS and address. A prefix
    that a proxy removes plays no part, for the service answers without it.
    """
    request_headers = {}
    if url is None:
        with refusing():
            url = own_address(settings_without_data().server)
        # A name that the settings do not allow in this header is still the service's own address.
        request_headers = {"Host": "localhost"}
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{url} is not an http or https address")
    # No proxy: the check is whether this address itself answers. Its certificate is made out to another name.
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unverified)
    )
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/readyz", headers=request_headers)  # noqa: S310
        with direct.open(request, timeout=HEALTH_SECONDS) as response:
            typer.echo(response.read(MOST_ANSWER).decode(errors="replace"))
    except urllib.error.HTTPError as error:
        raise refuse(f"{url} is not ready: {error.code}: {_detail(error)}", ExitCode.NO) from error
    except urllib.error.URLError as error:
        reason = str(getattr(error.reason, "strerror", None) or error.reason)
        raise refuse(f"{url} is not ready: {reason}. Is it the right address (--url)?", ExitCode.NO) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise refuse(f"{url} is not ready: {str(error).strip()}", ExitCode.NO) from error


def _detail(error: urllib.error.HTTPError) -> str:
    """What a problem says, or the reason of the status."""
    try:
        return str(json.loads(error.read(MOST_ANSWER))["detail"])
    except (OSError, ValueError, KeyError, TypeError):
        return str(error.reason)


def own_address(server: ServerSettings) -> str:
    """Where a service with these settings answers on this machine. Raises SettingsError if the port is unknown."""
    if not server.port:
        raise SettingsError("TESSERA_SERVER__PORT is 0, so the system chose the port: give its address with --url.")
    scheme = "https" if server.tls_certificate else "http"
    try:
        address = ipaddress.ip_address(server.host)
    except ValueError:
        return f"{scheme}://{server.host}:{server.port}"
    host = "127.0.0.1" if address.is_unspecified else str(address)
    return f"{scheme}://[{host}]:{server.port}" if ":" in host else f"{scheme}://{host}:{server.port}"
