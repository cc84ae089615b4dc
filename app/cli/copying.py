"""``tessera gallery copy``: a gallery from a folder to PostgreSQL or back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import load_settings, refusing, settings_of
from app.cli.output import say
from app.cli.recording import Recorder, recorder
from app.composition import EncoderFiles, load_encoder_files, opened_vault, postgres_part
from app.gallery.protocol import DEFAULT_COLLECTION, BackupError
from app.gallery.sqlite.transfer import OnImportConflict, exporting, import_records
from app.gallery.sqlite.vault import VAULT_NAME
from app.gallery.transfer import CollectionLine, Record, TrailerLine, write_export

_URL = ("postgresql://", "postgres://")
PlaceArgument = Annotated[str, typer.Argument(help="a data directory, or postgresql://...")]


def copy_gallery(source: PlaceArgument, target: PlaceArgument) -> None:
    """Copies everyone who is enrolled to another gallery and compares both; run it again if it is interrupted.

    The service may be running on SOURCE, though not on a data directory TARGET; stop writes before the last run. Keys
    and the audit trail are not copied. PostgreSQL keeps templates unencrypted, also those that are encrypted in SOURCE.
    """
    with refusing(), ExitStack() as opened:
        files = load_encoder_files(load_settings())
        with _reading(source) as (encoder, records):
            if encoder != files.weights.sha256:
                raise BackupError(
                    f"The gallery is of encoder {encoder[:19]}, the settings choose {files.weights.sha256[:19]}: set "
                    "TESSERA_ENCODING__ENCODER to the one it was made with."
                )
            left, arrived = (opened.enter_context(_trail(place)) for place in (source, target))
            _say_decryption(source, target)
            # Before it begins, too: whatever happens, the trail names it.
            _record(left, "copy", "started", to=_kind(target))
            changed = _write(target, files, records)
            _record(arrived, "import", subjects=changed, on_conflict=str(OnImportConflict.REPLACE))
        found, expected = _summary(target), _summary(source)
        _record(left, "copy", to=_kind(target), templates=expected.templates)
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


def _trail(place: str) -> AbstractContextManager[Recorder | None]:
    """The audit trail of a data directory; that of a database needs its secret, which need not be on this machine."""
    return nullcontext() if place.startswith(_URL) else recorder(settings_of(Path(place)))


def _record(trail: Recorder | None, action: str, outcome: str = "done", **details: object) -> None:
    if trail is not None:
        trail.record(action, outcome, details=details)


def _kind(place: str) -> str:
    return "database" if place.startswith(_URL) else "data_directory"


def _say_decryption(source: str, target: str) -> None:
    if target.startswith(_URL) and not source.startswith(_URL) and (Path(source) / VAULT_NAME).exists():
        say(
            f"templates that are encrypted in {source} are not in PostgreSQL: encrypt the database's disk and its "
            "backups (docs/scale.md)"
        )


@contextmanager
def _reading(place: str) -> Iterator[tuple[str, Iterator[Record]]]:
    if place.startswith(_URL):
        with postgres_part("gallery.postgres.transfer").exporting(place) as found:
            yield found
        return
    with opened_vault(settings_of(Path(place))) as keys, exporting(Path(place), keys) as embedded:
        yield embedded


def _write(place: str, files: EncoderFiles, records: Iterator[Record]) -> int:
    encoder = files.weights.sha256
    if place.startswith(_URL):
        copy = postgres_part("gallery.postgres.transfer").copy_records
        copied: int = copy(place, encoder, files.crowding, records, files.most_fused)
        return copied
    with opened_vault(settings_of(Path(place)), create=True) as keys:
        return import_records(Path(place), encoder, records, OnImportConflict.REPLACE, datetime.now(UTC), keys)


def _summary(place: str) -> TrailerLine:
    """Counts and digest of everything in a gallery, save when its default collection was made: at its first start."""
    with _reading(place) as (encoder, records), open(os.devnull, "wb") as nowhere:
        return write_export(nowhere, encoder, map(_without_start, records))


def _without_start(record: Record) -> Record:
    if isinstance(record, CollectionLine) and record.id == DEFAULT_COLLECTION:
        return record.model_copy(update={"created_at": datetime.min.replace(tzinfo=UTC)})
    return record
