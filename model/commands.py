"""How the commands of this package run: what a user can mend ends in one sentence and exit code 1.

Errors of other kinds are defects and keep their traceback; so do all with ``MODEL_TRACEBACK=1`` in the environment.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import typer
from pydantic import ValidationError

from app.errors import TesseraError


class StoppedError(Exception):
    """A command that cannot go on, for a reason that its user can mend."""


def run(command: Callable[..., object] | typer.Typer) -> None:
    """Runs a function, or several in one app, as the command line of this process."""
    if isinstance(command, typer.Typer):
        app = command
    else:
        app = typer.Typer(add_completion=False)
        app.command()(command)
    if os.environ.get("MODEL_TRACEBACK"):
        app()
    try:
        app()
    except (StoppedError, TesseraError, ValueError, OSError) as error:
        typer.secho(f"refused: {in_one_line(error)}", fg="red", err=True)
        raise SystemExit(1) from None


def in_one_line(error: Exception) -> str:
    """What an error says, without line breaks; of pydantic's, each field and what is wrong with it."""
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False)
        # A list with a wrong entry is reported a second time, as too short.
        within = {e["loc"][:length] for e in found for length in range(1, len(e["loc"]))}
        return "; ".join(
            f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" if e["loc"] else e["msg"]
            for e in found
            if e["loc"] not in within
        )
    if isinstance(error, OSError) and error.strerror:
        remedy = ": make room and run the same command again" if error.errno == errno.ENOSPC else ""
        return f"{error.filename or 'the system'}: {error.strerror}{remedy}"
    return " ".join(str(error).split()) or type(error).__name__
