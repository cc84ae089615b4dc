"""Background audits: one runs at a time; the latest of each collection is kept with the gallery."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from app.audits.report import AuditReport, audit
from app.audits.storage import from_stored, to_stored
from app.crowding import Crowding
from app.decisions import Calibration
from app.errors import TesseraError
from app.gallery import (
    CollectionNotFound,
    Gallery,
    GalleryUnavailable,
    StoredAudit,
    SubjectDamaged,
    TemplateDamaged,
)

BEAT_SECONDS = 5.0
"""So often the gallery is told what is under way here, for others that share it."""

_LOGGER = logging.getLogger("tessera")


class AuditNotFound(TesseraError):
    """No audit of this collection has been started, or what it showed was erased."""

    code = "audit_not_found"


class AuditStatus(StrEnum):
    """The state of an audit."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """The service, or the replica of it, ended before the audit did."""


UNDER_WAY = frozenset({AuditStatus.WAITING, AuditStatus.RUNNING})


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
    """Starts audits and reports their progress. Safe to use from several threads.

    What is under way is held here; the gallery has what has ended, and what other replicas that share it are at. One
    that it has as begun and nobody works on was interrupted.
    """

    def __init__(self, gallery: Gallery, calibration: Calibration, crowding: Crowding) -> None:
        self._gallery, self._calibration, self._crowding = gallery, calibration, crowding
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._jobs: dict[str, AuditJob] = {}
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._heart: threading.Thread | None = None

    def start(self, collection: str) -> AuditJob:
        """Starts an audit unless one is already waiting or running, here or elsewhere.

        Raises CollectionNotFound, GalleryUnavailable.
        """
        identity = self._gallery.identity(collection)
        with self._lock:
            job = self._jobs.get(collection)
            if job is not None and job.identity == identity and job.status in UNDER_WAY:
                return job
            job = AuditJob(collection, identity, AuditStatus.WAITING, datetime.now(UTC))
            elsewhere = self._gallery.begin_audit(collection, identity, _under_way(job))
            if elsewhere is not None:
                return _job(collection, identity, elsewhere)
            self._jobs[collection] = job
            self._pool.submit(self._run, job)
            if self._heart is None:
                self._heart = threading.Thread(target=self._beat, name="audits", daemon=True)
                self._heart.start()
        return job

    def get(self, collection: str) -> AuditJob:
        """The latest audit of a collection, without what has been erased since.

        Raises CollectionNotFound, AuditNotFound, GalleryUnavailable.
        """
        identity = self._gallery.identity(collection)
        with self._lock:
            job = self._jobs.get(collection)
        if job is not None and job.identity != identity:
            job = None
        if job is not None and job.status in UNDER_WAY:
            return job
        stored = self._gallery.audit(collection)
        if job is not None and (stored is None or stored.started_at <= job.started_at):
            return job
        if stored is None or self._all_erased(collection, stored):
            raise AuditNotFound(
                f"No audit of collection {collection!r} was made, or its data were erased; POST here to start one."
            )
        return _job(collection, identity, stored)

    def _all_erased(self, collection: str, stored: StoredAudit) -> bool:
        return bool(stored.content and stored.content["subjects"]) and not self._gallery.size(collection).subjects

    def close(self) -> None:
        """Stops the running audit and drops the waiting ones."""
        self._stopping.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        heart = self._heart
        if heart is not None:
            heart.join()
        # So that nobody waits for what has stopped.
        self._tell(under_way=False)

    def _beat(self) -> None:
        while not self._stopping.wait(BEAT_SECONDS):
            with self._lock:
                if not any(job.status in UNDER_WAY for job in self._jobs.values()):
                    self._heart = None
                    return
            self._tell(under_way=True)

    def _tell(self, *, under_way: bool) -> None:
        """Tells the gallery what is under way here, or that it is not any more."""
        with self._lock:
            jobs = [job for job in self._jobs.values() if job.status in UNDER_WAY]
        for job in jobs:
            try:
                self._gallery.renew_audit(job.collection, job.identity, _under_way(job, under_way=under_way))
            except CollectionNotFound:
                continue
            except Exception as error:  # without this thread, what is under way would pass for interrupted
                _LOGGER.warning("the progress of an audit of collection %r is not stored: %s", job.collection, error)

    def _is_latest(self, job: AuditJob) -> bool:
        """A collection that was erased and created again may have an audit of its own by now. Needs the lock."""
        current = self._jobs.get(job.collection)
        return current is not None and (current.identity, current.started_at) == (job.identity, job.started_at)

    def _set(self, job: AuditJob) -> None:
        with self._lock:
            if self._is_latest(job):
                self._jobs[job.collection] = job

    def _run(self, job: AuditJob) -> None:
        def progress(share: float) -> None:
            if self._stopping.is_set():
                raise _Stopped
            self._set(replace(job, status=AuditStatus.RUNNING, progress=share))

        self._set(replace(job, status=AuditStatus.RUNNING))
        ended = StoredAudit(AuditStatus.FAILED, job.started_at)
        try:
            report = audit(self._gallery, job.collection, self._calibration, self._crowding, progress)
            content, findings = to_stored(report)
            ended = replace(ended, status=AuditStatus.DONE, content=content, findings=findings)
        except _Stopped:
            return
        except (SubjectDamaged, TemplateDamaged):
            # Not by name: what is kept here would outlive the subject's erasure.
            ended = replace(ended, error="A stored subject is damaged; /readyz names it.")
        except TesseraError as error:
            _LOGGER.warning("the audit of collection %r failed: %s: %s", job.collection, error.code, error.reason)
            ended = replace(ended, error=error.reason)
        except Exception:
            _LOGGER.exception("the audit of collection %r failed", job.collection)
            ended = replace(ended, error="Something went wrong; the log has it.")
        self._keep(job, ended)

    def _keep(self, job: AuditJob, ended: StoredAudit) -> None:
        """Hands an audit over to the gallery; where that cannot be, its failure is shown until the service stops."""
        try:
            self._gallery.save_audit(job.collection, job.identity, ended)
        except CollectionNotFound:
            pass
        except Exception as error:
            _LOGGER.warning("the audit of collection %r could not be stored: %s", job.collection, error)
            told = "The report could not be stored; the log says why."
            self._set(replace(job, status=AuditStatus.FAILED, error=told))
            return
        with self._lock:
            if self._is_latest(job):
                del self._jobs[job.collection]


def _under_way(job: AuditJob, *, under_way: bool = True) -> StoredAudit:
    return StoredAudit(job.status, job.started_at, progress=job.progress, under_way=under_way)


def _job(collection: str, identity: str, stored: StoredAudit) -> AuditJob:
    """What the gallery has, as a job. Raises GalleryUnavailable if it cannot be read."""
    try:
        status = AuditStatus(stored.status)
        report = None if stored.content is None else from_stored(collection, stored.content, stored.findings)
    except (ValueError, KeyError, TypeError) as error:
        raise GalleryUnavailable(f"The stored audit of {collection!r} cannot be read; make another.") from error
    job = AuditJob(collection, identity, status, stored.started_at, report=report, error=stored.error)
    if status is AuditStatus.DONE:
        return replace(job, progress=1.0)
    if status in UNDER_WAY and stored.under_way:
        return replace(job, progress=stored.progress)
    if status in UNDER_WAY:
        told = "The service was stopped before the audit was done; POST here to start it again."
        return replace(job, status=AuditStatus.INTERRUPTED, error=told)
    return job
