from __future__ import annotations

import contextvars
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.timing import note, stage, timed


def test_stages_add_up_in_the_order_in_which_they_began() -> None:
    with timed() as stages:
        with stage("b"):
            pass
        note("a", 2.0)
        with stage("b"):
            pass
        note("a", 1.0)
    assert list(stages) == ["b", "a"]
    assert stages["a"] == 3.0
    assert stages["b"] > 0


def test_without_a_collector_nothing_happens() -> None:
    with stage("a"):
        note("b", 1.0)


def test_a_stage_that_fails_counts() -> None:
    with timed() as stages, pytest.raises(ValueError, match="no"), stage("a"):
        raise ValueError("no")
    assert list(stages) == ["a"]


def test_threads_with_a_copy_of_the_context_are_collected_and_others_are_not() -> None:
    with ThreadPoolExecutor(1) as pool, timed() as stages:
        pool.submit(contextvars.copy_context().run, note, "a", 1.0).result()
        pool.submit(note, "b", 1.0).result()
        with timed() as inner:
            note("c", 1.0)
    assert (stages, inner) == ({"a": 1.0}, {"c": 1.0})
