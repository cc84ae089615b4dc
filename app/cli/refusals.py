"""Photographs that a command could not use: counted, told, and listed in a file."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated

import typer

from app.cli.output import say

MOST_TOLD = 20
"""Refusals that are told one by one where no file was asked for."""

ReportOption = Annotated[
    Path | None,
    typer.Option(help="CSV file for the photographs that could not be used, with the reason of each; replaced"),
]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A photograph and why it could not be used; ``code`` as the API has it."""

    subject_id: str
    path: Path
    code: str
    detail: str


class Refusals:
    """Collects refusals. Callable from any thread."""

    def __init__(self, report: Path | None) -> None:
        """``report``: a CSV file to write them to as they come. Raises OSError."""
        self.codes: Counter[str] = Counter()
        self._lock, self._report, self._opened = Lock(), report, ExitStack()
        if report is not None:
            # Names of files need not be UTF-8.
            file = self._opened.enter_context(
                report.open("w", encoding="utf-8", errors="backslashreplace", newline="", buffering=1)
            )
            self._writer = csv.writer(file)
            self._writer.writerow(("subject_id", "path", "code", "detail"))

    def add(self, refusal: Refusal) -> None:
        """Notes one."""
        with self._lock:
            self.codes[refusal.code] += 1
            if self._report is not None:
                self._writer.writerow((refusal.subject_id, refusal.path, refusal.code, refusal.detail))
            elif self.codes.total() <= MOST_TOLD:
                say(f"{refusal.path}: {refusal.code}: {refusal.detail}")

    def conclude(self) -> None:
        """Tells how many there were of each kind, and where they are listed."""
        self._opened.close()
        if not self.codes:
            return
        counts = ", ".join(f"{count} {code}" for code, count in self.codes.most_common())
        where = f"listed in {self._report}" if self._report is not None else "--report FILE lists all of them"
        say(f"to look at: {counts}; {where}")


@contextmanager
def refusals_of(report: Path | None) -> Iterator[Refusals]:
    """Refusals that are concluded on leaving, however that is. Raises OSError."""
    found = Refusals(report)
    try:
        yield found
    finally:
        found.conclude()
