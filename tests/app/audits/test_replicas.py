"""Audits where several replicas share a gallery."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import psycopg
import pytest

from app.audits import jobs
from app.audits.jobs import AuditJobs, AuditStatus
from app.audits.report import audit
from app.crowding import NoCrowding
from app.gallery import NewTemplate, StoredAudit
from app.gallery.postgres.gallery import PostgresGallery
from tests.app.audits.test_jobs import embedding, ended
from tests.app.audits.test_report import CALIBRATION
from tests.app.postgres import postgres, url
from tests.app.process import wait_until

__all__ = ["postgres", "url"]

pytestmark = pytest.mark.slow


@contextmanager
def replica(url: str) -> Iterator[AuditJobs]:
    with (
        closing(PostgresGallery(url, encoder_digest="d")) as gallery,
        closing(AuditJobs(gallery, CALIBRATION, NoCrowding())) as audits,
    ):
        yield audits


@pytest.fixture
def filled(url: str) -> str:
    with closing(PostgresGallery(url, encoder_digest="d")) as gallery:
        gallery.enroll("default", "ada", [NewTemplate("t0", embedding(0), 20)])
        gallery.enroll("default", "ada-2", [NewTemplate("t1", embedding(0, 1, 0.1), 20)])
    return url


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Audits stay half done until this is set."""
    event = threading.Event()

    def waiting(*arguments: object) -> object:
        *_, progress = arguments
        assert callable(progress)
        while not event.wait(0.01):
            progress(0.5)
        return audit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "audit", waiting)
    monkeypatch.setattr(jobs, "BEAT_SECONDS", 0.05)
    return event


def test_every_replica_shows_the_one_audit_that_is_under_way(filled: str, go_on: threading.Event) -> None:
    with replica(filled) as one, replica(filled) as two:
        begun = one.start("default")
        assert two.get("default").status in jobs.UNDER_WAY
        wait_until(lambda: two.get("default").progress == 0.5, "the other replica knows how far it is")
        assert two.get("default").status is AuditStatus.RUNNING
        assert two.start("default").started_at == two.get("default").started_at == begun.started_at
        go_on.set()
        done = ended(one)
        assert (done.status, two.get("default")) == (AuditStatus.DONE, done)
        assert two.start("default").started_at > begun.started_at
        assert ended(one).report is not None


def test_of_requests_to_all_replicas_at_once_one_starts_an_audit(filled: str, go_on: threading.Event) -> None:
    with replica(filled) as one, replica(filled) as two, ThreadPoolExecutor(8) as pool:
        started = pool.map(lambda number: (one, two)[number % 2].start("default").started_at, range(8))
        assert len(set(started)) == 1
        go_on.set()


def test_an_audit_whose_replica_stops_is_interrupted_at_once(filled: str, go_on: threading.Event) -> None:
    with replica(filled) as two:
        with replica(filled) as one:
            one.start("default")
            assert two.get("default").status in jobs.UNDER_WAY
        assert two.get("default").status is AuditStatus.INTERRUPTED
        go_on.set()
        two.start("default")
        assert ended(two).status is AuditStatus.DONE


def test_an_audit_whose_replica_vanished_is_interrupted_once_it_was_silent_for_long(filled: str) -> None:
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    with closing(PostgresGallery(filled, encoder_digest="d")) as gone:
        begun = StoredAudit("running", moment, progress=0.5, under_way=True)
        assert gone.begin_audit("default", gone.identity("default"), begun) is None
    with replica(filled) as two, psycopg.connect(filled, autocommit=True) as connection:
        assert two.start("default").started_at == moment
        assert (two.get("default").status, two.get("default").progress) == (AuditStatus.RUNNING, 0.5)
        connection.execute("UPDATE tessera.audits SET seen_at = seen_at - interval '61 seconds'")
        assert two.get("default").status is AuditStatus.INTERRUPTED
        assert two.start("default").started_at > moment
        assert ended(two).status is AuditStatus.DONE


def test_a_replica_that_was_silent_for_long_does_not_speak_for_another_ones_audit(filled: str) -> None:
    first, second = (StoredAudit("running", datetime(2026, 3, d, tzinfo=UTC), under_way=True) for d in (1, 2))
    with closing(PostgresGallery(filled, encoder_digest="d")) as gallery:
        identity = gallery.identity("default")
        gallery.begin_audit("default", identity, first)
        with psycopg.connect(filled, autocommit=True) as connection:
            connection.execute("UPDATE tessera.audits SET seen_at = seen_at - interval '61 seconds'")
        assert gallery.begin_audit("default", identity, second) is None
        gallery.renew_audit("default", identity, StoredAudit("running", first.started_at, progress=0.9))
        assert gallery.audit("default") == second


def test_nobody_beats_once_nothing_is_under_way(filled: str, go_on: threading.Event) -> None:
    def beats() -> bool:
        return any(thread.name == "audits" for thread in threading.enumerate())

    with replica(filled) as one:
        for _ in range(2):
            one.start("default")
            assert beats()
            go_on.set()
            assert ended(one).status is AuditStatus.DONE
            wait_until(lambda: not beats(), "the thread ends")
            go_on.clear()
