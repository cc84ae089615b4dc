"""LFW, View 2, over HTTP: verification accuracy of each service with real weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np

from benchmarks.peers.contenders import Contender
from benchmarks.peers.processes import ANSWER_SECONDS, ask, start
from benchmarks.peers.results import LfwAccuracy
from benchmarks.peers.stages import Bench
from model.evaluation.protocols import FAILED_DISTANCE, LfwPairs, ten_fold

CLIENTS = 8


def exam(bench: Bench, contender: Contender, lfw: LfwPairs) -> LfwAccuracy:
    """All pairs of View 2 over HTTP; each service uses the largest of several faces."""
    read = contender.distance
    assert read is not None
    arrangement = contender.for_many(len(bench.cores))[-1]
    with (
        start(contender, arrangement, bench.venv) as one,
        httpx.Client(timeout=ANSWER_SECONDS) as client,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):

        def distance(number: int) -> float | None:
            pair = lfw.names[number]
            photographs = (lfw.photographs[pair[0]], lfw.photographs[pair[1]])
            answer = ask(client, one.urls[number % len(one.urls)], contender, photographs)
            return read(answer.json()) if answer.status_code == httpx.codes.OK else None

        found = list(pool.map(distance, range(len(lfw.names))))
    distances = np.array([FAILED_DISTANCE if d is None else d for d in found])
    accuracy = ten_fold(distances, lfw.mated, lfw.fold)
    return LfwAccuracy(
        mean=accuracy.mean, standard_error=accuracy.standard_error, pairs=len(found), unanswered=found.count(None)
    )


def accuracies(bench: Bench, lfw: LfwPairs) -> None:
    """Measures every service with real weights, one after the other."""
    for contender in bench.able():
        if contender.distance:
            try:
                bench.service(contender).accuracy = exam(bench, contender, lfw)
            except (RuntimeError, OSError, httpx.TransportError) as error:
                bench.fail(contender, error)
