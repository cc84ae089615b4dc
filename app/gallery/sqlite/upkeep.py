"""Work that follows writes, on a thread of its own, once they pause."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Condition, Thread

PAUSE_S = 2.0
"""The work is done when nothing was written for so long ..."""
LONGEST_S = 10.0
"""... or when writes have gone on for so long."""


class Upkeep:
    """Calls ``work`` after writes, and again after a pause for as long as it returns False. ``work`` must not raise."""

    def __init__(self, work: Callable[[], bool]) -> None:
        self._work = work
        self._changed = Condition()
        self._due: float | None = None
        self._latest = 0.0
        self._stopping = False
        self._thread = Thread(target=self._run, name="gallery-upkeep", daemon=True)
        self._thread.start()

    def written(self) -> None:
        """Tells it of a write."""
        now = time.monotonic()
        with self._changed:
            if self._due is None:
                self._latest = now + LONGEST_S
                self._changed.notify()
            self._due = min(now + PAUSE_S, self._latest)

    def stop(self) -> None:
        """Waits for work under way and does no more. Call it without a lock that ``work`` takes."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._wait():
            if not self._work():
                self.written()

    def _wait(self) -> bool:
        """Waits until work is due; False to end."""
        with self._changed:
            while not self._stopping:
                left = None if self._due is None else self._due - time.monotonic()
                if left is not None and left <= 0:
                    self._due = None
                    return True
                self._changed.wait(left)
            return False
