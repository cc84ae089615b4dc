"""How long requests at random moments wait at best, by cores and load: what an ideal server could do.

    python -m benchmarks.queueing

Requests arrive at random moments (Poisson), each takes the same time of one core, who came first is served first, and
nothing is lost to switching, locks or the machine's other work: the queue M/D/c, simulated. The 99th percentile of a
real service cannot be nearer to its median for long than here, unless it answers faster under load or refuses.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from benchmarks.tables import ResultsOption, show

CORES = (1, 2, 4, 8, 16)
LOADS = (0.5, 0.6, 0.7, 0.8, 0.9)


def answer_times(cores: int, load: float, requests: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Times from arrival to answer, float64 [N], of requests that each take one core for a time of 1.

    ``load`` is the share of the cores' time that is asked for, below 1.
    """
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / (load * cores), requests))
    free = [0.0] * cores
    times = np.empty(requests)
    for number, arrival in enumerate(arrivals.tolist()):
        end = max(free[0], arrival) + 1
        heapq.heapreplace(free, end)
        times[number] = end - arrival
    return times


def table(requests: int) -> Iterator[str]:
    """The 99th percentile by cores and load, in medians of the same load."""
    yield (
        "| 99th percentile, in medians | "
        + " | ".join(f"{load:.0%} of capacity".replace("%", " %") for load in LOADS)
        + " |"
    )
    yield "|---|" + "---|" * len(LOADS)
    for cores in CORES:
        ratios = [np.divide(*np.percentile(answer_times(cores, load, requests), (99, 50))) for load in LOADS]
        yield f"| {cores} core{'s' if cores > 1 else ''} | " + " | ".join(f"{ratio:.1f}" for ratio in ratios) + " |"


def main(
    requests: Annotated[int, typer.Option(help="simulated requests of each kind", min=1000)] = 1_000_000,
    results: ResultsOption = None,
) -> None:
    """Prints the table."""
    show(table(requests), "queueing", results)


if __name__ == "__main__":
    typer.run(main)
