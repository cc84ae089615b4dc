"""Searches of large galleries: how long they take, whom they miss, what they cost on disk and in memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from scipy.stats import binomtest

from app.crowding import Cohort
from app.embeddings import EMBEDDING_SIZE, Embedding, Vectors
from app.gallery import Candidate, NewTemplate, Subject
from app.gallery.postgres.recall import photograph_like
from benchmarks.postgres_server import PostgresServer
from benchmarks.scale_fill import NORM

TOP_K = 5
BETWEEN = 1.05
"""Length of the noise between a centroid and a subject. With it as many strangers come near as real ones do to
``tessera-l``: within 0.77, 0.86 and 1.04 some 1e-5, 1e-4 and 1e-3 of all."""
WARMING = 5
CONFIDENCE = 0.95
_BLOCK = 50_000


class Spread(StrEnum):
    """Where made-up subjects lie."""

    CENTROIDS = "centroids"
    """Around the centroids of real faces, as crowded as real people are."""
    UNIFORM = "uniform"
    """Anywhere, evenly."""


def made_up(random: np.random.Generator, subjects: int, spread: Spread, cohort: Cohort) -> Vectors:
    """A unit vector for each subject, float32 [N, 128]."""
    vectors = np.empty((subjects, EMBEDDING_SIZE), np.float32)
    for start in range(0, subjects, _BLOCK):
        block = vectors[start : start + _BLOCK]
        noise = random.standard_normal(block.shape, np.float32)
        if spread is Spread.CENTROIDS:
            centres = cohort.centroids[random.integers(len(cohort.centroids), size=len(block))]
            noise = centres + BETWEEN * noise / np.sqrt(np.float32(EMBEDDING_SIZE))
        block[:] = noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return vectors


def photographs_of(random: np.random.Generator, vectors: Vectors, count: int) -> list[Embedding]:
    """Probes as other photographs of random subjects would give them."""
    return [photograph_like(vectors[place], random) for place in random.integers(len(vectors), size=count)]


class Searched(Protocol):
    """A gallery, as far as this is concerned."""

    def search(self, collection: str, probe: Embedding, top_k: int, *, crowded: bool = True) -> list[Candidate]: ...


class Enrolling(Protocol):
    """A gallery, as far as that is concerned."""

    def enroll(self, collection: str, subject_id: str, templates: Sequence[NewTemplate]) -> Subject: ...


@dataclass
class Searches:
    """Times in ms and answers of one gallery, in the order of the probes; None where it was not asked."""

    milliseconds: list[float] = field(default_factory=list)
    answers: list[list[Candidate] | None] = field(default_factory=list)


def in_turn(galleries: Mapping[str, tuple[Searched, int]], probes: list[Embedding]) -> dict[str, Searches]:
    """Searches all galleries with the same probes, in turn, so that a busy moment of the machine affects all.

    galleries: each with how many probes it gets, since some take too long for all.
    """
    found = {name: Searches() for name in galleries}
    for number, probe in enumerate(probes):
        for name, (gallery, most) in galleries.items():
            if number >= most:
                found[name].answers.append(None)
                continue
            began = time.perf_counter()
            found[name].answers.append(gallery.search("default", probe, TOP_K))
            found[name].milliseconds.append(1000 * (time.perf_counter() - began))
    return found


def enrolment_milliseconds(gallery: Enrolling, people: Vectors) -> float:
    """How long it takes to enrol one more, in the middle: one after the other, with one template each."""
    taken = []
    for number, embedding in enumerate(people):
        began = time.perf_counter()
        gallery.enroll("default", f"later{number}", [NewTemplate(f"later{number}", embedding, NORM)])
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def most_missed(missed: int, searches: int) -> float:
    """The largest rate of misses that is not refuted: one-sided 95 % upper bound (Clopper and Pearson 1934)."""
    return float(binomtest(missed, searches, alternative="less").proportion_ci(CONFIDENCE).high)


def searches_table(found: dict[str, Searches]) -> Iterator[str]:
    """One row a gallery; the first one compares everybody, so that others are held against it."""
    truth = next(iter(found.values()))
    yield (
        "| gallery | searches | median, ms | 95th percentile, ms | first is another | at most, with 95 % confidence | "
        "of the first five | distances differ by |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for name, one in found.items():
        pairs = [(a, b) for a, b in zip(one.answers, truth.answers, strict=True) if a is not None and b is not None]
        missed = sum(a[0].subject_id != b[0].subject_id for a, b in pairs)
        five = statistics.mean(len({c.subject_id for c in a} & {c.subject_id for c in b}) / TOP_K for a, b in pairs)
        apart = max(
            (abs(a[0].distance - b[0].distance) for a, b in pairs if a[0].subject_id == b[0].subject_id), default=0
        )
        ordered = sorted(one.milliseconds[WARMING:])
        bound = "" if one is truth else f"{100 * most_missed(missed, len(pairs)):.2g} %"
        yield (
            f"| {name} | {len(pairs)} | {statistics.median(ordered):.1f} | {ordered[int(0.95 * len(ordered))]:.1f} | "
            f"{missed} | {bound} | {five:.4f} | {apart:.1e} |"
        )


def relation_bytes(server: PostgresServer) -> dict[str, int]:
    """Bytes on disk, by what they are for."""
    query = """
        SELECT CASE WHEN i.relname LIKE '%mean%' THEN 'vector index' WHEN t.relname LIKE 'subjects%' THEN 'subjects'
               ELSE t.relname END, SUM(pg_relation_size(i.oid))::bigint
        FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace AND n.nspname = 'tessera'
        JOIN LATERAL (SELECT t.oid, t.relname UNION SELECT indexrelid, indexrelid::regclass::text FROM pg_index
                      WHERE indrelid = t.oid) i ON TRUE
        WHERE t.relkind = 'r' GROUP BY 1 HAVING SUM(pg_relation_size(i.oid)) > 1000000 ORDER BY 2 DESC
    """
    return {str(name): int(str(size)) for name, size in server.execute(query)}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done: by the clock, and the processor time of the server, seconds.

    The second hardly depends on what else the machine does.
    """

    name: str
    seconds: float
    processor: float


def costs_table(
    subjects: int, disk: Mapping[str, int], memory: int, enrolling: Mapping[str, float], steps: Sequence[Step]
) -> Iterator[str]:
    """What so many subjects take, and for each million: disk and memory in bytes, and time.

    enrolling: milliseconds to enrol one more, by gallery.
    """
    yield f"| {subjects} subjects | measured | for each million |"
    yield "|---|---|---|"
    for name, size in disk.items():
        gib = size / 2**30
        yield f"| disk: {name}, GiB | {gib:.2f} | {gib * 1e6 / subjects:.2f} |"
    yield f"| memory of the server, GiB | {memory / 2**30:.2f} | |"
    for name, milliseconds in enrolling.items():
        yield f"| enrolling one more, {name}, ms | {milliseconds:.1f} | |"
    for step in steps:
        minutes, processor = step.seconds / 60, step.processor / 60
        million = f"{minutes * 1e6 / subjects:.1f} ({processor * 1e6 / subjects:.1f})"
        yield f"| {step.name}, minutes (of processor time) | {minutes:.1f} ({processor:.1f}) | {million} |"
