"""``tessera health``."""

from __future__ import annotations

import http.client
import ipaddress
import json
import ssl
import urllib.error
import urllib.request
from typing import Annotated

import typer
from pydantic_settings import SettingsError

from app.cli.options import refuse, refusing, settings_without_data
from app.cli.output import ExitCode
from app.settings import ServerSettings

HEALTH_SECONDS = 10
MOST_ANSWER = 64 * 1024
"""Bytes of a health check's answer that are read."""


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
