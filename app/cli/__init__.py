"""``tessera``: runs and maintains the service, and does its work without one; one module per group of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli import calibrate, doctor, enroll, gallery, keys, recognition, reenrolment, server, subjects, trail
from app.version import VERSION

cli = typer.Typer(
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


def _version() -> None:
    """Shows the version."""
    _show_version(True)


for command in (
    server.serve,
    server.health,
    doctor.doctor,
    recognition.verify,
    recognition.identify,
    enroll.enroll,
    calibrate.calibrate,
):
    cli.command()(command)
cli.command("version")(_version)
cli.add_typer(subjects.commands, name="subjects")
gallery.commands.command("reenroll")(reenrolment.reenroll)
cli.add_typer(gallery.commands, name="gallery")
cli.add_typer(keys.commands, name="keys")
cli.add_typer(trail.commands, name="audit")


def main() -> None:
    """Entry point of the ``tessera`` command."""
    cli()
