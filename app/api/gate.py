"""What every request must pass before anything of its body is read: host, origin, key, rates."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from starlette.datastructures import Headers
from starlette.types import Scope as AsgiScope

from app.api.problems import RequestError, invalid_fields
from app.errors import TesseraError
from app.security.errors import SecurityStoreUnavailable, Unauthenticated
from app.security.keys import Authenticator, Caller, Scope
from app.security.rates import RateLimits, network_of

LIVENESS = "/livez"
OPEN_PATHS = frozenset({"/", LIVENESS, "/readyz", "/openapi.json", "/docs"})
OPEN_PREFIXES = ("/docs/", "/page/")
PROXY_HEADERS = ("x-forwarded-for", "x-real-ip", "forwarded", "via")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SINGLE_HEADERS = (b"authorization", b"content-type", b"host", b"idempotency-key", b"origin")
REFRESH_SECONDS = 1.0
"""How soon a new or revoked key takes effect."""

EVERYTHING = frozenset({Scope.ADMIN})


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What is let in.

    Attributes:
        hosts: names in the Host header that are answered besides addresses, names without a dot and ``localhost``;
            ``*`` for all.
        origins: of web pages that may send requests.
        anonymous: requests without a key may do everything: always, while there are no keys, or never.
        per_key: rate of requests of one key, unless it has one of its own.
        per_address: rate of requests of one address.
        failed_keys: rate of wrong keys from one address.
    """

    hosts: frozenset[str]
    origins: frozenset[str]
    anonymous: str
    per_key: str | None
    per_address: str | None
    failed_keys: str | None


class Gate:
    """Checks the headers of requests."""

    def __init__(
        self,
        settings: GateSettings,
        authenticator: Authenticator,
        rates: RateLimits,
        run: Callable[[Callable[[], None]], Awaitable[None]],
    ) -> None:
        """``run`` runs a blocking call on a thread."""
        self._settings, self._authenticator, self._rates, self._run = settings, authenticator, rates, run
        self._refreshed = time.monotonic()

    async def admit(self, scope: AsgiScope, headers: Headers) -> Caller:
        """Who sends this request. Raises TesseraError if it must not be answered."""
        client = scope.get("client")
        address = network_of(client[0]) if client else "unknown"
        if is_open(scope):
            nobody = Caller(None, frozenset(), frozenset(), address)
            # Whether the process is alive must not depend on a database.
            if path_of(scope) == LIVENESS:
                return nobody
            try:
                return await self._admit_to_open_path(headers, address)
            except TesseraError:
                return nobody
        check_single(headers)
        check_host(headers.get("host", ""), self._settings.hosts)
        if scope["method"] not in SAFE_METHODS:
            check_origin(headers, self._settings.origins)
        await self._refresh()
        await self._count(self._settings.per_address, "address", address)
        return await self._authenticate(headers, address)

    async def _admit_to_open_path(self, headers: Headers, address: str) -> Caller:
        """Who asks for what is open to everybody. Raises TesseraError for who may do nothing else."""
        check_single(headers)
        check_host(headers.get("host", ""), self._settings.hosts)
        if "authorization" in headers or not self._authenticator.has_keys:
            # Where the keys cannot be read, the ones known so far let the operator ask `/readyz` why.
            with suppress(SecurityStoreUnavailable):
                await self._refresh()
        return await self._authenticate(headers, address)

    async def _refresh(self) -> None:
        """Reads the keys anew if they were not a moment ago. Raises SecurityStoreUnavailable."""
        if time.monotonic() - self._refreshed > REFRESH_SECONDS:
            self._refreshed = time.monotonic()
            await self._run(self._authenticator.refresh)

    async def _count(self, rate: str | None, kind: str, who: str) -> None:
        """Counts a request. Raises RateLimited if it is one too many; None is no limit."""
        if rate is None:
            return
        if self._rates.waits:
            await self._run(partial(self._rates.hit, rate, kind, who))
        else:
            self._rates.hit(rate, kind, who)

    async def _authenticate(self, headers: Headers, address: str) -> Caller:
        settings, authorization = self._settings, headers.get("authorization")
        if authorization is None:
            # What came through a proxy did not come from this machine.
            direct = not any(name in headers for name in PROXY_HEADERS)
            if settings.anonymous == "always" or (
                settings.anonymous == "without_keys" and direct and not self._authenticator.has_keys
            ):
                return Caller(None, EVERYTHING, None, address)
            raise Unauthenticated(
                "Send a key: `Authorization: Bearer tessera_...`; `tessera keys create` makes one on the server."
            )
        scheme, _, text = authorization.partition(" ")
        try:
            if scheme.lower() != "bearer":
                raise Unauthenticated("Send the key as `Authorization: Bearer tessera_...`.")
            key = self._authenticator.key_of(text.strip())
        except Unauthenticated:
            # Only wrong keys are counted and refused: others at the same address are not shut out by them.
            await self._count(settings.failed_keys, "address's wrong keys", address)
            raise
        await self._count(key.rate or settings.per_key, "key", key.id)
        return Caller(key.id, key.scopes, key.collections, address)


def path_of(scope: AsgiScope) -> str:
    """The path of a request without the prefix that a proxy has removed."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path


def is_open(scope: AsgiScope) -> bool:
    """Whether a path needs no key: health, documentation and the page, all without data."""
    path = path_of(scope)
    return scope["method"] in SAFE_METHODS and (path in OPEN_PATHS or path.startswith(OPEN_PREFIXES))


def check_single(headers: Headers) -> None:
    """Raises RequestError for a header that has one value and was sent twice: a proxy may have read the other one."""
    names = [name for name, _ in headers.raw]
    repeated = [name.decode().title() for name in SINGLE_HEADERS if names.count(name) > 1]
    if repeated:
        raise invalid_fields([{"field": name, "message": "given more than once"} for name in repeated])


def check_host(host: str, accepted: frozenset[str]) -> None:
    """Raises RequestError for a Host that a page elsewhere could have made its own by DNS rebinding.

    Addresses, names without a dot and ``localhost`` cannot be anybody else's domain.
    """
    name = host_name(host)
    if not name:
        raise RequestError("unknown_host", "The Host header is missing or not a host; send the address you asked for.")
    if "*" in accepted or name in accepted or "." not in name or name.endswith(".localhost") or _is_address(name):
        return
    raise RequestError(
        "unknown_host",
        "This name is not one that the service answers to; name it in TESSERA_SERVER__ALLOWED_HOSTS.",
    )


def check_origin(headers: Headers, accepted: frozenset[str]) -> None:
    """Raises RequestError for a request that a web page of another origin makes (Fetch Metadata, W3C)."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None:
        own = origin.partition("://")[2] == headers.get("host")
        if own or origin in accepted:
            return
    elif site in (None, "same-origin", "none"):
        return
    raise RequestError(
        "cross_origin",
        "A web page of another origin sent this request; if it may, name its origin in TESSERA_SERVER__CORS_ORIGINS.",
    )


def host_name(host: str) -> str:
    """The name or address in a Host header, lower case, without its port; empty if it is none."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    name, _, port = name.partition(":")
    return name.rstrip(".") if not port or port.isdecimal() else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
