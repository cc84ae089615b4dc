"""``tessera serve``."""

from __future__ import annotations

import errno
import logging
import resource
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Annotated

import typer

from app.api.tracing import open_tracing
from app.cli.host import check_certificate
from app.cli.options import DataDirOption, load_settings, refuse, refusing
from app.cli.output import ExitCode
from app.composition import build_authenticator, build_service, open_security
from app.logs import configure_logging
from app.memory import share_arenas
from app.recognition.service import RecognitionService
from app.security.errors import SecurityStoreUnavailable
from app.settings import ServerSettings, Settings

_LOGGER = logging.getLogger("tessera")

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
        with ThreadPoolExecutor(max_workers=1) as pool:
            # Half a second of modules, during which the encoder is compiled. Ctrl-C interrupts the service's part.
            loading = pool.submit(import_module, "app.cli.web_server")
            service = build_service(settings)
            loading.result()
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
    # Not at the top: other commands need no web server, and this one meanwhile builds the service.
    from app.cli.web_server import web_server  # noqa: PLC0415

    server = web_server(settings, service, tracing, start)
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


def _allow_descriptors(wanted: int) -> None:
    """Raises the soft limit on open files as far as it is needed and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
