"""``tessera serve``, ``tessera health`` and ``tessera version``."""

from __future__ import annotations

import http.client
import signal
import sys
import urllib.request
from typing import Annotated

import typer
import uvicorn

from app.cli.options import DataDirOption, load_settings, refuse, refusing
from app.main import build_service, create_app
from app.version import VERSION

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than the usual 60 seconds of proxies and clients, so that they close
it first. A server that closes first resets requests in flight."""


def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on  [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(help="port; 0 lets the system choose  [default: 8000]", min=0, max=65535)
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Starts the service; SIGTERM and Ctrl-C let requests under way finish."""
    with refusing():
        settings = load_settings(host, port, data_dir)
        service = build_service(settings)
    encoder = service.encoder
    typer.echo(
        f"tessera {VERSION}: encoder {encoder.name} {encoder.version} on {encoder.runtime} {encoder.precision}, "
        f"templates in {settings.gallery.data_dir}, documentation at /docs",
        err=True,
    )
    # After a graceful stop uvicorn re-raises the signal, which would end the process as if it had been killed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        create_app(settings, service),
        host=settings.server.host,
        port=settings.server.port,
        timeout_graceful_shutdown=settings.server.graceful_seconds,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


def health(
    url: Annotated[
        str | None, typer.Option(help="address of the service  [default: 127.0.0.1 and the port of the settings]")
    ] = None,
) -> None:
    """Asks a running service whether it is ready; exit code 0 if so, 1 if not."""
    if url is None:
        with refusing():
            url = f"http://127.0.0.1:{load_settings().server.port}"
    if not url.startswith(("http://", "https://")):
        raise refuse(f"{url} is not an http or https address")
    # No proxy: the check is whether this address itself answers.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url.rstrip('/')}/readyz", timeout=10) as response:
            sys.stdout.write(response.read().decode() + "\n")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise refuse(f"{url} is not ready: {str(error).strip()}") from error


def version() -> None:
    """Shows the version."""
    typer.echo(VERSION)
