"""``tessera calibrate``: a calibration table from your own people."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import DataDirOption, load_settings, read_photograph, refusing, settings_without_data
from app.cli.output import replacing, say, steps
from app.cli.refusals import Refusal, ReportOption, refusals_of
from app.composition import THREADS_A_CORE, build_encoder, build_finder, load_encoder_files, open_copy
from app.crowding import Crowding, crowding_beside
from app.decisions import Calibration
from app.embeddings import MOST_FUSED
from app.encoding import EncoderWeights, load_weights
from app.evaluation.calibration import EncoderRun, describe
from app.openvino import available_cores
from app.recognition.site_calibration import (
    NEEDED,
    SiteCalibrationError,
    Skipped,
    calibrate_folder,
    calibrate_gallery,
    count_photographs,
)
from app.settings import Settings


def calibrate(
    out: Annotated[
        Path, typer.Argument(help="file to write, for TESSERA_DECISIONS__CALIBRATION; replaced", metavar="OUT")
    ],
    photographs: Annotated[
        Path | None,
        typer.Option(help="folder with a sub-folder of photographs a person, or of people a group of people"),
    ] = None,
    collection: Annotated[str | None, typer.Option(help="or a collection, from what is enrolled")] = None,
    report: ReportOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Measures error rates and thresholds on your own people; the service may be running.

    Says which photographs were not measured and why, and how many people it takes to support which claim.
    """
    if (photographs is None) == (collection is None):
        raise typer.BadParameter("give either --photographs or --collection")
    if report is not None and photographs is None:
        raise typer.BadParameter("--report goes with --photographs")
    with refusing(), replacing(out) as file:
        if photographs is not None:
            table = _from_folder(photographs, settings_without_data(), report)
        else:
            assert collection is not None
            table = _from_gallery(collection, load_settings(data_dir=data_dir))
        file.write(table.model_dump_json(indent=1) + "\n")
    for line in describe(table):
        typer.echo(line)
    say(NEEDED)
    say(f"calibration {table.version}; TESSERA_DECISIONS__CALIBRATION={out} makes the service go by it")


def _from_folder(photographs: Path, settings: Settings, report: Path | None) -> Calibration:
    weights, crowding = _weights_of(settings)
    encoder, finder = build_encoder(settings, weights), build_finder(settings)
    skipped: Sequence[Skipped] = ()
    with refusals_of(report) as refusals:
        try:
            with steps("photographs", count_photographs(photographs)) as step:
                table, skipped = calibrate_folder(
                    photographs,
                    finder,
                    encoder,
                    crowding,
                    threads=THREADS_A_CORE * available_cores(),
                    read=lambda path: read_photograph(path, settings),
                    on_photograph=lambda: step(""),
                )
            return table
        except SiteCalibrationError as error:
            skipped = error.skipped
            raise
        finally:
            for one in skipped:
                refusals.add(Refusal(one.person, one.path, one.code, one.reason))


def _from_gallery(collection: str, settings: Settings) -> Calibration:
    (weights, crowding), encoding = _weights_of(settings), settings.encoding
    run = EncoderRun(weights.name, weights.version, weights.sha256, encoding.runtime, encoding.precision)
    # As the services compare, which have another table than the one that is made: a database of theirs refuses others.
    most = MOST_FUSED if settings.decisions.calibration is None else load_encoder_files(settings).most_fused
    with closing(open_copy(settings, weights.sha256, crowding, most)) as gallery:
        return calibrate_gallery(gallery, collection, run, crowding)


def _weights_of(settings: Settings) -> tuple[EncoderWeights, Crowding]:
    directory = settings.encoding.directory
    return load_weights(directory), crowding_beside(directory)
