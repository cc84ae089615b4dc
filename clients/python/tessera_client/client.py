"""The two clients: each sends what ``operations`` describes, one blocking, one with ``await``."""

from __future__ import annotations

import asyncio
import inspect
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from tessera_client import operations, results
from tessera_client.errors import ConnectionFailedError, InvalidRequestError, TesseraError
from tessera_client.operations import Call, error_in
from tessera_client.retries import Retries, Schedule
from tessera_client.version import VERSION

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

CONNECT_SECONDS = 5.0
TIMEOUT = 60.0
"""Seconds. The service lets a request wait for 30 by default, then refuses it."""
PAGE = 100


def _options(
    url: str, key: str | None, timeout: float, tls: ssl.SSLContext | bool, headers: dict[str, str]
) -> dict[str, Any]:
    if not _is_address(url):
        raise ValueError(f"{url!r} is no address of a service, such as https://faces.example")
    authorization = {} if key is None else {"Authorization": f"Bearer {_sendable(key)}"}
    return {
        "base_url": url,
        "headers": {"User-Agent": f"tessera-client/{VERSION}"} | headers | authorization,
        "timeout": httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
        "verify": tls,
    }


def _is_address(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in {"http", "https"} and bool(parsed.host) and not parsed.query and not parsed.fragment


def _sendable(key: str) -> str:
    """A key without the white space around it. Raises ValueError, which does not quote it: it is a secret."""
    key = key.strip()
    if re.fullmatch(r"[ -~]+", key) is None:
        raise ValueError("the key is empty, or is not one line of ASCII, which every key is")
    return key


def _failed(failure: httpx.RequestError, url: httpx.URL) -> TesseraError:
    if isinstance(failure, httpx.DecodingError):
        return TesseraError("unexpected_answer", f"the answer of {url} cannot be read: {failure}")
    if isinstance(failure, httpx.LocalProtocolError):
        return InvalidRequestError("invalid_request", f"what was given cannot be sent: {failure}")
    what = "did not answer in time" if isinstance(failure, httpx.TimeoutException) else "gave no answer"
    return ConnectionFailedError("connection_failed", f"{url} {what}: {failure or type(failure).__name__}")


def _signed(method: F, build: Callable[..., Any]) -> F:
    """Gives a method the signature that ``help`` and mocks show, which ``wraps`` alone takes for one without self."""
    of_build = inspect.signature(build)
    of_method = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY), *of_build.parameters.values()
    result = str(of_build.return_annotation).removeprefix("Call[").removesuffix("]")
    method.__dict__["__signature__"] = of_build.replace(parameters=of_method, return_annotation=result)
    return method


