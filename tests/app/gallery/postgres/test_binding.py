"""Replicas that compute with different encoders or cohorts, as during an update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest

from app.crowding import Crowding, NoCrowding
from app.embeddings import MOST_FUSED
from app.gallery import EncoderMismatch, GalleryUnavailable
from app.gallery.postgres.binding import lock_binding
from app.gallery.postgres.gallery import PostgresGallery
from app.gallery.postgres.templates import bind_cohort
from app.gallery.postgres.transfer import copy_records, exporting
from app.gallery.transfer import Record
from tests.app.gallery.contract import MadeUpCrowding, axis, crowding_of, template
from tests.app.gallery.sqlite.support import DIGEST
from tests.app.process import wait_until

pytestmark = pytest.mark.slow

OTHER = "sha256:" + "b" * 64


def opened(url: str, digest: str = DIGEST, crowding: Crowding = NoCrowding()) -> closing[PostgresGallery]:  # noqa: B008
    return closing(PostgresGallery(url, encoder_digest=digest, crowding=crowding))


WRITES: dict[str, Callable[[PostgresGallery], object]] = {
    "enrol": lambda gallery: gallery.enroll("default", "new", [template(axis(1))]),
    "append": lambda gallery: gallery.enroll("default", "ada", [template(axis(1))]),
    "merge": lambda gallery: gallery.merge_subjects("default", "ada", "bob"),
    "erase one of two": lambda gallery: gallery.delete_template("default", "ada", "a1"),
}
READS: dict[str, Callable[[PostgresGallery], object]] = {
    "check": lambda gallery: gallery.check(),
    "search": lambda gallery: gallery.search("default", axis(0), 1),
    "compare": lambda gallery: gallery.compare("default", "ada", axis(0)),
    "vectors": lambda gallery: gallery.subject_vectors("default", after=None, limit=5),
}


def fill(gallery: PostgresGallery) -> None:
    gallery.enroll("default", "ada", [template(axis(0), "a0"), template(axis(0, 1, 0.3), "a1")])
    gallery.enroll("default", "bob", [template(axis(0, 2, 0.3), "b0")])


def refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(GalleryUnavailable, match=message) as error:
        call()
    assert error.value.details["retry_after"] > 0


@pytest.mark.parametrize("kind", [*WRITES, *READS])
def test_of_two_encoders_at_an_empty_gallery_the_later_one_has_it(url: str, kind: str) -> None:
    with opened(url) as early, opened(url, OTHER) as late:
        fill(late)
        refused(lambda: (WRITES | READS)[kind](early), f"computes with encoder sha256:a+ .* with encoder {OTHER[:10]}")
        assert [len(s.templates) for s in late.subjects("default", after=None, limit=5)] == [2, 1]
        late.check()


def test_an_encoder_that_has_stored_nothing_goes_and_one_that_has_stays(url: str) -> None:
    with opened(url) as early, opened(url, OTHER) as late:
        refused(lambda: early.enroll("default", "ada", [template(axis(0))]), "another release, encoder or calibration")
        with opened(url) as again:
            fill(again)
            early.check()
            assert early.search("default", axis(0), 1)[0].subject_id == "ada"
            for call in (*READS.values(), *WRITES.values()):
                refused(lambda call=call: call(late), "cohort none")  # type: ignore[misc]
        with pytest.raises(EncoderMismatch):
            PostgresGallery(url, encoder_digest=OTHER)
        early.check()


@pytest.mark.parametrize("kind", [*WRITES, *READS])
def test_a_replica_of_the_old_cohort_stores_and_compares_nothing_more(url: str, kind: str) -> None:
    cohort = MadeUpCrowding()
    with opened(url) as old:
        fill(old)
        with opened(url, crowding=cohort) as new:
            before = crowding_of(new, "ada")
            refused(lambda: (WRITES | READS)[kind](old), "another release, encoder or calibration")
            assert crowding_of(new, "ada") == before != 0
            new.check()
        # Erasing needs neither, and must never wait for anybody's update.
        assert old.delete_subject("default", "ada") == 2


def test_an_enrolment_under_way_is_waited_for_before_another_encoder_is_let_in(url: str) -> None:
    with opened(url) as early, psycopg.connect(url) as blocker, ThreadPoolExecutor(2) as pool:
        blocker.execute("SELECT 1 FROM tessera.collections FOR UPDATE")
        waits = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

        def waiting() -> int:
            with psycopg.connect(url) as observer:
                row = observer.execute(waits).fetchone()
            assert row is not None
            return int(row[0])

        enrolment = pool.submit(early.enroll, "default", "ada", [template(axis(0))])
        wait_until(lambda: waiting() == 1, "the enrolment waits for the collection")
        start = pool.submit(PostgresGallery, url, encoder_digest=OTHER)
        wait_until(lambda: waiting() == 2, "the start waits for the enrolment")
        blocker.rollback()
        enrolment.result(60)
        with pytest.raises(EncoderMismatch):
            start.result(60)
        early.check()


def test_a_copy_into_a_gallery_that_another_encoder_has_taken_stops(url: str, tmp_path: object) -> None:
    with opened(url) as source:
        fill(source)
    with exporting(url) as (digest, records):
        everything = list(records)
    with opened(url) as source:
        source.delete_collection("default", force=True)

    def taken_meanwhile() -> Iterator[Record]:
        PostgresGallery(url, encoder_digest=OTHER).close()
        yield from everything

    refused(
        lambda: copy_records(url, digest, NoCrowding(), taken_meanwhile()), "another release, encoder or calibration"
    )
    with opened(url, OTHER) as now:
        assert now.size("default").subjects == 0


def test_a_gallery_of_before_is_bound_when_it_is_opened(url: str) -> None:
    with opened(url) as gallery:
        fill(gallery)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE tessera.cohorts SET encoder = NULL")
    with opened(url) as gallery:
        gallery.check()
        assert gallery.search("default", axis(0), 1)[0].subject_id == "ada"


def test_a_command_binds_nothing_and_says_in_what_it_differs(url: str) -> None:
    def command(most: int) -> PostgresGallery:
        return PostgresGallery(url, encoder_digest=DIGEST, most_fused=most, rebinds=False)

    # Nobody has opened it yet: then it is the command's.
    with closing(command(3)) as first:
        fill(first)
    with closing(PostgresGallery(url, encoder_digest=DIGEST, most_fused=3)) as service:
        with pytest.raises(GalleryUnavailable, match=r"but the gallery .* of 3 templates a subject: .*CALIBRATION"):
            command(MOST_FUSED)
        with closing(command(3)) as again:
            assert again.search("default", axis(0), 1)[0].subject_id == "ada"
        service.check()
        assert service.search("default", axis(0), 1)[0].subject_id == "ada"


def test_an_enrolment_that_waited_for_another_cohort_is_told_of_it(url: str) -> None:
    with opened(url) as early, psycopg.connect(url) as starting, ThreadPoolExecutor(1) as pool:
        starting.execute("SET search_path = tessera, public")
        lock_binding(starting)
        bind_cohort(starting, MadeUpCrowding(), MOST_FUSED)
        enrolment = pool.submit(early.enroll, "default", "ada", [template(axis(0))])
        wait_until(lambda: early.size("default").subjects == 0 and is_waiting(url), "the enrolment waits")
        starting.commit()
        with pytest.raises(GalleryUnavailable, match=r"opened with encoder .* and cohort made up"):
            enrolment.result(60)


def is_waiting(url: str) -> bool:
    with psycopg.connect(url) as observer:
        row = observer.execute(
            "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).fetchone()
    assert row is not None
    return bool(row[0])
