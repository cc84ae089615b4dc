"""How fast a collection is searched, how much of it is found, and what that costs in memory: several indexes in turns.

    python -m benchmarks.search --templates 20000 --templates 1000000

The faces are made up: unit vectors in all directions alike, the hardest kind there is for an approximate search. A
mated probe has a squared distance of 0.5 to 0.9 to its template, a stranger 2.0 on average to every one. Each index
takes its turn with the same probes on one thread, so that a busy moment of the machine hits all of them; compare the
ratios.
"""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import faiss
import numpy as np
import numpy.typing as npt
import typer

from app.gallery.approximate import ApproximateIndex
from app.gallery.guides import Codes
from app.gallery.index import FlatIndex
from app.gallery.segment import MakeGuide
from app.types import EMBEDDING_SIZE, Embedding

MATED_DISTANCES = (0.5, 0.9)
COUNT = 34
"""So many nearest are asked of the index by ``/identify`` with its defaults."""
RESCORED = 4 * COUNT
LINKS, CANDIDATES_BUILDING, CANDIDATES_SEARCHING = 32, 100, 256
PROBES_A_TURN = 20
CHUNK = 100_000

Vectors = npt.NDArray[np.float32]
Search = Callable[[Embedding], int]
"""The place of the nearest template."""


@dataclass
class Way:
    """One index: how it searches, what it took, and what was found of mated probes and of strangers."""

    search: Search
    seconds: float
    size: int
    milliseconds: list[float] = field(default_factory=list)
    found: list[int] = field(default_factory=list)


def unit(vectors: Vectors) -> Vectors:
    """Every row scaled to length 1, in place."""
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def made_up(random: np.random.Generator, count: int) -> Vectors:
    """Unit vectors in all directions, float32 [N, 128]."""
    vectors = np.empty((count, EMBEDDING_SIZE), dtype=np.float32)
    for start in range(0, count, CHUNK):
        part = vectors[start : start + CHUNK]
        part[:] = random.standard_normal(part.shape, dtype=np.float32)
        unit(part)
    return vectors


def mated(random: np.random.Generator, templates: Vectors) -> Vectors:
    """A probe for each of the templates."""
    cosine = 1 - random.uniform(*MATED_DISTANCES, (len(templates), 1)).astype(np.float32) / 2
    other = made_up(random, len(templates))
    other -= (other * templates).sum(axis=1, keepdims=True) * templates
    probes = cosine * templates + np.sqrt(1 - cosine**2) * unit(other)
    return unit(probes.astype(np.float32))


def float32(templates: Vectors) -> Search:
    """Every template, as it comes from the encoder."""
    index = faiss.IndexFlatIP(EMBEDDING_SIZE)
    index.add(templates)
    return lambda probe: int(index.search(probe[np.newaxis], COUNT)[1][0, 0])


def float16(templates: Vectors) -> Search:
    """Every template, as small collections are searched."""
    index = FlatIndex()
    index.add(np.arange(len(templates)), templates)
    return lambda probe: int(index.search(probe, COUNT).keys[0])


def eight_bits(templates: Vectors) -> Search:
    """Every template at 8 bits a component, then the best of them at half precision."""
    coarse, fine = (
        faiss.IndexScalarQuantizer(EMBEDDING_SIZE, kind, faiss.METRIC_INNER_PRODUCT)
        for kind in (faiss.ScalarQuantizer.QT_8bit, faiss.ScalarQuantizer.QT_fp16)
    )
    coarse.train(templates[:CHUNK])
    for index in (coarse, fine):
        index.add(templates)

    def search(probe: Embedding) -> int:
        places = coarse.search(probe[np.newaxis], RESCORED)[1][0]
        return int(places[(fine.reconstruct_batch(places) @ probe).argmax()])

    return search


