"""Live progress of long commands, on stderr: a bar on a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

EVERY_SECONDS = 10.0


class Progress:
    """Counts ``total`` pieces of work, of which ``done`` were done before; ``lines`` False for a bar or nothing."""

    def __init__(self, what: str, total: int, done: int = 0, *, lines: bool = True) -> None:
        self._what, self._total, self._done = what, total, done
        self._since, self._began, self._told = done, time.monotonic(), time.monotonic()
        console = Console(stderr=True)
        self._lines = lines and not console.is_terminal
        self._console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        self._bar = Bar(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(what, total=total, completed=done, rate="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @property
    def rate(self) -> float:
        """Pieces a second since the start of this process."""
        return (self._done - self._since) / max(time.monotonic() - self._began, 1e-9)

    @property
    def left(self) -> str:
        """The time left at this rate, as ``1:02:03``."""
        return clock((self._total - self._done) / self.rate) if self._done > self._since else "?"

    def advance(self, count: int = 1) -> None:
        """So many pieces more are done."""
        self._done += count
        self._bar.update(self._task, advance=count, rate=f"{self.rate:.3g}/s")
        if self._lines and time.monotonic() - self._told > EVERY_SECONDS:
            self._told = time.monotonic()
            line = f"{self._what}: {self._done} of {self._total}, {self.rate:.3g}/s, {self.left} left"
            self._console.print(line, soft_wrap=True, highlight=False)


def clock(seconds: float) -> str:
    """Seconds as ``h:mm:ss``, or ``m:ss`` where there is no hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
