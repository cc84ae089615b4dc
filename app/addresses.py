"""Hosts, origins and networks in settings: what could match no request is refused."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

EVERY = "*"
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[^]]*\]|[^]:/?#@[]+)(:(?P<port>\d{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LARGEST_PORT = 65535


def each(text: str, check: Callable[[str], str]) -> str:
    """The items of a setting that are separated by commas, each as ``check`` returns it. Raises what it raises."""
    return ",".join(check(item.strip()) for item in text.split(",") if item.strip())


def allowed_host(text: str) -> str:
    """A name or an address as the gate looks for it, in lower case and without a port, or ``*``. Raises ValueError."""
    name = text.lower().removesuffix(".")
    if name == EVERY or _HOST.fullmatch(name):
        return name
    if (address := _address(name)) is not None:
        return address
    raise ValueError(
        f"{text!r} is no host: name it without scheme, port and path, such as faces.example, in ASCII (xn--...); "
        "* is for all hosts, and no part of a name"
    )


def origin(text: str) -> str:
    """An origin as browsers send it, ``scheme://host[:port]`` without the scheme's own port. Raises ValueError."""
    parts = _ORIGIN.fullmatch(text.lower())
    host = None if parts is None else _host_of_url(parts["host"])
    port = 0 if parts is None or parts["port"] is None else int(parts["port"])
    if parts is None or host is None or port > _LARGEST_PORT:
        raise ValueError(
            f"{text!r} is no origin: name it as scheme://host or scheme://host:port, such as https://desk.example, "
            "without a path or a slash at its end; there is no * for all"
        )
    shown = "" if port in (0, _DEFAULT_PORTS.get(parts["scheme"])) else f":{port}"
    return f"{parts['scheme']}://{host}{shown}"


def network(text: str) -> str:
    """An address or a network of addresses. Raises ValueError."""
    try:
        return str(ipaddress.ip_network(text) if "/" in text else ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no address and no network, such as 10.1.0.7 or 10.1.0.0/16: {error}; "
            "a proxy is known by its address, not by its name"
        ) from error


def _host_of_url(text: str) -> str | None:
    """A host as it is written in a URL, with an IPv6 address in brackets; None if it is none."""
    if text.startswith("["):
        address = _address(text)
        return None if address is None else f"[{address}]"
    return text if _HOST.fullmatch(text) else None


def _address(text: str) -> str | None:
    """An IPv6 address, with or without brackets, in its shortest form; None if it is none."""
    try:
        return str(ipaddress.IPv6Address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        return None
