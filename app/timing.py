"""Where the time of one piece of work goes: stages by name, added up wherever they happen in its context."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_current: ContextVar[dict[str, float] | None] = ContextVar("stages", default=None)


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Collects what is done in this context, and on threads that are started with a copy of it: seconds by stage."""
    stages: dict[str, float] = {}
    token = _current.set(stages)
    try:
        yield stages
    finally:
        _current.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Adds the time that passes to a stage of this name, if anybody collects."""
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
    """Adds to a stage what was measured elsewhere, if anybody collects."""
    stages = _current.get()
    if stages is not None:
        stages[name] = stages.get(name, 0.0) + seconds
