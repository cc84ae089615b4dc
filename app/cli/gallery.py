"""``tessera gallery``: maintenance of enrolled data."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from app.api.schemas import AuditReportOut
from app.audits.page import audit_page
from app.audits.report import audit
from app.cli.options import DataDirOption, load_settings, refusing
from app.gallery import DEFAULT_COLLECTION
from app.main import load_encoder_files, open_gallery

commands = typer.Typer(help="Maintains what is enrolled.", no_args_is_help=True)


@commands.command("audit")
def audit_gallery(
    collection: Annotated[str, typer.Option(help="which collection")] = DEFAULT_COLLECTION,
    data_dir: DataDirOption = None,
    page: Annotated[Path | None, typer.Option(help="HTML file to write the report to")] = None,
) -> None:
    """Audits a collection and prints the report as JSON; the service must not be running on the same folder."""
    with refusing():
        settings = load_settings(data_dir=data_dir)
        files = load_encoder_files(settings)
        with (
            closing(open_gallery(settings, files.weights.sha256, files.crowding)) as gallery,
            typer.progressbar(length=1000, label="audit", file=sys.stderr) as bar,
        ):
            report = audit(
                gallery,
                collection,
                files.calibration,
                files.crowding,
                lambda share: bar.update(int(1000 * share) - bar.pos),
            )
    if page is not None:
        page.write_text(audit_page(report), encoding="utf-8")
    typer.echo(AuditReportOut.model_validate(report).model_dump_json(indent=2))
