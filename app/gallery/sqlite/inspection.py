"""Looks through a whole database for damage and loss."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from app.gallery.protocol import GalleryError, GalleryUnavailable
from app.gallery.sqlite import queries
from app.gallery.sqlite.chips import damaged_chips
from app.gallery.sqlite.database import DATABASE_NAME, answering, connect
from app.gallery.sqlite.locks import DirectoryLock
from app.gallery.sqlite.migration import shipped_scripts
from app.gallery.sqlite.sequence import SEQUENCE_NAME, SequenceFile, refuse_loss
from app.gallery.sqlite.templates import damaged_subjects
from app.gallery.sqlite.values import load_timestamp
from app.gallery.sqlite.vault import Vault, require_vault

_MOST_LISTED = 100
_RESTORE = "Restore a backup (`tessera gallery restore`)."


@dataclass(frozen=True, slots=True)
class Inspection:
    """How much there is, and what is wrong, each with what to do; nothing is wrong if ``problems`` is empty."""

    collections: int
    subjects: int
    templates: int
    problems: tuple[str, ...]


def inspect(
    connection: sqlite3.Connection,
    *,
    thorough: bool = True,
    keys: Vault | None = None,
    present: sqlite3.Connection | None = None,
) -> Inspection:
    """Looks through the database in one snapshot; ``thorough`` compares its indexes with its tables, too.

    keys: those of the connection. present: reads what a service may go on changing meanwhile, in no transaction; what
    it erases is then not taken for damage. Raises sqlite3.Error if it does not answer at all, EncryptionKeyMissing.
    """
    connection.execute("BEGIN")
    try:
        found = _problems(connection, thorough=thorough, keys=keys, present=present)
        problems = list(islice(found, _MOST_LISTED))
        collections, subjects, templates = (
            connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608
            for table in ("collections", "subjects", "templates")
        )
        return Inspection(collections, subjects, templates, tuple(problems))
    finally:
        connection.rollback()


def _problems(
    connection: sqlite3.Connection, *, thorough: bool, keys: Vault | None, present: sqlite3.Connection | None
) -> Iterator[str]:
    pragma = "integrity_check" if thorough else "quick_check"
    for (line,) in connection.execute(f"PRAGMA {pragma}(10)"):
        if line != "ok":
            yield f"The database is malformed: {line}. {_RESTORE}"
    version, known = connection.execute("PRAGMA user_version").fetchone()[0], len(shipped_scripts())
    if version != known:
        yield (
            f"The database has schema version {version}, this release has {known}: start the service once to bring an "
            "older one up, or use the release that wrote a newer one."
        )
        return
    require_vault(connection, keys)
    for table, key, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield f"Row {key} of {table} refers to a row of {parent} that is not there. {_RESTORE}"
    for damage in damaged_subjects(connection, present):
        yield damage.error().message
    if keys is not None:
        for collection, subject, template in damaged_chips(connection, keys, present):
            yield (
                f"The chip of template {template!r} of subject {subject!r} in collection {collection!r} is damaged: "
                "erase the template, enrol the subject again with on_conflict=replace, or restore a backup."
            )
    yield from _misfits(connection)
    yield from _bad_times(connection)


def _misfits(connection: sqlite3.Connection) -> Iterator[str]:
    empty = "SELECT id FROM subjects s WHERE NOT EXISTS (SELECT 1 FROM templates t WHERE t.subject = s.key)"
    for (id_,) in connection.execute(empty):
        yield f"Subject {id_!r} has no template. Enrol or erase it, or restore a backup."
    moved = "SELECT t.id FROM templates t JOIN subjects s ON s.key = t.subject WHERE s.collection <> t.collection"
    for (id_,) in connection.execute(moved):
        yield f"Template {id_!r} is in another collection than its subject. {_RESTORE}"


def _bad_times(connection: sqlite3.Connection) -> Iterator[str]:
    for kind, id_, *times in connection.execute(
        """
        SELECT 'Collection', id, created_at, created_at FROM collections
        UNION ALL SELECT 'Subject', id, created_at, updated_at FROM subjects
        UNION ALL SELECT 'Template', id, created_at, created_at FROM templates
        """
    ):
        try:
            for time in times:
                load_timestamp(time)
        except ValueError as error:
            yield f"{kind} {id_!r} has a damaged time: {error} Erase it or restore a backup."


def inspect_directory(directory: Path, keys: Vault | None = None) -> Inspection:
    """Looks through the database of a data directory; a service may be using it. Raises GalleryUnavailable."""
    path = directory / DATABASE_NAME
    if not path.is_file():
        refuse_loss(directory, None)
        raise GalleryUnavailable(f"There is no gallery in {directory}.")
    with (
        answering(keys),
        closing(connect(path, read_only=True, keys=keys)) as connection,
        closing(connect(path, read_only=True)) as present,
    ):
        lost = _lost_writes(connection, directory)
        found = inspect(connection, keys=keys, present=present)
        return Inspection(found.collections, found.subjects, found.templates, (*lost, *found.problems))


def _lost_writes(connection: sqlite3.Connection, directory: Path) -> list[str]:
    try:
        refuse_loss(directory, lambda: queries.read_position(connection))
    except GalleryError as error:
        return [error.message]
    except sqlite3.Error:
        return []
    return []


def accept_loss(directory: Path) -> None:
    """Makes what is in a data directory the truth, although acknowledged writes are missing from it.

    Raises GalleryInUse, GalleryUnavailable.
    """
    if not any((directory / name).is_file() for name in (DATABASE_NAME, SEQUENCE_NAME)):
        raise GalleryUnavailable(f"There is no gallery in {directory}, and no trace of one.")
    lock = DirectoryLock(directory)
    try:
        path, position = directory / DATABASE_NAME, None
        if path.is_file():
            with answering(), closing(connect(path, read_only=True)) as connection:
                # A file without content has version 0: it is to be filled as if it were not there.
                if connection.execute("PRAGMA user_version").fetchone()[0]:
                    position = queries.read_position(connection)
        if position is None:
            (directory / SEQUENCE_NAME).unlink(missing_ok=True)
            return
        with closing(SequenceFile(directory)) as file:
            file.note(position)
            file.sync()
    finally:
        lock.release()
