"""Where the time of a piece of work goes: named stages, summed wherever they run in its context."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_current: ContextVar[dict[str, float] | None] = ContextVar("stages", default=None)


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Collects seconds by stage in this context and on threads started with a copy of it."""
    stages: dict[str, float] = {}
    token = _current.set(stages)
    try:
        yield stages
    finally:
        _current.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Adds the elapsed time to the stage of this name, if timing is being collected."""
    stages = _current.get()
    if stages is None:
        yield
        return
    start = time.perf_counter()
    try:
        yield
    finally:
        stages[name] = stages.get(name, 0.0) + time.perf_counter() - start


def note(name: str, seconds: float) -> None:
    """Adds a duration measured elsewhere to a stage, if timing is being collected."""
    stages = _current.get()
    if stages is not None:
        stages[name] = stages.get(name, 0.0) + seconds
