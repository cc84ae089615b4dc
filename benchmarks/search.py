"""Search speed and memory of the embedded gallery's index.

    python -m benchmarks.search --templates 20000 --templates 1000000

The templates are synthetic: unit vectors, uniform on the sphere. An exact search compares the probe with every
template, so its time does not depend on the vectors. The half-precision index that is served and a float32 one take
turns with the same probes on one thread, so that a busy moment of the machine affects both; compare the ratios.
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
"""How many nearest templates ``/identify`` asks of the index with its default of 5 candidates."""
PROBES_A_TURN = 20
CHUNK = 100_000

Vectors = npt.NDArray[np.float32]
Search = Callable[[Embedding], object]


@dataclass
class IndexRun:
    """One index: its search function, build cost in seconds and bytes, and the milliseconds of each search."""

    search: Search
    seconds: float
    size: int
    milliseconds: list[float] = field(default_factory=list)


def made_up(random: np.random.Generator, count: int) -> Vectors:
    """Random unit vectors, uniform on the sphere, float32 [N, 128]."""
    vectors = np.empty((count, EMBEDDING_SIZE), dtype=np.float32)
    for start in range(0, count, CHUNK):
        part = vectors[start : start + CHUNK]
        part[:] = random.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def float16(templates: Vectors) -> Search:
    """The index that serves collections."""
    index = VectorIndex()
    index.add(np.arange(len(templates)), templates, np.zeros(len(templates), dtype=np.float32))
    return lambda probe: index.search(probe, COUNT)


def float32(templates: Vectors) -> Search:
    """An index of the templates as they come from the encoder."""
    index = faiss.IndexFlatIP(EMBEDDING_SIZE)
    index.add(templates)
    return lambda probe: index.search(probe[np.newaxis], COUNT)


INDEXES: dict[str, Callable[[Vectors], Search]] = {"float16, as served": float16, "float32": float32}


def resident() -> int:
    """Resident memory of the process in bytes, after freed memory is returned."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(faiss.get_mem_usage_kb()) * 1024


def built(make: Callable[[Vectors], Search], templates: Vectors) -> IndexRun:
    """An index with all templates."""
    before, start = resident(), time.perf_counter()
    search = make(templates)
    seconds = time.perf_counter() - start
    return IndexRun(search, seconds, resident() - before)


def measure(indexes: list[IndexRun], probes: Vectors) -> None:
    """Searches for every probe in every index. The first search of a turn is excluded, as its caches are cold."""
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
