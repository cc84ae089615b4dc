"""``tessera``: runs and maintains the service; one module per group of commands."""

from __future__ import annotations

import typer

from app.cli import calibrate, gallery, keys, server, trail

cli = typer.Typer(help="Self-hosted face verification.", no_args_is_help=True, add_completion=False)
for command in (server.serve, server.health, calibrate.calibrate, server.version):
    cli.command()(command)
cli.add_typer(gallery.commands, name="gallery")
cli.add_typer(keys.commands, name="keys")
cli.add_typer(trail.commands, name="audit")


def main() -> None:
    """Entry point of the ``tessera`` command."""
    cli()
