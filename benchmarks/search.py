"""How fast the embedded gallery's index searches a collection, and what that costs in memory.

    python -m benchmarks.search --templates 20000 --templates 1000000

The faces are made up: unit vectors in all directions alike. An exact search compares the probe with every template, so
its time does not depend on what the vectors are. The index at half precision, as it is served, and one that keeps
float32 take turns with the same probes on one thread, so that a busy moment of the machine hits both; compare the
ratios.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import faiss
import numpy as np
import numpy.typing as npt
import typer

from app.embeddings import EMBEDDING_SIZE, Embedding
from app.gallery.sqlite.index import VectorIndex
from app.gallery.sqlite.ranking import SPARE

COUNT = 5 + SPARE
"""So many nearest are asked of the index by ``/identify`` with its default of 5 candidates."""
PROBES_A_TURN = 20
CHUNK = 100_000

Vectors = npt.NDArray[np.float32]
Search = Callable[[Embedding], object]


@dataclass
class IndexRun:
    """One index: how it searches, what building it took, seconds and bytes, and the milliseconds of each search."""

    search: Search
    seconds: float
    size: int
    milliseconds: list[float] = field(default_factory=list)


def made_up(random: np.random.Generator, count: int) -> Vectors:
    """Unit vectors in all directions, float32 [N, 128]."""
    vectors = np.empty((count, EMBEDDING_SIZE), dtype=np.float32)
    for start in range(0, count, CHUNK):
        part = vectors[start : start + CHUNK]
        part[:] = random.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def float16(templates: Vectors) -> Search:
    """As collections are searched."""
    index = VectorIndex()
    index.add(np.arange(len(templates)), templates, np.zeros(len(templates), dtype=np.float32))
    return lambda probe: index.search(probe, COUNT)


def float32(templates: Vectors) -> Search:
    """Every template as it comes from the encoder."""
    index = faiss.IndexFlatIP(EMBEDDING_SIZE)
    index.add(templates)
    return lambda probe: index.search(probe[np.newaxis], COUNT)


INDEXES: dict[str, Callable[[Vectors], Search]] = {"float16, as served": float16, "float32": float32}


def resident() -> int:
    """Bytes of memory that the process holds, without what it has freed."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(faiss.get_mem_usage_kb()) * 1024


def built(make: Callable[[Vectors], Search], templates: Vectors) -> IndexRun:
    """An index with all templates."""
    before, start = resident(), time.perf_counter()
    search = make(templates)
    seconds = time.perf_counter() - start
    return IndexRun(search, seconds, resident() - before)


def measure(indexes: list[IndexRun], probes: Vectors) -> None:
    """Searches for every probe in every index. A turn's first search, which finds the caches cold, does not count."""
    for start in range(0, len(probes), PROBES_A_TURN):
        for index in indexes:
            for number, probe in enumerate(probes[start : start + PROBES_A_TURN]):
                began = time.perf_counter()
                index.search(probe)
                if number > 0:
                    index.milliseconds.append((time.perf_counter() - began) * 1000)


def main(
    templates: Annotated[list[int], typer.Option(help="size of a collection; may be repeated", min=COUNT)] = [  # noqa: B006
        20_000,
        200_000,
        1_000_000,
    ],
    probes: Annotated[int, typer.Option(help="searches of each index", min=PROBES_A_TURN)] = 1000,
) -> None:
    """Prints a table: median milliseconds of a search, their ratio, memory, time to build."""
    faiss.omp_set_num_threads(1)
    typer.echo("| templates | index | ms | of float16 | bytes each | build, s |")
    typer.echo("|---|---|---|---|---|---|")
    for size in templates:
        random = np.random.default_rng(0)
        enrolled = made_up(random, size)
        indexes = {name: built(make, enrolled) for name, make in INDEXES.items()}
        measure(list(indexes.values()), made_up(random, probes))
        medians = {name: statistics.median(index.milliseconds) for name, index in indexes.items()}
        served = next(iter(medians.values()))
        for name, index in indexes.items():
            typer.echo(
                f"| {size} | {name} | {medians[name]:.3g} | {medians[name] / served:.2f} | {index.size / size:.0f} | "
                f"{index.seconds:.1f} |"
            )


if __name__ == "__main__":
    typer.run(main)
