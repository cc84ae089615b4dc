"""What ``check``, and with it ``/readyz``, finds wrong with a database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest
from psycopg.errors import QueryCanceled

from app.gallery import GalleryUnavailable, OnConflict, damage
from app.gallery.postgres.gallery import PostgresGallery
from tests.app.gallery.contract import axis, template
from tests.app.gallery.sqlite.support import DIGEST
from tests.app.process import wait_until

pytestmark = pytest.mark.slow

REINDEX = "REINDEX INDEX CONCURRENTLY tessera.subjects_mean"


@pytest.fixture
def gallery(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresGallery]:
    monkeypatch.setattr(damage, "REVIEW_SECONDS", 0.0)
    with closing(PostgresGallery(url, encoder_digest=DIGEST)) as opened:
        opened.create_collection("other")
        for number in range(6):
            opened.enroll("other" if number % 2 else "default", f"s{number}", [template(axis(number), f"t{number}")])
        opened.check()
        yield opened


def change(url: str, statement: str) -> None:
    with psycopg.connect(url, options="-c search_path=tessera,public") as connection:
        connection.execute(statement.encode())


ENROLLED_ANEW: Callable[[PostgresGallery], object] = lambda gallery: gallery.enroll(  # noqa: E731
    "other", "s3", [template(axis(3), "anew")], on_conflict=OnConflict.REPLACE
)
DAMAGE = {
    "bits": ("UPDATE templates SET embedding = set_byte(embedding, 7, 255) WHERE id = 't3'", ENROLLED_ANEW),
    "norm": ("UPDATE templates SET norm = norm + 1 WHERE id = 't3'", ENROLLED_ANEW),
    "moved": ("UPDATE subjects SET id = 's33' WHERE id = 's3'", lambda g: g.delete_subject("other", "s33")),
    "gone": ("DELETE FROM templates WHERE id = 't3'", lambda g: g.delete_subject("other", "s3")),
    "metadata": ("UPDATE subjects SET metadata = '{' WHERE id = 's3'", lambda g: g.update_subject("other", "s3", {})),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_that_nobody_read_is_reported_until_it_is_put_right(
    url: str, gallery: PostgresGallery, kind: str
) -> None:
    statement, mend = DAMAGE[kind]
    change(url, statement)
    for _ in range(2):
        with pytest.raises(
            GalleryUnavailable, match=r"1 subject\(s\) are damaged.*'s33?' in collection 'other'"
        ) as found:
            gallery.check()
        assert found.value.names_subjects
        assert gallery.statistics().damaged_subjects == 1
    mend(gallery)
    gallery.check()
    assert gallery.statistics().damaged_subjects == 0


def test_a_check_reads_a_bounded_part_and_goes_on_with_the_next(
    url: str, gallery: PostgresGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "AT_ONCE", 2)
    change(url, "UPDATE templates SET norm = norm + 1")
    counts = []
    for _ in range(3):
        with pytest.raises(GalleryUnavailable):
            gallery.check()
        counts.append(gallery.statistics().damaged_subjects)
    # The search that a check makes comes across those of the default collection.
    assert counts[0] < counts[-1] == 6
    with pytest.raises(GalleryUnavailable, match=r"6 subject\(s\).*") as found:
        gallery.check()
    assert "more" not in found.value.message


def test_checks_in_a_row_read_no_more_than_one(
    url: str, gallery: PostgresGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "REVIEW_SECONDS", 3600.0)
    change(url, "UPDATE templates SET norm = norm + 1 WHERE id = 't3'")
    gallery.check()
    monkeypatch.setattr(damage, "REVIEW_SECONDS", 0.0)
    with pytest.raises(GalleryUnavailable):
        gallery.check()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE schema_versions SET version = 99 WHERE name = 'gallery'", "schema version 99 of its gallery"),
        ("DROP EXTENSION vector CASCADE", "pgvector was removed"),
        ("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'", r"pgvector 0\.7\.4 is too old"),
        ("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'templates_subject'::regclass", "REINDEX"),
        ("DROP TABLE templates CASCADE", "does not answer"),
    ],
)
def test_a_database_that_is_not_what_it_was_is_reported(
    url: str, gallery: PostgresGallery, statement: str, message: str
) -> None:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        assert row is not None
        before = row[0]
    change(url, statement)
    try:
        with pytest.raises(GalleryUnavailable, match=message):
            gallery.check()
    finally:
        change(url, f"UPDATE pg_extension SET extversion = '{before}' WHERE extname = 'vector'")


def test_an_index_that_is_built_anew_is_no_fault_and_one_left_over_is_named(url: str, gallery: PostgresGallery) -> None:
    invalid = "SELECT COUNT(*) FROM pg_index WHERE NOT indisvalid"
    with psycopg.connect(url, autocommit=True) as observer, ThreadPoolExecutor(1) as pool:

        def build() -> None:
            with psycopg.connect(url, autocommit=True) as own:
                own.execute(REINDEX.encode())

        def is_building() -> bool:
            row = observer.execute(invalid).fetchone()
            return row is not None and row[0] > 0

        with psycopg.connect(url) as blocker:
            # Building goes on once this transaction, which may not see the new index yet, has ended.
            blocker.execute("LOCK TABLE tessera.subjects_3 IN ROW EXCLUSIVE MODE")
            building = pool.submit(build)
            wait_until(is_building, "the new index is there and not valid")
            gallery.check()
            observer.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = %s AND state = 'active'", (REINDEX,)
            )
            with pytest.raises(QueryCanceled):
                building.result(60)
        with pytest.raises(
            GalleryUnavailable, match=r"DROP INDEX tessera\.subjects_3_mean_idx_ccnew removes it"
        ) as found:
            gallery.check()
        advice = re.search(r"DROP INDEX \S+", found.value.message)
        assert advice is not None
        observer.execute(advice[0].encode())
        gallery.check()
