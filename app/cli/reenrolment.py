"""``tessera gallery reenroll``: a change of encoder."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.options import DataDirOption, data_directory, load_settings, refuse, refusing
from app.cli.recording import record
from app.composition import build_encoder, opened_vault
from app.crowding import load_crowding
from app.decisions import load_calibration
from app.encoding import EncoderWeights, load_weights
from app.gallery.sqlite.database import DATABASE_NAME
from app.gallery.sqlite.reenrolment import Missing, Reenrolment, forget_others, list_missing, reenrolling
from app.gallery.sqlite.transfer import exporting
from app.gallery.sqlite.vault import Vault
from app.gallery.transfer import SubjectLine
from app.recognition.criteria import Criteria
from app.recognition.reenrolment import ChipEncoder, require_targets
from app.settings import Settings

ABSENT = ("collection", "id", "metadata", "created_at", "updated_at")
"""What is listed of somebody who has to be enrolled again."""


class ListFormat(StrEnum):
    """How subjects are listed."""

    JSON = "json"
    CSV = "csv"


def reenroll(
    old: Annotated[
        Path | None, typer.Argument(help="list who is in this data directory and not in the present one")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="folder of the new encoder: make all templates anew and switch")
    ] = None,
    leave_out_missing: Annotated[
        bool, typer.Option("--leave-out-missing", help="with --to: leave out templates of which no chip was kept")
    ] = False,
    missing: Annotated[
        bool, typer.Option("--missing", help="only list who has templates of which no chip was kept")
    ] = False,
    finish: Annotated[
        bool,
        typer.Option("--finish", help="after --to: give up the way back, destroy the keys of what was left out"),
    ] = False,
    list_format: Annotated[ListFormat, typer.Option("--format", help="of what is listed")] = ListFormat.JSON,
    data_dir: DataDirOption = None,
) -> None:
    """Changes the encoder, by the chips that collections kept, or lists who must be enrolled again.

    With --to, the service must not be running. The old gallery is kept in replaced-TIME; `tessera gallery restore` goes
    back to it. Subjects without chips are listed, and nothing is done unless they are to be left out. With --missing or
    an old data directory, the service may run and nothing is changed.
    """
    if [old is not None, to is not None, missing, finish].count(True) != 1:
        raise typer.BadParameter("give one of an old data directory, --to, --missing and --finish")
    if leave_out_missing and to is None:
        raise typer.BadParameter("--leave-out-missing goes with --to")
    with refusing():
        settings = load_settings(data_dir=data_dir)
        data_directory(settings)
        if to is not None:
            _change_encoder(settings, to, list_format, leave_out=leave_out_missing)
        elif old is not None:
            _list_absent(settings, old, list_format)
        elif finish:
            _finish(settings)
        else:
            _list(list_missing(settings.gallery.data_dir), list_format)


def _list(missing: Iterable[Missing], list_format: ListFormat) -> None:
    rows = [asdict(subject) for subject in missing]
    _print(("collection", "id", "templates", "without_chip"), rows, list_format)
    typer.echo(f"{len(rows)} subjects have templates of which no chip was kept", err=True)


def _print(columns: Sequence[str], rows: Sequence[dict[str, Any]], list_format: ListFormat) -> None:
    """Prints a JSON object a row, or a table in CSV; what is an object itself is JSON in both."""
    if list_format is ListFormat.JSON:
        for row in rows:
            typer.echo(json.dumps(row))
        return
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({name: json.dumps(value) if isinstance(value, dict) else value for name, value in row.items()})
    typer.echo(text.getvalue(), nl=False)


def _change_encoder(settings: Settings, to: Path, list_format: ListFormat, *, leave_out: bool) -> None:
    weights = load_weights(to)
    criteria = _criteria(settings, to, weights)
    with opened_vault(settings) as keys, reenrolling(settings.gallery.data_dir, keys) as work:
        require_targets(work.collections(), criteria)
        if work.missing:
            _list(work.missing, list_format)
        work.require_ready(weights.sha256, leave_out=leave_out)
        templates, left_out = work.with_chip, sum(subject.without_chip for subject in work.missing)
        # Before and after, as erasures are: whatever happens, the trail names it.
        record(settings, "reenroll", "started", encoder=weights.sha256, templates=templates, left_out=left_out)
        aside = _run(settings, weights, work, leave_out=leave_out)
        record(settings, "reenroll", encoder=weights.sha256, templates=templates, left_out=left_out)
    typer.echo(
        f"{templates} templates are made anew by {weights.name} {weights.version}, {left_out} are left out", err=True
    )
    chosen = f"TESSERA_ENCODING__WEIGHTS={to.resolve().parent} TESSERA_ENCODING__ENCODER={to.resolve().name}"
    typer.echo(f"serve them with {chosen}", err=True)
    if settings.decisions.calibration is not None:
        typer.echo("and without TESSERA_DECISIONS__CALIBRATION, which is of the encoder from before", err=True)
    back = f"tessera gallery restore {aside / DATABASE_NAME} --replace"
    typer.echo(f"the gallery from before is in {aside}; to go back: {back}", err=True)


def _criteria(settings: Settings, to: Path, weights: EncoderWeights) -> Criteria:
    """What the service would decide by with the new encoder; refuses what it would refuse at its start."""
    calibration = load_calibration(to, weights.sha256)
    load_crowding(to, calibration.cohort_sha256)
    own = settings.decisions
    return Criteria(calibration, target_fmr=own.target_fmr, target_fpir=own.target_fpir, claim=own.claim)


def _run(settings: Settings, weights: EncoderWeights, work: Reenrolment, *, leave_out: bool) -> Path:
    with (
        ChipEncoder(build_encoder(settings, weights)) as encode,
        typer.progressbar(length=max(1, work.with_chip), label="reenroll", file=sys.stderr) as bar,
    ):
        return work.run(
            weights.sha256,
            encode,
            datetime.now(UTC),
            leave_out=leave_out,
            progress=lambda done, _: bar.update(done - bar.pos),
        )


def _finish(settings: Settings) -> None:
    with opened_vault(settings) as keys:
        if keys is None:
            raise refuse("templates are not encrypted, so there are no keys: delete the replaced-* folders and backups")
        record(settings, "finish_reenroll", "started")
        count = forget_others(settings.gallery.data_dir, keys)
    record(settings, "finish_reenroll", keys=count)
    typer.echo(
        f"{count} keys of templates and chips that are not in {settings.gallery.data_dir} are destroyed; delete the "
        "replaced-* folders, too"
    )


def _list_absent(settings: Settings, old: Path, list_format: ListFormat) -> None:
    """Lists who is in an old data directory and not in the present one."""
    with opened_vault(settings) as keys:
        enrolled = set(_subjects(settings.gallery.data_dir, keys))
    with opened_vault(load_settings(data_dir=old)) as keys:
        everybody = _subjects(old, keys)
    if not everybody:
        raise refuse(f"nobody is enrolled in {old}")
    absent = [line for name, line in everybody.items() if name not in enrolled]
    rows = [line.model_dump(mode="json", include=set(ABSENT)) for line in absent]
    _print(ABSENT, rows, list_format)
    typer.echo(f"{len(absent)} subjects of {old} are not in {settings.gallery.data_dir}", err=True)


def _subjects(directory: Path, keys: Vault | None) -> dict[tuple[str, str], SubjectLine]:
    """Everybody in a data directory, by collection and id, without templates; nobody if there is no gallery yet."""
    if not (directory / DATABASE_NAME).exists():
        return {}
    with exporting(directory, keys) as (_, records):
        return {
            (record.collection, record.id): record.model_copy(update={"templates": ()})
            for record in records
            if isinstance(record, SubjectLine)
        }
