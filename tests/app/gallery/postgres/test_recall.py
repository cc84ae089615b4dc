"""Audits of searches: a poor index is found out, a good one is not, nobody is in the way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import psycopg
import pytest

from app.composition import open_gallery
from app.crowding import NoCrowding
from app.embeddings import squared_distance
from app.gallery.postgres import recall, search
from app.gallery.postgres.gallery import PostgresGallery, unavailable
from app.gallery.postgres.recall import FARTHEST, NEAREST, audit_search, photograph_like
from app.gallery.postgres.search import IndexUse
from app.postgres import Postgres
from app.settings import Settings
from benchmarks.postgres_server import IN_MEMORY, PostgresServer
from benchmarks.scale_fill import INDEX, fill_postgres
from tests.app.gallery.contract import random_embedding, template
from tests.app.gallery.sqlite.support import DIGEST
from tests.app.process import wait_until

pytestmark = pytest.mark.slow

SUBJECTS = 2000
POOR = "USING hnsw (mean halfvec_ip_ops) WITH (m = 2, ef_construction = 4)"


@pytest.fixture
def database(url: str) -> Iterator[Postgres]:
    with closing(Postgres(url, unavailable, connections=2)) as opened:
        yield opened


def fill(url: str, index: str) -> None:
    random = np.random.default_rng(0)
    fill_postgres(url, np.stack([random_embedding(random) for _ in range(SUBJECTS)]), NoCrowding(), DIGEST, index=index)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is asked for the nearest alone."""
    monkeypatch.setattr(search, "LEAST_INDEXED", 1)
    monkeypatch.setattr(search, "SPARE", 0)


def test_a_made_up_photograph_is_as_far_as_photographs_of_one_person_are() -> None:
    random = np.random.default_rng(1)
    distances = []
    for _ in range(200):
        embedding = random_embedding(random)
        probe = photograph_like(embedding, random)
        assert probe.dtype == np.float32
        distances.append(squared_distance(probe, embedding))
    assert NEAREST - 1e-3 < min(distances) < 0.3
    assert FARTHEST - 0.1 < max(distances) < FARTHEST + 1e-3


def test_an_index_that_misses_is_found_out(url: str, database: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    fill(url, POOR)
    random = np.random.default_rng(2)
    answers = [audit_search(database, IndexUse(0, breadth=1), random) for _ in range(60)]
    assert None not in answers
    assert 5 < answers.count(False) < 60


def test_an_index_as_it_is_built_misses_nobody(url: str, database: Postgres) -> None:
    fill(url, INDEX)
    random = np.random.default_rng(2)
    assert [audit_search(database, IndexUse(0), random) for _ in range(40)] == [True] * 40


def test_only_collections_that_are_searched_by_the_index_are_audited(url: str, database: Postgres) -> None:
    random = np.random.default_rng(3)
    with closing(PostgresGallery(url, encoder_digest=DIGEST)) as gallery:
        assert audit_search(database, IndexUse(0), random) is None
        gallery.create_collection("large")
        for number in range(6):
            gallery.enroll("large" if number else "default", f"s{number}", [template(random_embedding(random))])
        assert audit_search(database, IndexUse(5), random) is None
        # The one in the small collection is damaged, and never drawn.
        with psycopg.connect(url) as connection:
            connection.execute(
                "UPDATE tessera.templates SET norm = 1 WHERE collection = (SELECT key FROM tessera.collections WHERE "
                "id = 'default')"
            )
        assert [audit_search(database, IndexUse(1), random) for _ in range(20)] == [True] * 20


def test_two_replicas_never_audit_at_once(url: str, database: Postgres) -> None:
    fill(url, INDEX)
    random = np.random.default_rng(4)
    with psycopg.connect(url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (recall._LOCK,))
        assert audit_search(database, IndexUse(0), random) is None
    assert audit_search(database, IndexUse(0), random) is True


def test_a_standby_that_is_searched_is_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "SHARE", 1)
    with PostgresServer(on=IN_MEMORY) as primary:
        fill(primary.uri(), INDEX)
        with (
            PostgresServer(follows=primary, on=IN_MEMORY) as standby,
            closing(
                PostgresGallery(
                    primary.uri(), encoder_digest=DIGEST, read_url=standby.uri(), index=IndexUse(0, audit_seconds=0.01)
                )
            ) as gallery,
        ):
            scans = "SELECT SUM(idx_scan) FROM pg_stat_user_indexes WHERE indexrelname LIKE '%mean%'"
            before = primary.execute(scans)
            wait_until(lambda: gallery.statistics().search_audits > 3, "searches were audited")
            assert gallery.statistics().search_audits_failed == 0
            assert primary.execute(scans) == before


def test_settings_say_which_searches_use_the_index_and_how(url: str) -> None:
    chosen = {"url": url, "search_exact_up_to": 5, "search_breadth": 77, "search_audit_seconds": 0}
    with closing(open_gallery(Settings.model_validate({"gallery": chosen}), DIGEST, NoCrowding())) as gallery:
        assert isinstance(gallery, PostgresGallery)
        assert gallery._index == IndexUse(5, 77, None)


def test_a_gallery_counts_its_audits(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hurry(monkeypatch)
    monkeypatch.setattr(recall, "SHARE", 1)
    fill(url, POOR)
    with (
        closing(PostgresGallery(url, encoder_digest=DIGEST, index=IndexUse(0, 1, 0.01))) as gallery,
        caplog.at_level(logging.WARNING, "tessera"),
    ):
        wait_until(
            lambda: gallery.statistics().search_audits > gallery.statistics().search_audits_missed > 0,
            "one audit found a miss and another one none",
        )
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ALTER TABLE tessera.subjects RENAME TO elsewhere")
        wait_until(lambda: gallery.statistics().search_audits_failed > 0, "an audit failed")
        assert "could not be audited" in caplog.text
