"""Two pieces of work at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from app.recognition.side_by_side import SideBySide
from app.timing import stage, timed

SECONDS = 20


@pytest.fixture
def both() -> Iterator[SideBySide]:
    made = SideBySide(1)
    yield made
    made.close()


def test_both_run_at_once(both: SideBySide) -> None:
    met = threading.Barrier(2, timeout=SECONDS)

    assert both(lambda: met.wait() >= 0, lambda: met.wait() >= 0) == (True, True)


def test_without_a_helper_the_caller_does_both() -> None:
    assert SideBySide(0)(threading.get_ident, threading.get_ident) == (threading.get_ident(), threading.get_ident())


def test_a_busy_helper_keeps_nobody_waiting(both: SideBySide) -> None:
    begun, end = threading.Event(), threading.Event()

    def held() -> bool:
        begun.set()
        return end.wait(SECONDS)

    other = threading.Thread(target=lambda: both(lambda: end.wait(SECONDS), held))
    other.start()
    assert begun.wait(SECONDS)
    try:
        assert both(lambda: 1, threading.get_ident) == (1, threading.get_ident())
    finally:
        end.set()
        other.join()


def test_the_first_error_is_raised_and_nothing_goes_on_after_it(both: SideBySide) -> None:
    begun, finished = threading.Event(), threading.Event()

    def first() -> None:
        begun.wait(SECONDS)
        raise ValueError("first")

    def second() -> None:
        begun.set()
        finished.set()
        raise ValueError("second")

    with pytest.raises(ValueError, match="first"):
        both(first, second)
    assert finished.is_set()


def test_the_second_error_is_raised(both: SideBySide) -> None:
    def second() -> None:
        raise ValueError("second")

    with pytest.raises(ValueError, match="second"):
        both(lambda: 1, second)


@pytest.mark.parametrize("helpers", [0, 1])
def test_the_stages_of_both_are_counted(helpers: int) -> None:
    both = SideBySide(helpers)

    def work() -> None:
        with stage("work"):
            threading.Event().wait(0.02)

    try:
        with timed() as stages:
            both(work, work)
    finally:
        both.close()

    assert stages["work"] >= 0.04
