"""What routes depend on: the components of the application, who calls, and threads to run on."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Depends, Request

from app.api.admission import AdmissionControl
from app.api.metrics import Metrics, Snapshot
from app.audits.jobs import AuditJobs
from app.errors import TesseraError
from app.openvino import available_cores
from app.recognition.collections import CollectionService
from app.recognition.service import RecognitionService
from app.recognition.subjects import SubjectService
from app.security.errors import SecurityStoreUnavailable
from app.security.keys import Caller, Scope
from app.security.lockout import Lockout
from app.security.store import SecurityStore, Statements
from app.security.trail import AuditTrail, Entry, Receipt
from app.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

RECORD_THREADS_A_CORE = 3
"""Most of them wait for the disk."""
DATA_FILES = (
    *(f"{name}{suffix}" for name in ("gallery.sqlite3", "security.sqlite3") for suffix in ("", "-wal")),
    "template-keys.sqlite3",
)
"""Whose sizes are measured."""
_LOGGER = logging.getLogger("tessera")

STARTED = "started"
"""Outcome of an erasure that is about to be made: it is recorded before and after."""


@dataclass(frozen=True, slots=True)
class Security:
    """What keeps callers in their bounds and records what they did."""

    store: SecurityStore
    lockout: Lockout
    trail: AuditTrail


class Components:
    """The components of one running application; ``app.main`` builds them."""

    def __init__(
        self,
        *,
        settings: Settings,
        recognition: RecognitionService,
        subjects: SubjectService,
        collections: CollectionService,
        audits: AuditJobs,
        admission: AdmissionControl,
        metrics: Metrics,
        security: Security,
    ) -> None:
        self.settings, self.recognition, self.subjects, self.collections = settings, recognition, subjects, collections
        self.audits, self.admission, self.metrics = audits, admission, metrics
        self.security, self.lockout, self.trail = security.store, security.lockout, security.trail
        self._checking: asyncio.Task[dict[str, str | None]] | None = None
        self._records = CapacityLimiter(RECORD_THREADS_A_CORE * available_cores())

    async def check(self) -> dict[str, str | None]:
        """What is wrong with each part, by name; None where it works.

        Whoever asks while a check is under way gets its result: it needs no key, and costs a run of the encoder.
        """
        if self._checking is None:
            self._checking = asyncio.create_task(self.on_thread(self._check))
            self._checking.add_done_callback(self._checked)
        return await asyncio.shield(self._checking)

    def _checked(self, _: object) -> None:
        self._checking = None

    def _check(self) -> dict[str, str | None]:
        checks = self.recognition.check()
        try:
            self.security.check()
        except TesseraError as error:
            return checks | {"audit_trail": error.message}
        return checks | {"audit_trail": None}

    def snapshot(self, checks: Mapping[str, str | None]) -> Snapshot:
        """What ``/metrics`` shows besides what is counted; ``checks``: of ``check``."""
        directory, collections, records, free = self.settings.gallery.data_dir, None, None, None
        with suppress(TesseraError):
            collections = self.collections.list()
        with suppress(TesseraError):
            records = self.trail.length()
        with suppress(OSError):
            free = shutil.disk_usage(directory).free
        files = {name: size for name in DATA_FILES if (size := _size(directory / name)) is not None}
        return Snapshot(checks, collections, self.recognition.gallery.statistics(), records, files, free)

    def close(self) -> None:
        """Stops background work, then the service."""
        self.audits.close()
        self.recognition.close()
        self.security.close()

    async def on_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a call that reads or writes records on its own thread, outside the queue for photographs."""
        return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._records)

    @asynccontextmanager
    async def recorded(
        self,
        request: Request,
        action: str,
        collection: str | None = None,
        subject: str | None = None,
        *,
        decision: bool = False,
    ) -> AsyncIterator[Outcome]:
        """Records in the audit trail what is done in this context, and its outcome or the code of its error.

        It is recorded within a second. A decision is not recorded at all, not even its failure, if the settings say so.
        Raises SecurityStoreUnavailable if the trail does not work, before anything is done.
        """
        self.security.check()
        outcome = Outcome(collection, subject)
        if decision and not self.settings.security.audit_decisions:
            yield outcome
            return
        with self._failures(request, action, outcome):
            yield outcome
        self.trail.record_later(self._entry(request, action, outcome, outcome.value))

    @asynccontextmanager
    async def recorded_change(
        self,
        request: Request,
        action: str,
        collection: str,
        subject: str | None = None,
        *,
        erases: bool = False,
        details: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Outcome]:
        """As ``recorded``, for what changes stored data: the record is on disk when the context is left.

        An erasure is recorded before it begins, too: whatever happens, the trail names it. details: what is known then.
        """
        self.security.check()
        outcome = Outcome(collection, subject, details=dict(details or {}))
        if erases:
            await self._durably(self.trail.appending(self._entry(request, action, outcome, STARTED)))
        with self._failures(request, action, outcome):
            yield outcome
        append = self.trail.appending(self._entry(request, action, outcome, outcome.value))
        try:
            outcome.receipt = await self._durably(append)
        except SecurityStoreUnavailable:
            # The change stands: its record follows as soon as it can be written.
            self.security.change_later(append)
            raise
        finally:
            await self._afterwards(outcome)

    async def _afterwards(self, outcome: Outcome) -> None:
        """Forgets the failed verifications of whom is gone; the erasure stands, whether or not that works."""
        if outcome.forget is None:
            return
        try:
            await self.on_thread(outcome.forget)
        except SecurityStoreUnavailable as error:
            _LOGGER.warning("%s Failed verifications of erased subjects stay until they are old.", error.reason)

    @contextmanager
    def _failures(self, request: Request, action: str, outcome: Outcome) -> Iterator[None]:
        """Records an error by its code."""
        try:
            yield
        except BaseException as error:
            value = error.code if isinstance(error, TesseraError) else "failed"
            self.trail.record_later(self._entry(request, action, outcome, value))
            raise

    def record_refusal(self, request: Request) -> None:
        """Records that a key tried what it does not allow."""
        route = getattr(request.scope.get("route"), "path", "")
        with suppress(SecurityStoreUnavailable):
            self.trail.record_later(self._entry(request, f"{request.method} {route}", Outcome(None, None), "forbidden"))

    async def _durably(self, append: Callable[[Statements], Receipt]) -> Receipt:
        return await self.on_thread(self.security.change_soon(append).result)

    def _entry(self, request: Request, action: str, outcome: Outcome, value: str) -> Entry:
        caller = caller_of(request)
        collection, subject = outcome.collection, outcome.subject
        named = None if subject is None or collection is None else self.trail.name_of(collection, subject)
        return Entry(
            actor=caller.key_id or "anonymous",
            action=action,
            outcome=value,
            collection=collection,
            subject=named,
            address=caller.address,
            request_id=request.state.request_id,
            details=outcome.details,
        )


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


@dataclass(slots=True)
class Outcome:
    """What came of a recorded action.

    forget: erases the failed verifications of whom the change erased, once its record is on disk. receipt: is there
    then, too.
    """

    collection: str | None
    subject: str | None
    value: str = "done"
    details: dict[str, Any] = field(default_factory=dict)
    forget: Callable[[], None] | None = None
    receipt: Receipt | None = None


def components_of(request: Request) -> Components:
    """The components of the running application."""
    components: Components = request.app.state.components
    return components


async def _components(request: Request) -> Components:
    # Async, because FastAPI would send a plain function to a thread and back.
    return components_of(request)


ComponentsDependency = Annotated[Components, Depends(_components)]


def caller_of(request: Request) -> Caller:
    """Who sends the request; the gate found out before anything was read."""
    caller: Caller = request.state.caller
    return caller


async def _caller(request: Request) -> Caller:
    return caller_of(request)


CallerDependency = Annotated[Caller, Depends(_caller)]


def allow(*scopes: Scope) -> Any:
    """A dependency for routes: refuses callers who have none of these scopes, before a body is read."""

    async def check(request: Request) -> None:
        caller_of(request).require(*scopes)

    return Depends(check)
