"""What PostgreSQL adds to the contract: several processes, fail-over, large collections, damage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import psycopg
import pytest

import app.postgres
from app.gallery import (
    EncoderMismatch,
    GalleryUnavailable,
    OnConflict,
    ReceiptExists,
    SubjectExists,
    TemplateDamaged,
)
from app.gallery.postgres.gallery import PostgresGallery
from app.gallery.postgres.search import IndexUse
from benchmarks.postgres_server import IN_MEMORY, PostgresServer
from tests.app.gallery.contract import MadeUpCrowding, axis, near, pending, random_embedding, template
from tests.app.gallery.sqlite.support import DIGEST
from tests.app.process import wait_until

pytestmark = pytest.mark.slow


def opened(url: str, **options: object) -> closing[PostgresGallery]:
    return closing(PostgresGallery(url, encoder_digest=DIGEST, **options))  # type: ignore[arg-type]


def test_replicas_that_start_at_once_make_one_gallery(url: str) -> None:
    def start(number: int) -> None:
        with opened(url) as gallery:
            gallery.enroll("default", f"s{number}", [template(axis(number))])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, range(4)))
    with opened(url) as gallery:
        assert [s.id for s in gallery.subjects("default", after=None, limit=9)] == ["s0", "s1", "s2", "s3"]


def test_what_one_replica_writes_the_others_find_at_once(url: str) -> None:
    random = np.random.default_rng(0)
    with opened(url) as one, opened(url) as two:
        for number in range(20):
            embedding = random_embedding(random)
            one.enroll("default", f"s{number}", [template(embedding)])
            assert two.search("default", embedding, 1)[0].subject_id == f"s{number}"
            if number % 2:
                two.delete_subject("default", f"s{number}")
                assert one.search("default", embedding, 1)[0].subject_id != f"s{number}"


def test_twins_at_two_replicas_enrol_once(url: str) -> None:
    with opened(url) as one, opened(url) as two:

        def enrol(number: int) -> str:
            try:
                gallery, key = (one, two)[number % 2], f"k{number // 2}"
                new, reject = [template(axis(number % 100))], OnConflict.REJECT
                gallery.enroll("default", f"s{number // 2}", new, on_conflict=reject, receipt=pending(key))
            except (ReceiptExists, SubjectExists) as error:
                return error.code
            return "enrolled"

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(enrol, range(100)))
        for first, second in zip(answers[::2], answers[1::2], strict=True):
            assert {first, second} == {"enrolled", "idempotency_conflict"}


def test_writers_in_each_others_way_lose_nothing(url: str) -> None:
    """Two subjects name each other in receipts while both are replaced: their locks cross."""
    with opened(url) as one, opened(url) as two:
        for name in ("a", "b"):
            one.enroll("default", name, [template(axis(0), f"{name}-0")])

        def write(number: int) -> None:
            mine, other = "ab"[number % 2], "ba"[number % 2]
            named = one.subject("default", other).templates[0].id
            receipt = pending(f"k{number}")
            receipt = type(receipt)(receipt.key, "f", receipt.render, {named: other})
            new = [template(axis(number % 100), f"{mine}-{number + 1}")]
            (one, two)[number % 2].enroll("default", mine, new, on_conflict=OnConflict.REPLACE, receipt=receipt)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(60)))
        assert one.size("default").subjects == 2
        assert [len(s.templates) for s in one.subjects("default", after=None, limit=9)] == [1, 1]


def test_a_newer_schema_and_another_encoder_are_refused(url: str) -> None:
    with opened(url) as gallery:
        gallery.enroll("default", "ada", [template(axis(0))])
    with pytest.raises(EncoderMismatch, match="two encoders"):
        PostgresGallery(url, encoder_digest="sha256:" + "b" * 64)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE tessera.schema_versions SET version = 99 WHERE name = 'gallery'")
    with pytest.raises(GalleryUnavailable, match="schema version 99"):
        PostgresGallery(url, encoder_digest=DIGEST)


def test_another_cohort_has_all_crowding_computed_anew(url: str) -> None:
    embedding, crowding = axis(0, 1, 0.3), MadeUpCrowding()
    with opened(url) as gallery:
        gallery.enroll("default", "ada", [template(embedding)])
    with opened(url, crowding=crowding) as gallery:
        assert gallery.compare("default", "ada", axis(5)).crowding == crowding.of(embedding) != 0


@pytest.mark.parametrize("crowded", [False, True])
def test_a_large_collection_is_searched_by_its_index_and_ranked_exactly(url: str, crowded: bool) -> None:
    random = np.random.default_rng(3)
    embeddings = [random_embedding(random) for _ in range(600)]
    with (
        opened(url, crowding=MadeUpCrowding(0.05), index=IndexUse(0)) as indexed,
        opened(url, crowding=MadeUpCrowding(0.05)) as exact,
    ):
        indexed.create_collection("small")
        indexed.enroll("small", "only", [template(axis(3))])
        for number, embedding in enumerate(embeddings):
            indexed.enroll("default", f"s{number}", [template(embedding)])
        for number in range(0, 600, 3):
            indexed.delete_subject("default", f"s{number}")
        hits = 0
        for number in range(1, 600, 20):
            probe = near(random, embeddings[number], 0.05)
            found = indexed.search("default", probe, 5, crowded=crowded)
            expected = exact.search("default", probe, 5, crowded=crowded)
            hits += len({f.subject_id for f in found} & {e.subject_id for e in expected})
            assert found[0] == expected[0]
        assert hits >= 0.98 * 5 * len(range(1, 600, 20))
        assert [f.subject_id for f in indexed.search("small", axis(3), 5)] == ["only"]


def test_the_index_is_used_where_it_is_asked_for(url: str) -> None:
    with opened(url, index=IndexUse(0)) as gallery, psycopg.connect(url, autocommit=True) as observer:
        gallery.enroll("default", "ada", [template(axis(0))])
        count = "SELECT COALESCE(SUM(idx_scan), 0) FROM pg_stat_user_indexes WHERE indexrelname LIKE '%mean%'"
        before = observer.execute(count).fetchone()
        gallery.search("default", axis(0), 5)
        wait_until(lambda: observer.execute(count).fetchone() != before, "the index was scanned")


def test_damage_leaves_a_subject_out_until_it_is_enrolled_anew(url: str) -> None:
    with opened(url) as gallery:
        for number, name in enumerate(("ada", "bob")):
            gallery.enroll("default", name, [template(axis(number))])
        with psycopg.connect(url) as connection:
            other = axis(7).tobytes()
            connection.execute(
                "UPDATE tessera.templates SET embedding = %s WHERE embedding = %s", (other, axis(0).tobytes())
            )
        assert [f.subject_id for f in gallery.search("default", axis(0), 5)] == ["bob"]
        for call in (
            lambda: gallery.compare("default", "ada", axis(0)),
            lambda: gallery.enroll("default", "ada", [template(axis(1))]),
        ):
            with pytest.raises(TemplateDamaged):
                call()
        gallery.enroll("default", "ada", [template(axis(0))], on_conflict=OnConflict.REPLACE)
        assert gallery.search("default", axis(0), 5)[0].subject_id == "ada"


# Servers of their own, which are killed


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    with PostgresServer(on=IN_MEMORY) as server:
        yield server


def test_a_server_that_may_lose_writes_is_refused(own_server: PostgresServer) -> None:
    own_server.execute("ALTER SYSTEM SET fsync = off")
    own_server.execute("SELECT pg_reload_conf()")
    wait_until(lambda: own_server.execute("SHOW fsync") == [("off",)], "the server has read its settings")
    with pytest.raises(GalleryUnavailable, match="fsync"):
        PostgresGallery(own_server.uri(), encoder_digest=DIGEST)


def test_a_server_that_was_killed_keeps_what_was_acknowledged(own_server: PostgresServer) -> None:
    with opened(own_server.uri()) as gallery:
        gallery.enroll("default", "ada", [template(axis(0))])
        own_server.kill()
        for call in (lambda: gallery.search("default", axis(0), 1), lambda: gallery.delete_subject("default", "ada")):
            with pytest.raises(GalleryUnavailable) as refused:
                call()
            assert refused.value.details["retry_after"] > 0
        own_server.start()
        began = time.monotonic()
        assert gallery.search("default", axis(0), 1)[0].subject_id == "ada"
        assert time.monotonic() - began < 10


def test_a_write_that_the_standby_did_not_confirm_is_not_acknowledged(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.postgres, "COMMIT_SECONDS", 0.5)
    with opened(own_server.uri()) as gallery:
        own_server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        own_server.execute("SELECT pg_reload_conf()")
        with psycopg.connect(own_server.uri(), autocommit=True) as observer:
            shown = "SHOW synchronous_standby_names"
            wait_until(lambda: observer.execute(shown).fetchone() == ("nobody",), "the server has read its settings")
        with pytest.raises(GalleryUnavailable, match="not confirmed"):
            gallery.enroll("default", "ada", [template(axis(0))])


def test_fail_over_to_a_synchronous_standby_loses_nothing(own_server: PostgresServer) -> None:
    with PostgresServer(follows=own_server, on=IN_MEMORY) as standby:
        own_server.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        own_server.execute("SELECT pg_reload_conf()")
        both = f"host={own_server.directory},{standby.directory} user=postgres dbname=postgres"
        with opened(both, read_url=standby.uri()) as gallery:
            for number in range(10):
                gallery.enroll("default", f"s{number}", [template(axis(number))])
            wait_until(lambda: len(gallery.search("default", axis(0), 20)) == 10, "the standby has all")
            own_server.kill()
            standby.promote()
            standby.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
            standby.execute("SELECT pg_reload_conf()")
            answers = []

            def enrolled() -> bool:
                try:
                    gallery.enroll("default", "after", [template(axis(50))], on_conflict=OnConflict.REPLACE)
                except GalleryUnavailable as error:
                    answers.append(error)
                    return False
                return True

            wait_until(enrolled, "the standby takes writes")
            assert gallery.size("default").subjects == 11
            assert len(gallery.search("default", axis(0), 20)) == 11