def graph(templates: Vectors) -> Search:
    """Along the links between neighbours (HNSW: Malkov and Yashunin 2018, arXiv:1603.09320)."""
    index = faiss.IndexHNSWSQ(EMBEDDING_SIZE, faiss.ScalarQuantizer.QT_fp16, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = CANDIDATES_BUILDING, CANDIDATES_SEARCHING
    index.train(templates[:CHUNK])
    index.add(templates)
    return lambda probe: int(index.search(probe[np.newaxis], COUNT)[1][0, 0])


def guided(make_guide: MakeGuide, templates: Vectors) -> Search:
    """The templates that a guide leads to, as large collections are searched."""
    index = ApproximateIndex(approximate_from=1, audit_every=sys.maxsize, probation=0, make_guide=make_guide)
    index.add(np.arange(len(templates)), templates)
    index.maintain()
    index.wait()
    return lambda probe: int(index.search(probe, COUNT).keys[0])


WAYS: dict[str, Callable[[Vectors], Search]] = {
    "exact, float16": float16,
    "4-bit codes, best rescored at float16": partial(guided, Codes),
    "8 bits, best rescored at float16": eight_bits,
    "exact, float32": float32,
}


def resident() -> int:
    """Bytes of memory that the process holds, without what it has freed."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(faiss.get_mem_usage_kb()) * 1024


def built(make: Callable[[Vectors], Search], templates: Vectors) -> Way:
    """An index with all templates."""
    before, start = resident(), time.perf_counter()
    search = make(templates)
    seconds = time.perf_counter() - start
    return Way(search, seconds, resident() - before)


def measure(ways: dict[str, Way], probes: Vectors) -> None:
    """Searches for every probe in every index. A turn's first search, which finds the caches cold, does not count."""
    for start in range(0, len(probes), PROBES_A_TURN):
        for way in ways.values():
            for number, probe in enumerate(probes[start : start + PROBES_A_TURN]):
                began = time.perf_counter()
                way.found.append(way.search(probe))
                if number > 0:
                    way.milliseconds.append((time.perf_counter() - began) * 1000)


def show(size: int, ways: dict[str, Way], probes: int) -> None:
    """One row an index; the first of them is the exact one that the others are held against."""
    exact = next(iter(ways.values()))
    for name, way in ways.items():
        same = np.array(way.found) == np.array(exact.found)
        median, reference = statistics.median(way.milliseconds), statistics.median(exact.milliseconds)
        typer.echo(
            f"| {size} | {name} | {median:.3g} | {median / reference:.3f} | {100 * same[:probes].mean():.2f} | "
            f"{100 * same[probes:].mean():.2f} | {way.size / size:.0f} | {way.seconds:.1f} |"
        )


def main(
    templates: Annotated[list[int], typer.Option(help="size of a collection; may be repeated", min=COUNT)] = [  # noqa: B006
        20_000,
        200_000,
        1_000_000,
    ],
    probes: Annotated[int, typer.Option(help="mated probes, and as many strangers", min=PROBES_A_TURN)] = 1000,
    hnsw: Annotated[bool, typer.Option("--hnsw", help="beside a graph, which takes minutes to build")] = False,
) -> None:
    """Prints a table: median milliseconds, their ratio, how often the nearest is that of the exact search, memory."""
    faiss.omp_set_num_threads(1)
    typer.echo(
        "| templates | index | ms | of exact | nearest as exact: mated, % | strangers, % | bytes each | build, s |"
    )
    typer.echo("|---|---|---|---|---|---|---|---|")
    chosen = WAYS | ({"graph (HNSW) over float16": graph} if hnsw else {})
    for size in templates:
        random = np.random.default_rng(0)
        enrolled = made_up(random, size)
        wanted = mated(random, enrolled[random.choice(size, probes)])
        ways = {name: built(make, enrolled) for name, make in chosen.items()}
        measure(ways, np.concatenate([wanted, made_up(random, probes)]))
        show(size, ways, probes)


if __name__ == "__main__":
    typer.run(main)
