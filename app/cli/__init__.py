"""``tessera``: runs and maintains the service; one module per group of commands."""

from __future__ import annotations

import typer

from app.cli import calibrate, gallery, server

cli = typer.Typer(help="Self-hosted face verification.", no_args_is_help=True, add_completion=False)
for command in (server.serve, server.health, calibrate.calibrate, server.version):
    cli.command()(command)
cli.add_typer(gallery.commands, name="gallery")


def main() -> None:
    """Entry point of the ``tessera`` command."""
    cli()
