"""Background audits: one runs at a time; the latest of each collection is kept until the service stops."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from app.audits.report import AuditReport, audit
from app.crowding import Crowding
from app.decisions import Calibration
from app.errors import TesseraError
from app.gallery import Gallery

_LOGGER = logging.getLogger("tessera")


class AuditNotFound(TesseraError):
    """No audit of this collection has been started since the service started."""

    code = "audit_not_found"


class AuditStatus(StrEnum):
    """The state of an audit."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AuditJob:
    """One audit; ``progress`` is the share of the work done, 0..1."""

    collection: str
    status: AuditStatus
    started_at: datetime
    progress: float = 0.0
    report: AuditReport | None = None
    error: str | None = None


class _Stopped(Exception):
    """The service is stopping."""


class AuditJobs:
    """Starts audits and reports their progress. Safe to use from several threads."""

    def __init__(self, gallery: Gallery, calibration: Calibration, crowding: Crowding) -> None:
        self._gallery, self._calibration, self._crowding = gallery, calibration, crowding
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._jobs: dict[str, AuditJob] = {}
        self._lock, self._stopping = threading.Lock(), threading.Event()

    def start(self, collection: str) -> AuditJob:
        """Starts an audit unless one is already waiting or running. Raises CollectionNotFound."""
        self._gallery.targets(collection)
        with self._lock:
            job = self._jobs.get(collection)
            if job is not None and job.status in (AuditStatus.WAITING, AuditStatus.RUNNING):
                return job
            job = self._jobs[collection] = AuditJob(collection, AuditStatus.WAITING, datetime.now(UTC))
            self._pool.submit(self._run, collection)
        return job

    def get(self, collection: str) -> AuditJob:
        """The latest audit of a collection. Raises CollectionNotFound, AuditNotFound."""
        self._gallery.targets(collection)
        with self._lock:
            job = self._jobs.get(collection)
        if job is None:
            raise AuditNotFound(
                f"No audit of collection {collection!r} was made since the service started; POST here to start one."
            )
        return job

    def close(self) -> None:
        """Stops the running audit and drops the waiting ones."""
        self._stopping.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _set(self, collection: str, **changes: object) -> None:
        with self._lock:
            self._jobs[collection] = replace(self._jobs[collection], **changes)  # type: ignore[arg-type]

    def _run(self, collection: str) -> None:
        def progress(share: float) -> None:
            if self._stopping.is_set():
                raise _Stopped
            self._set(collection, progress=share)

        self._set(collection, status=AuditStatus.RUNNING)
        try:
            report = audit(self._gallery, collection, self._calibration, self._crowding, progress)
        except _Stopped:
            self._set(collection, status=AuditStatus.FAILED, error="The service was stopped.")
        except TesseraError as error:
            self._set(collection, status=AuditStatus.FAILED, error=error.message)
        except Exception:
            _LOGGER.exception("the audit of collection %r failed", collection)
            self._set(collection, status=AuditStatus.FAILED, error="Something went wrong; the log has it.")
        else:
            self._set(collection, status=AuditStatus.DONE, progress=1.0, report=report)
