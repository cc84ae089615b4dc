"""Background audits: one runs at a time; the latest of each collection is kept until the service stops."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from app.audits.report import AuditReport, audit, without_erased
from app.crowding import Crowding
from app.decisions import Calibration
from app.errors import TesseraError
from app.gallery import CollectionNotFound, Gallery, SubjectDamaged, TemplateDamaged

_LOGGER = logging.getLogger("tessera")


class AuditNotFound(TesseraError):
    """No audit of this collection has been started since the service started, or what it showed was erased."""

    code = "audit_not_found"


class AuditStatus(StrEnum):
    """The state of an audit."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AuditJob:
    """One audit; ``progress`` is the share of the work done, 0..1.

    identity: of the collection, which another one of the same id does not have.
    """

    collection: str
    identity: str
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
        identity = self._gallery.identity(collection)
        with self._lock:
            job = self._jobs.get(collection)
            under_way = job is not None and job.status in (AuditStatus.WAITING, AuditStatus.RUNNING)
            if job is not None and under_way and job.identity == identity:
                return job
            job = self._jobs[collection] = AuditJob(collection, identity, AuditStatus.WAITING, datetime.now(UTC))
            self._pool.submit(self._run, job)
        return job

    def get(self, collection: str) -> AuditJob:
        """The latest audit of a collection, without what has been erased since.

        Raises CollectionNotFound, AuditNotFound.
        """
        try:
            identity = self._gallery.identity(collection)
        except CollectionNotFound:
            with self._lock:
                self._jobs.pop(collection, None)
            raise
        with self._lock:
            job = self._jobs.get(collection)
        if job is not None and job.report is not None:
            report = self._still_there(job.report)
            job = None if report is None else replace(job, report=report)
        if job is None or job.identity != identity:
            raise AuditNotFound(
                f"No audit of collection {collection!r} was made since the service started or its data were erased; "
                "POST here to start one."
            )
        return job

    def _still_there(self, report: AuditReport) -> AuditReport | None:
        """The report without what has been erased since; None if that is everything."""
        if report.subjects and not self._gallery.size(report.collection).subjects:
            return None
        return without_erased(report, self._gallery)

    def close(self) -> None:
        """Stops the running audit and drops the waiting ones."""
        self._stopping.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _set(self, job: AuditJob, **changes: object) -> None:
        with self._lock:
            current = self._jobs.get(job.collection)
            # A collection that was erased and created again may have an audit of its own by now.
            if current is not None and (current.identity, current.started_at) == (job.identity, job.started_at):
                self._jobs[job.collection] = replace(current, **changes)  # type: ignore[arg-type]

    def _run(self, job: AuditJob) -> None:
        def progress(share: float) -> None:
            if self._stopping.is_set():
                raise _Stopped
            self._set(job, progress=share)

        self._set(job, status=AuditStatus.RUNNING)
        try:
            report = audit(self._gallery, job.collection, self._calibration, self._crowding, progress)
        except _Stopped:
            self._set(job, status=AuditStatus.FAILED, error="The service was stopped.")
        except (SubjectDamaged, TemplateDamaged):
            # Not by name: what is kept here would outlive the subject's erasure.
            self._set(job, status=AuditStatus.FAILED, error="A stored subject is damaged; /readyz names it.")
        except TesseraError as error:
            _LOGGER.warning("the audit of collection %r failed: %s: %s", job.collection, error.code, error.message)
            self._set(job, status=AuditStatus.FAILED, error=error.message)
        except Exception:
            _LOGGER.exception("the audit of collection %r failed", job.collection)
            self._set(job, status=AuditStatus.FAILED, error="Something went wrong; the log has it.")
        else:
            self._set(job, status=AuditStatus.DONE, progress=1.0, report=report)
