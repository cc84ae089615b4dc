"""Two pieces of work at once, where a core is free for the second."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from app.timing import note, timed

A = TypeVar("A")
B = TypeVar("B")


class SideBySide:
    """Helping threads that are shared by all requests; ``helpers``: how many, the other cores of the machine.

    May be called from several threads at once.
    """

    def __init__(self, helpers: int) -> None:
        self._pool = ThreadPoolExecutor(helpers, thread_name_prefix="helper") if helpers > 0 else None

    def __call__(self, first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
        """What both return; raises what ``first`` raises, else what ``second`` raises.

        The caller does the second, too, unless a helper has begun it by then. Neither goes on after the return. The
        stages of both count as the caller's, so that their sum may be more than the time that passed.
        """
        if self._pool is None:
            return first(), second()
        helped = self._pool.submit(_timed, second)
        try:
            mine = first()
        except BaseException:
            _give_up(helped)
            raise
        if helped.cancel():
            return mine, second()
        theirs, stages = helped.result()
        for name, seconds in stages.items():
            note(name, seconds)
        return mine, theirs

    def close(self) -> None:
        """Ends the helpers."""
        if self._pool is not None:
            self._pool.shutdown()


def _timed(work: Callable[[], B]) -> tuple[B, dict[str, float]]:
    with timed() as stages:
        return work(), stages


def _give_up(helped: Future[tuple[B, dict[str, float]]]) -> None:
    if not helped.cancel():
        wait([helped])
