from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg
import pytest

from app.crowding import COHORT_FILE, read_cohort
from app.embeddings import have_unit_norm
from app.gallery import SqliteGallery
from app.gallery.postgres.gallery import PostgresGallery
from app.gallery.postgres.search import IndexUse
from app.gallery.postgres.transfer import inspect_database
from app.settings import EncodingSettings
from benchmarks.processes import cpu_seconds, machine_seconds, memory_bytes
from benchmarks.scale_fill import build_index, erase, fill_embedded, rebuild_index, store_subjects, vacuum
from benchmarks.scale_search import (
    Searched,
    Spread,
    Step,
    costs_table,
    in_turn,
    made_up,
    most_missed,
    photographs_of,
    searches_table,
)
from tests.app.gallery.contract import random_embedding, template
from tests.app.gallery.sqlite.support import DIGEST
from tests.app.postgres import postgres, url

__all__ = ["postgres", "url"]

COHORT = read_cohort(EncodingSettings().directory / COHORT_FILE)


@pytest.mark.parametrize("spread", Spread)
def test_subjects_are_unit_vectors_as_crowded_as_is_said(spread: Spread) -> None:
    vectors = made_up(np.random.default_rng(0), 500, spread, COHORT)
    assert have_unit_norm(vectors)
    nearest = (vectors @ COHORT.centroids.T).max(axis=1).mean()
    assert (nearest > 0.6) == (spread is Spread.CENTROIDS)


@pytest.mark.slow
def test_what_is_copied_in_is_what_would_have_been_enrolled(url: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    vectors = made_up(random, 300, Spread.CENTROIDS, COHORT)
    store_subjects(url, vectors, COHORT, DIGEST)
    build_index(url)
    fill_embedded(tmp_path, vectors, COHORT, DIGEST)
    with psycopg.connect(url, options="-c search_path=tessera,public") as connection:
        mean = "SELECT mean::text FROM subjects WHERE id = %s"
        copied = connection.execute(mean, ("s0000007",)).fetchone()
    with (
        closing(SqliteGallery(tmp_path, encoder_digest=DIGEST, crowding=COHORT)) as embedded,
        closing(PostgresGallery(url, encoder_digest=DIGEST, crowding=COHORT)) as exact,
        closing(PostgresGallery(url, encoder_digest=DIGEST, crowding=COHORT, index=IndexUse(0))) as indexed,
    ):
        galleries: dict[str, tuple[Searched, int]] = {
            "embedded": (embedded, 20),
            "exact": (exact, 8),
            "index": (indexed, 20),
        }
        found = in_turn(galleries, photographs_of(random, vectors, 20))
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in searches_table(found)]
        assert [row[:2] + row[4:5] + row[6:] for row in rows[2:]] == [
            ["embedded", "20", "0", "1.0000", "0.0e+00"],
            ["exact", "8", "0", "1.0000", "0.0e+00"],
            ["index", "20", "0", "1.0000", "0.0e+00"],
        ]
        exact.enroll("default", "anew", [template(vectors[7])])
        with psycopg.connect(url, options="-c search_path=tessera,public") as connection:
            assert connection.execute(mean, ("anew",)).fetchone() == copied
        exact.enroll("default", "another", [template(random_embedding(random))])
    found_there = inspect_database(url)
    assert (found_there.subjects, found_there.problems) == (302, ())
    assert erase(url, 0.1) == 30
    rebuild_index(url)
    vacuum(url)


def test_the_bound_of_misses_is_that_of_the_binomial_distribution() -> None:
    # None in n: 1 - 0.05 ** (1 / n).
    assert most_missed(0, 150) == pytest.approx(1 - 0.05 ** (1 / 150))
    assert most_missed(150, 150) == 1
    # R: binom.test(3, 1000, alternative = "less")$conf.int
    assert most_missed(3, 1000) == pytest.approx(0.007737, abs=2e-6)


def test_costs_are_shown_for_a_million() -> None:
    lines = list(costs_table(500_000, {"templates": 2**30}, 2**31, {"embedded": 0.54}, [Step("waiting", 120, 60)]))
    assert lines[2:] == [
        "| disk: templates, GiB | 1.00 | 2.00 |",
        "| memory of the server, GiB | 2.00 | |",
        "| enrolling one more, embedded, ms | 0.5 | |",
        "| waiting, minutes (of processor time) | 2.0 (1.0) | 4.0 (2.0) |",
    ]


def test_processor_time_and_memory_are_those_of_the_process() -> None:
    process = os.getpid()
    before, busy = cpu_seconds([process]), machine_seconds()[0]
    # Not until ``before``, which holds what the processes of other tests took, too.
    end = time.process_time() + 0.3
    while time.process_time() < end:
        sum(range(1000))
    assert cpu_seconds([process]) >= before + 0.2
    assert machine_seconds()[0] > busy
    held = np.ones(30_000_000, np.uint8)
    assert memory_bytes(process) > held.nbytes
