"""``tessera``: runs and maintains the service, and does its work without one; one module per group of commands."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from app.version import VERSION

COMMANDS = {
    "serve": "server:serve",
    "health": "health:health",
    "doctor": "doctor:doctor",
    "verify": "recognition:verify",
    "identify": "recognition:identify",
    "enroll": "enroll:enroll",
    "calibrate": "calibrate:calibrate",
    "version": "version:version",
    "subjects": "subjects:commands",
    "gallery": "gallery:commands",
    "keys": "keys:commands",
    "audit": "trail:commands",
}
"""Where each command is: a module of this package, and in it a function or a group of commands."""


class _Commands(TyperGroup):
    """Loads the module of a command when it is asked for: a health check needs nothing of what a calibration does."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Those of `COMMANDS`, in their order."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, name: str) -> Any:  # noqa: ARG002
        """A command by its name; None if there is none."""
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        found = getattr(import_module(f"{__name__}.{module}"), attribute)
        holder = typer.Typer(rich_markup_mode=None)
        holder.callback()(lambda: None)
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=name)
        else:
            holder.command(name)(found)
        return typer.main.get_group(holder).commands[name]

    def invoke(self, ctx: Any) -> Any:
        """Output that cannot be written is no answer: left to typer, it would end as a "no" does."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.filename is not None:
                raise
            from app.cli.options import refuse  # noqa: PLC0415
            from app.cli.output import ExitCode  # noqa: PLC0415

            # What is still to be written would fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):
                raise typer.Exit(ExitCode.UNREAD) from error
            raise refuse(f"the output cannot be written: {error.strerror or error}") from error


cli = typer.Typer(
    cls=_Commands,
    help="Self-hosted face verification.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain text: an error is a sentence, whatever the width of the terminal.
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@cli.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="show the version", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the ``tessera`` command."""
    cli()
