"""Exports a database to the format of ``app.gallery.transfer``, and imports from it."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from app.gallery.protocol import BackupError, SubjectNotFound
from app.gallery.records import NewTemplate, Targets
from app.gallery.sqlite import queries
from app.gallery.sqlite.database import DATABASE_NAME, Database, answering, connect
from app.gallery.sqlite.locks import DirectoryLock
from app.gallery.sqlite.migration import refuse_other_schema
from app.gallery.sqlite.sequence import refuse_loss
from app.gallery.sqlite.templates import all_templates, insert_templates
from app.gallery.sqlite.values import dump_metadata
from app.gallery.sqlite.vault import Vault, require_vault
from app.gallery.transfer import CollectionLine, Record, SubjectLine, TemplateItem

_PAGE = 256


class OnImportConflict(StrEnum):
    """What to do with a subject that is there already."""

    APPEND = "append"
    REPLACE = "replace"
    REJECT = "reject"
    SKIP = "skip"


@contextmanager
def exporting(directory: Path, keys: Vault | None = None) -> Iterator[tuple[str, Iterator[Record]]]:
    """The encoder's digest and the records of a data directory, as they are at one moment; a service may be using it.

    Encrypted templates that are erased before they are read are left out, and subjects who have no others. Chips are
    not among the records, nor whether a collection keeps them.

    Raises BackupError, GalleryUnavailable; the records raise TemplateDamaged and SubjectDamaged.
    """
    path = directory / DATABASE_NAME
    if not path.is_file():
        raise BackupError(f"There is no gallery in {directory}.")
    with (
        answering(keys),
        closing(connect(path, read_only=True, keys=keys)) as connection,
        closing(connect(path, read_only=True)) as present,
    ):
        refuse_other_schema(connection, directory)
        require_vault(connection, keys)
        refuse_loss(directory, lambda: queries.read_position(connection))
        connection.execute("BEGIN")
        yield queries.stored_encoder(connection), _records(connection, present)


def _records(connection: sqlite3.Connection, present: sqlite3.Connection) -> Iterator[Record]:
    """The records of one moment; ``present`` sees what has been erased since, and can therefore not be read."""
    for collection in queries.read_collections(connection):
        yield CollectionLine(
            id=collection.id,
            created_at=collection.created_at,
            target_fmr=collection.targets.fmr,
            target_fpir=collection.targets.fpir,
            claim=collection.targets.claim,
        )
        after = ""
        while page := queries.read_subjects(connection, collection.id, after, _PAGE):
            for subject in page:
                key = queries.subject_key(connection, collection.id, subject.id)
                stored = all_templates(connection, key, present)
                if not stored:
                    continue
                yield SubjectLine(
                    collection=collection.id,
                    id=subject.id,
                    metadata=dict(subject.metadata),
                    created_at=subject.created_at,
                    updated_at=subject.updated_at,
                    templates=tuple(_item(template, time) for template, time in stored),
                )
            after = page[-1].id


def _item(template: NewTemplate, created_at: str) -> TemplateItem:
    return TemplateItem(
        id=template.id,
        created_at=datetime.fromisoformat(created_at),
        norm=template.norm,
        embedding=base64.b64encode(template.embedding.tobytes()).decode(),
    )


def import_records(
    directory: Path,
    encoder_digest: str,
    records: Iterable[Record],
    on_conflict: OnImportConflict,
    now: datetime,
    keys: Vault | None = None,
) -> int:
    """Stores all records in one transaction, or none; returns how many subjects were stored or changed.

    Ids and times are kept. Collections that are there keep their targets. ``append`` adds the templates that a subject
    does not have. Raises what ``records`` raises; BackupError for a conflict; GalleryInUse, EncoderMismatch,
    GalleryUnavailable.
    """
    lock = DirectoryLock(directory)
    try:
        with closing(Database(directory / DATABASE_NAME, keys)) as database, database.writing() as connection:
            encoder = queries.bind_encoder(connection, directory, encoder_digest)
            if on_conflict is OnImportConflict.REPLACE:
                database.expect_erasure()
            importing = _Import(connection, encoder, on_conflict, now, keys)
            for record in records:
                importing.take(record)
            database.commit()
            return importing.changed
    finally:
        lock.release()


class _Import:
    """Stores records inside one transaction."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        encoder: int,
        on_conflict: OnImportConflict,
        now: datetime,
        keys: Vault | None,
    ) -> None:
        self._connection, self._encoder, self._on_conflict, self._now = connection, encoder, on_conflict, now
        self._keys = keys
        self.changed = 0

    def take(self, record: Record) -> None:
        if isinstance(record, SubjectLine):
            self._subject(record)
        elif record.id not in queries.collection_ids(self._connection):
            key = queries.insert_collection(self._connection, record.id, record.created_at)
            targets = Targets(record.target_fmr, record.target_fpir, record.claim)
            queries.set_targets(self._connection, key, targets)

    def _subject(self, record: SubjectLine) -> None:
        try:
            metadata = dump_metadata(record.metadata)
        except ValueError as error:
            raise BackupError(
                f"The metadata of subject {record.id!r} cannot be stored: JSON has neither NaN nor Infinity. Nothing "
                "was imported."
            ) from error
        try:
            subject = queries.subject_key(self._connection, record.collection, record.id)
        except SubjectNotFound:
            collection = queries.collection_key(self._connection, record.collection)
            subject = queries.insert_subject(self._connection, collection, record.id, metadata, record.created_at)
            queries.touch_subject(self._connection, subject, None, record.updated_at)
            self._store(subject, record, set())
            return
        match self._on_conflict:
            case OnImportConflict.REJECT:
                raise BackupError(
                    f"There is a subject {record.id!r} in collection {record.collection!r} already; --on-conflict says "
                    "what to do with such. Nothing was imported."
                )
            case OnImportConflict.REPLACE:
                queries.delete_templates(self._connection, subject)
                queries.touch_subject(self._connection, subject, metadata, record.updated_at)
                self._store(subject, record, set())
            case OnImportConflict.APPEND:
                held = queries.template_ids(self._connection, subject)
                if not held.issuperset(item.id for item in record.templates):
                    queries.touch_subject(self._connection, subject, None, self._now)
                    self._store(subject, record, held)

    def _store(self, subject: int, record: SubjectLine, held: set[str]) -> None:
        for item in record.templates:
            if item.id in held:
                continue
            template = NewTemplate(item.id, item.vector(), item.norm)
            try:
                insert_templates(self._connection, subject, [template], self._encoder, item.created_at, self._keys)
            except ValueError as error:
                raise BackupError(
                    f"Template {item.id!r} of subject {record.id!r} is stored already under another subject, as "
                    "after a merger. Nothing was imported."
                ) from error
        # Computed at the next opening.
        queries.forget_crowding(self._connection, subject)
        self.changed += 1