def _blocking(build: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    @wraps(build)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._send(build(*args, **kwargs))

    return _signed(method, build)


def _awaited(build: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    @wraps(build)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._send(build(*args, **kwargs))

    return _signed(method, build)


class Client:
    """A service, asked by blocking calls. May be used by several threads; use ``with`` or ``close`` to end it.

    Every method raises ``TesseraError``, by its ``code`` one of the subclasses in ``tessera_client.errors``; OSError
    for a file that cannot be read; TypeError or ValueError for what no request can hold.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        retries: Retries = Retries(),  # noqa: B008
        tls: ssl.SSLContext | bool = True,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Nothing is sent before the first call.

        Args:
            url: where the service is, with the prefix of a proxy if there is one.
            key: an API key, ``tessera_...``; white space around it, as at the end of a file, is left out.
            timeout: seconds without progress, for one attempt.
            retries: how often and how long a request is repeated that the service refused for a while, or that did not
                reach it.
            tls: a context for certificates of your own; False checks none.
            headers: sent with every request.

        Raises ValueError for an address or a key that cannot be one.
        """
        self._http = httpx.Client(**_options(url, key, timeout, tls, headers or {}))
        self._retries = retries

    enroll = _blocking(operations.enroll)
    verify = _blocking(operations.verify)
    identify = _blocking(operations.identify)
    detect = _blocking(operations.detect)
    list_subjects = _blocking(operations.list_subjects)
    get_subject = _blocking(operations.get_subject)
    update_subject = _blocking(operations.update_subject)
    merge_subjects = _blocking(operations.merge_subjects)
    delete_subject = _blocking(operations.delete_subject)
    delete_template = _blocking(operations.delete_template)
    list_collections = _blocking(operations.list_collections)
    get_collection = _blocking(operations.get_collection)
    create_collection = _blocking(operations.create_collection)
    update_collection = _blocking(operations.update_collection)
    delete_collection = _blocking(operations.delete_collection)
    start_audit = _blocking(operations.start_audit)
    get_audit = _blocking(operations.get_audit)
    get_audit_page = _blocking(operations.get_audit_page)
    get_model = _blocking(operations.get_model)
    livez = _blocking(operations.livez)
    readyz = _blocking(operations.readyz)
    get_metrics = _blocking(operations.get_metrics)

    def subjects(self, *, collection: str | None = None, page: int = PAGE) -> Iterator[results.Subject]:
        """All subjects of a collection, ordered by id, asked for ``page`` at a time."""
        cursor: str | None = None
        while True:
            found = self.list_subjects(collection=collection, cursor=cursor, limit=page)
            yield from found.subjects
            cursor = found.next_cursor
            if cursor is None:
                return

    def _send(self, call: Call[T]) -> T:
        schedule = Schedule(self._retries, repeatable=call.repeatable)
        while True:
            try:
                response = self._http.request(call.method, call.path, **call.arguments)
            except httpx.RequestError as failure:
                wait = schedule.after_failure(failure)
                if wait is None:
                    raise _failed(failure, self._http.base_url) from failure
            else:
                error = error_in(response)
                if error is None:
                    return call.result(response)
                wait = schedule.after_error(error)
                if wait is None:
                    raise error
            time.sleep(wait)

    def close(self) -> None:
        """Ends the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """A service, asked with ``await`` under asyncio. Use ``async with`` or ``aclose`` to end it.

    Every method raises ``TesseraError``, by its ``code`` one of the subclasses in ``tessera_client.errors``; OSError
    for a file that cannot be read; TypeError or ValueError for what no request can hold.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        retries: Retries = Retries(),  # noqa: B008
        tls: ssl.SSLContext | bool = True,
        headers: dict[str, str] | None = None,
    ) -> None:
        """As for ``Client``."""
        self._http = httpx.AsyncClient(**_options(url, key, timeout, tls, headers or {}))
        self._retries = retries

    enroll = _awaited(operations.enroll)
    verify = _awaited(operations.verify)
    identify = _awaited(operations.identify)
    detect = _awaited(operations.detect)
    list_subjects = _awaited(operations.list_subjects)
    get_subject = _awaited(operations.get_subject)
    update_subject = _awaited(operations.update_subject)
    merge_subjects = _awaited(operations.merge_subjects)
    delete_subject = _awaited(operations.delete_subject)
    delete_template = _awaited(operations.delete_template)
    list_collections = _awaited(operations.list_collections)
    get_collection = _awaited(operations.get_collection)
    create_collection = _awaited(operations.create_collection)
    update_collection = _awaited(operations.update_collection)
    delete_collection = _awaited(operations.delete_collection)
    start_audit = _awaited(operations.start_audit)
    get_audit = _awaited(operations.get_audit)
    get_audit_page = _awaited(operations.get_audit_page)
    get_model = _awaited(operations.get_model)
    livez = _awaited(operations.livez)
    readyz = _awaited(operations.readyz)
    get_metrics = _awaited(operations.get_metrics)

    async def subjects(self, *, collection: str | None = None, page: int = PAGE) -> AsyncIterator[results.Subject]:
        """All subjects of a collection, ordered by id, asked for ``page`` at a time."""
        cursor: str | None = None
        while True:
            found = await self.list_subjects(collection=collection, cursor=cursor, limit=page)
            for subject in found.subjects:
                yield subject
            cursor = found.next_cursor
            if cursor is None:
                return

    async def _send(self, call: Call[T]) -> T:
        schedule = Schedule(self._retries, repeatable=call.repeatable)
        while True:
            try:
                response = await self._http.request(call.method, call.path, **call.arguments)
            except httpx.RequestError as failure:
                wait = schedule.after_failure(failure)
                if wait is None:
                    raise _failed(failure, self._http.base_url) from failure
            else:
                error = error_in(response)
                if error is None:
                    return call.result(response)
                wait = schedule.after_error(error)
                if wait is None:
                    raise error
            await asyncio.sleep(wait)

    async def aclose(self) -> None:
        """Ends the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
