"""``tessera calibrate``: a calibration table from your own people."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import DataDirOption, load_settings, refusing
from app.crowding import crowding_beside
from app.encoding import load_weights
from app.evaluation.calibration import EncoderRun, describe
from app.main import build_encoder, build_finder, open_gallery
from app.recognition.site_calibration import calibrate_folder, calibrate_gallery


def calibrate(
    out: Annotated[Path, typer.Argument(help="file to write, for TESSERA_DECISIONS__CALIBRATION")],
    photographs: Annotated[
        Path | None,
        typer.Option(help="folder with a sub-folder of photographs a person, or of people a group of people"),
    ] = None,
    collection: Annotated[str | None, typer.Option(help="or a collection, from what is enrolled")] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Measures error rates and thresholds on your own people; with --collection the service must not be running."""
    if (photographs is None) == (collection is None):
        raise typer.BadParameter("give either --photographs or --collection")
    with refusing():
        settings = load_settings(data_dir=data_dir)
        weights = load_weights(settings.encoding.directory)
        crowding = crowding_beside(settings.encoding.directory)
        if photographs is not None:
            encoder = build_encoder(settings, weights)
            table, skipped = calibrate_folder(photographs, build_finder(settings), encoder, crowding)
            for photograph in skipped:
                typer.echo(f"skipped {photograph.path}: {photograph.reason}", err=True)
        else:
            assert collection is not None
            encoding = settings.encoding
            run = EncoderRun(weights.name, weights.version, weights.sha256, encoding.runtime, encoding.precision)
            with closing(open_gallery(settings, weights.sha256, crowding)) as gallery:
                table = calibrate_gallery(gallery, collection, run, crowding)
    out.write_text(table.model_dump_json(indent=1) + "\n")
    for line in describe(table):
        typer.echo(line)
