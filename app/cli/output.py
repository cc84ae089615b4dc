"""How commands answer: exit codes, JSON, tables and progress."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]

SECONDS_A_LINE = 10.0
WIDE = 10_000
"""Columns of what is not a terminal: a table in a file or a pipe is never cut or folded."""


class ExitCode(IntEnum):
    """What a command ends with; ``MEANINGS`` says it in words."""

    OK = 0
    NO = 1
    USAGE = 2
    CANNOT = 3
    STOPPED = 130
    UNREAD = 141


MEANINGS = {
    ExitCode.OK: "done; yes; a match; nothing wrong",
    ExitCode.NO: "no: no match or inconclusive, not ready, photographs refused, problems found",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.CANNOT: "it cannot be done, and nothing was decided: the one line on stderr says why",
    ExitCode.STOPPED: "stopped with Ctrl-C; what was done is kept",
    ExitCode.UNREAD: "whoever reads the output, such as `head`, ended before it did; what was done is kept",
}


def print_json(answer: BaseModel | dict[str, object] | list[dict[str, object]]) -> None:
    """Prints an answer as JSON, in ASCII: it is the same in every locale."""
    value = answer.model_dump(mode="json") if isinstance(answer, BaseModel) else answer
    typer.echo(json.dumps(value, indent=2, ensure_ascii=True))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table, without a head if its columns have no names.

    None is an empty cell. In a terminal long cells are folded, never cut; elsewhere every row is a line.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # As text: square brackets in what somebody stored are not markup.
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = WIDE
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():
        typer.echo(line.rstrip())


def say(text: str) -> None:
    """A line for the person at the terminal, on stderr: stdout has the answer alone."""
    typer.echo(text, err=True)


@contextmanager
def replacing(target: Path) -> Iterator[TextIO]:
    """A file to write, which takes the place of ``target`` if the block ends well; else ``target`` stays as it was.

    That it can be written shows at once, before the block does any work. Raises OSError.
    """
    if target.exists() and not target.is_file():  # a pipe or a device: nothing takes its place
        with target.open("w", encoding="utf-8") as file:
            yield file
        return
    if target.exists():
        target.open("a").close()  # it could be replaced even where it may not be written
    target = target.resolve()
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        file = partial.open("x", encoding="utf-8")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def steps(what: str, total: int) -> Iterator[Callable[[str], None]]:
    """Shows how far a long command is; yields what to call after each step, with a note to show.

    In a terminal a bar with rate and time left, elsewhere a line every ten seconds; both on stderr.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(what, total=total, note="")
            yield lambda note: bar.update(task, advance=1, note=note)
        return
    began = last = time.monotonic()
    done = 0

    def step(note: str) -> None:
        nonlocal done, last
        done, now = done + 1, time.monotonic()
        if now - last >= SECONDS_A_LINE:
            last, rate = now, done / (now - began)
            note = note and f", {note}"
            say(f"{what}: {done} of {total}, {rate:.1f}/s, {(total - done) / rate:.0f} s left{note}")

    yield step


class _Rate(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s")


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
