"""``tessera``: starts the service and looks after it."""

from __future__ import annotations

import http.client
import signal
import sys
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
from pydantic import ValidationError
from pydantic_settings import SettingsError

from app.api.routes.audits import AuditReportOut
from app.audits.page import audit_page
from app.audits.report import audit
from app.crowding import crowding_beside
from app.encoding import load_weights
from app.errors import TesseraError
from app.evaluation.calibration import describe
from app.gallery import DEFAULT_COLLECTION, SqliteGallery
from app.main import build_encoder, build_finder, build_service, create_app
from app.recognition.site_calibration import CannotCalibrate, calibrate_folder, calibrate_gallery
from app.settings import Settings
from app.version import VERSION

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than the usual 60 seconds of proxies and clients, so that they close
it first. A server that closes first resets the requests that were just being sent."""

cli = typer.Typer(help="Self-hosted face verification.", no_args_is_help=True, add_completion=False)
gallery_commands = typer.Typer(help="Looks after what is enrolled.", no_args_is_help=True)
cli.add_typer(gallery_commands, name="gallery")


def _refuse(message: str) -> typer.Exit:
    typer.secho(f"tessera: {message}", fg="red", err=True)
    return typer.Exit(code=1)


def _reason(error: TesseraError | ValidationError | SettingsError) -> str:
    """Why the service cannot start, in one line."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(
        f"setting {'.'.join(str(part) for part in e['loc'])}: {e['msg']}" if e["loc"] else e["msg"]
        for e in error.errors(include_url=False)
    )


def _settings(host: str | None, port: int | None, data_dir: Path | None) -> Settings:
    """Settings from the environment, with what the command line says on top."""
    settings = Settings()
    server = {k: v for k, v in {"host": host, "port": port}.items() if v is not None}
    gallery = {"data_dir": data_dir} if data_dir is not None else {}
    return settings.model_copy(
        update={
            "server": settings.server.model_copy(update=server),
            "gallery": settings.gallery.model_copy(update=gallery),
        }
    )


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on  [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(help="port; 0 lets the system choose  [default: 8000]", min=0, max=65535)
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="folder of the database  [default: data]")] = None,
) -> None:
    """Starts the service; SIGTERM and Ctrl-C let requests under way finish."""
    try:
        settings = _settings(host, port, data_dir)
        service = build_service(settings)
    except (TesseraError, ValidationError, SettingsError) as error:
        raise _refuse(_reason(error)) from error
    encoder = service.encoder
    typer.echo(
        f"tessera {VERSION}: encoder {encoder.name} {encoder.version} on {encoder.runtime} {encoder.precision}, "
        f"templates in {settings.gallery.data_dir}, documentation at /docs",
        err=True,
    )
    # After a graceful stop uvicorn raises the signal again, which would end the process as if it had been killed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        create_app(settings, service),
        host=settings.server.host,
        port=settings.server.port,
        timeout_graceful_shutdown=settings.server.graceful_seconds,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


@cli.command()
def health(
    url: Annotated[str, typer.Option(help="address of the service")] = "http://127.0.0.1:8000",
) -> None:
    """Asks a running service whether every part works; exit code 0 if so, 1 if not."""
    if not url.startswith(("http://", "https://")):
        raise _refuse(f"{url} is not an http or https address")
    # Not through a proxy: the question is whether this very address answers.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url.rstrip('/')}/readyz", timeout=10) as response:
            sys.stdout.write(response.read().decode() + "\n")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _refuse(f"{url} is not ready: {str(error).strip()}") from error


@cli.command()
def calibrate(
    out: Annotated[Path, typer.Argument(help="file to write, for TESSERA_DECISIONS__CALIBRATION")],
    photographs: Annotated[
        Path | None,
        typer.Option(help="folder with a sub-folder of photographs a person, or of people a group of people"),
    ] = None,
    collection: Annotated[str | None, typer.Option(help="or a collection, from what is enrolled")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="folder of the database  [default: data]")] = None,
) -> None:
    """Measures error rates and thresholds on your own people; with --collection the service must not be running."""
    if (photographs is None) == (collection is None):
        raise typer.BadParameter("give either --photographs or --collection")
    try:
        settings = _settings(None, None, data_dir)
        weights = load_weights(settings.encoding.directory)
        encoder, crowding = build_encoder(settings, weights), crowding_beside(settings.encoding.directory)
        if photographs is not None:
            table, skipped = calibrate_folder(photographs, build_finder(settings), encoder, crowding)
            for photograph in skipped:
                typer.echo(f"skipped {photograph.path}: {photograph.reason}", err=True)
        else:
            assert collection is not None
            data, digest = settings.gallery.data_dir, weights.sha256
            with closing(SqliteGallery(data, encoder_digest=digest, crowding=crowding)) as gallery:
                table = calibrate_gallery(gallery, collection, encoder, crowding)
    except CannotCalibrate as error:
        raise _refuse(str(error)) from error
    except (TesseraError, ValidationError, SettingsError) as error:
        raise _refuse(_reason(error)) from error
    out.write_text(table.model_dump_json(indent=1) + "\n")
    for line in describe(table):
        typer.echo(line)


@gallery_commands.command("audit")
def audit_gallery(
    collection: Annotated[str, typer.Option(help="which collection")] = DEFAULT_COLLECTION,
    data_dir: Annotated[Path | None, typer.Option(help="folder of the database  [default: data]")] = None,
    page: Annotated[Path | None, typer.Option(help="HTML file to write the report to")] = None,
) -> None:
    """Looks over a collection and prints what it finds as JSON; the service must not be running on the same folder."""
    try:
        service = build_service(_settings(None, None, data_dir))
        with closing(service), typer.progressbar(length=1000, label="audit", file=sys.stderr) as bar:
            report = audit(
                service.gallery,
                collection,
                service.calibration,
                service.crowding,
                lambda s: bar.update(int(1000 * s) - bar.pos),
            )
    except (TesseraError, ValidationError, SettingsError) as error:
        raise _refuse(_reason(error)) from error
    if page is not None:
        page.write_text(audit_page(report), encoding="utf-8")
    typer.echo(AuditReportOut.model_validate(report).model_dump_json(indent=2))


@cli.command()
def version() -> None:
    """Shows the version."""
    typer.echo(VERSION)


def main() -> None:
    """Entry point of the ``tessera`` command."""
    cli()


if __name__ == "__main__":
    main()
