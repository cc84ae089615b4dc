"""``tessera gallery copy``: a gallery from a folder to PostgreSQL or back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import load_settings, refusing
from app.gallery.protocol import DEFAULT_COLLECTION, BackupError
from app.gallery.sqlite.transfer import OnImportConflict, exporting, import_records
from app.gallery.transfer import CollectionLine, Record, TrailerLine, write_export
from app.main import EncoderFiles, load_encoder_files, open_vault, postgres_part

_URL = ("postgresql://", "postgres://")
PlaceArgument = Annotated[str, typer.Argument(help="a data directory, or postgresql://...")]


def copy_gallery(source: PlaceArgument, target: PlaceArgument) -> None:
    """Copies everyone who is enrolled to another gallery and compares both; run it again if it is interrupted.

    The service may be running on SOURCE, though not on a data directory TARGET; stop writes before the last run. Keys
    and the audit trail are not copied.
    """
    with refusing():
        files = load_encoder_files(load_settings())
        with _reading(source) as (encoder, records):
            if encoder != files.weights.sha256:
                raise BackupError(
                    f"The gallery is of encoder {encoder[:19]}, the settings choose {files.weights.sha256[:19]}: set "
                    "TESSERA_ENCODING__ENCODER to the one it was made with."
                )
            changed = _write(target, files, records)
        found, expected = _summary(target), _summary(source)
        if found != expected:
            raise BackupError(
                f"The copy differs: {expected.subjects} subjects and {expected.templates} templates in the source, "
                f"{found.subjects} and {found.templates} in the copy. Did somebody write meanwhile, or was there "
                "anything in the target before? Run it again, into an empty gallery if that does not help."
            )
    typer.echo(
        f"{changed} subjects copied; both have {found.collections} collections, {found.subjects} subjects, "
        f"{found.templates} templates, SHA-256 {found.sha256}"
    )


@contextmanager
def _reading(place: str) -> Iterator[tuple[str, Iterator[Record]]]:
    if place.startswith(_URL):
        with postgres_part("gallery.postgres.transfer").exporting(place) as found:
            yield found
        return
    with _vault(place) as keys, exporting(Path(place), keys) as embedded:
        yield embedded


def _write(place: str, files: EncoderFiles, records: Iterator[Record]) -> int:
    encoder = files.weights.sha256
    if place.startswith(_URL):
        copied: int = postgres_part("gallery.postgres.transfer").copy_records(place, encoder, files.crowding, records)
        return copied
    with _vault(place) as keys:
        return import_records(Path(place), encoder, records, OnImportConflict.REPLACE, datetime.now(UTC), keys)


@contextmanager
def _vault(place: str):  # type: ignore[no-untyped-def]
    keys = open_vault(load_settings(data_dir=Path(place)))
    try:
        yield keys
    finally:
        if keys is not None:
            keys.close()


def _summary(place: str) -> TrailerLine:
    """Counts and digest of everything in a gallery, save when its default collection was made: at its first start."""
    with _reading(place) as (encoder, records), open(os.devnull, "wb") as nowhere:
        return write_export(nowhere, encoder, map(_without_start, records))


def _without_start(record: Record) -> Record:
    if isinstance(record, CollectionLine) and record.id == DEFAULT_COLLECTION:
        return record.model_copy(update={"created_at": datetime.min.replace(tzinfo=UTC)})
    return record
