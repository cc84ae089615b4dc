from __future__ import annotations

import numpy as np
import pytest

from benchmarks.queueing import answer_times, table


@pytest.mark.parametrize("load", [0.3, 0.8])
def test_the_mean_wait_on_one_core_is_that_of_pollaczek_and_khinchine(load: float) -> None:
    assert answer_times(1, load, 300_000).mean() == pytest.approx(1 + load / (2 * (1 - load)), rel=0.03)


def test_more_cores_wait_less_and_nobody_is_answered_sooner_than_its_own_work() -> None:
    waits = [answer_times(cores, 0.8, 50_000) for cores in (1, 2, 8)]
    assert waits[0].mean() > waits[1].mean() > waits[2].mean()
    assert min(wait.min() for wait in waits) == pytest.approx(1)


def test_with_cores_enough_for_everybody_nobody_waits() -> None:
    np.testing.assert_allclose(answer_times(1000, 0.01, 2000), 1)


def test_the_table_has_a_row_for_each_number_of_cores() -> None:
    rows = list(table(1000))
    assert [row.split(" | ")[0] for row in rows[2:]] == [
        "| 1 core",
        "| 2 cores",
        "| 4 cores",
        "| 8 cores",
        "| 16 cores",
    ]
