"""Backups: copies of the database, made while a service uses it and verified before they are trusted."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from app.gallery.files import new_file, sync
from app.gallery.protocol import BackupError
from app.gallery.sqlite import queries
from app.gallery.sqlite.database import DATABASE_NAME, connect
from app.gallery.sqlite.erasures import erase_unreadable
from app.gallery.sqlite.inspection import Inspection, inspect
from app.gallery.sqlite.locks import DirectoryLock
from app.gallery.sqlite.migration import migrate, shipped_scripts
from app.gallery.sqlite.sequence import SEQUENCE_NAME, Position, SequenceFile, refuse_loss
from app.gallery.sqlite.vault import Vault, require_vault

_INCOMING = "gallery.restoring"
_BESIDE = ("-wal", "-shm", "-journal")


def back_up(directory: Path, target: Path, keys: Vault | None = None) -> Inspection:
    """Copies the database of a data directory to a new file, as it is at one moment; a service may be using it.

    Raises BackupError if there is no database, it is damaged or lacks acknowledged writes or keys, or the file exists.
    """
    source = directory / DATABASE_NAME
    if not source.is_file():
        raise BackupError(f"There is no gallery in {directory}.")
    with new_file(target) as partial:
        try:
            with closing(connect(source, read_only=True)) as connection:
                refuse_loss(directory, lambda: queries.read_position(connection))
                with closing(connect(partial)) as copy:
                    connection.backup(copy)
                return _verified(partial, keys, connection)[0]
        except sqlite3.Error as error:
            raise BackupError(f"The gallery in {directory} cannot be copied: {error}.") from error
        finally:
            _remove(partial, *_BESIDE)


def back_up_keys(keys: Vault, target: Path) -> int:
    """Copies the keys of encrypted templates to a new file; returns how many. A service may be using them.

    Raises BackupError if the file exists, GalleryUnavailable.
    """
    with new_file(target) as partial:
        try:
            return keys.copy(partial)
        finally:
            _remove(partial, *_BESIDE)


def _remove(path: Path, *endings: str) -> None:
    for ending in endings:
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _verified(
    path: Path, keys: Vault | None, present: sqlite3.Connection | None = None
) -> tuple[Inspection, Position, int]:
    """Looks through a copy, brings it to the present schema and makes it a single file.

    Returns how many templates were left out, too. present: reads what it is a copy of, if that is there. Raises
    BackupError, GalleryUnavailable for one of a newer release, sqlite3.Error.
    """
    with closing(connect(path, keys=keys)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")
        copy.execute("PRAGMA synchronous = FULL")
        copy.execute("PRAGMA secure_delete = ON")
        if not copy.execute("PRAGMA user_version").fetchone()[0]:
            raise BackupError(f"{path} holds no gallery.")
        migrate(copy, shipped_scripts())
        left_out = 0
        if keys is None:
            require_vault(copy, None)
        else:
            copy.execute("BEGIN IMMEDIATE")
            left_out = erase_unreadable(copy, keys, present)
            copy.commit()
        found = inspect(copy, thorough=False, keys=keys, present=present)
        if found.problems:
            raise BackupError(f"The copy is not sound, so it is not kept. {' '.join(found.problems[:5])}")
        return found, queries.read_position(copy), left_out


@dataclass(frozen=True, slots=True)
class Restoration:
    """Where the files from before are kept, if there were any, and how many templates were left out."""

    aside: Path | None
    left_out: int


def restore(backup: Path, directory: Path, *, replace: bool, now: datetime, keys: Vault | None = None) -> Restoration:
    """Puts a backup in a data directory that no service uses.

    Encrypted templates whose ``keys`` were destroyed since are left out. An existing gallery is refused unless
    ``replace``; its files are then kept in a folder beside it. Raises BackupError if the backup is damaged or none of
    its templates has a key, GalleryInUse, GalleryUnavailable.
    """
    lock = DirectoryLock(directory)
    incoming = directory / _INCOMING
    try:
        held = [path for name in ("", *_BESIDE) if (path := directory / f"{DATABASE_NAME}{name}").exists()]
        if (held or (directory / SEQUENCE_NAME).exists()) and not replace:
            raise BackupError(
                f"{directory} holds a gallery; --replace puts the backup in its place and keeps it aside."
            )
        _copy(backup, incoming)
        _, position, left_out = _verified(incoming, keys)
        sync(incoming)
        aside = _set_aside(directory, held, now) if held else None
        # Until the new position is written, the old one keeps a half-done restoration from being taken for a gallery.
        incoming.rename(directory / DATABASE_NAME)
        sync(directory)
        _verified(directory / DATABASE_NAME, keys)
        with closing(SequenceFile(directory)) as file:
            file.note(position)
            file.sync()
        return Restoration(aside, left_out)
    except (OSError, sqlite3.Error) as error:
        raise BackupError(f"{backup} cannot be restored: {error}.") from error
    finally:
        _remove(incoming, "", *_BESIDE)
        lock.release()


def _copy(backup: Path, incoming: Path) -> None:
    log = backup.with_name(f"{backup.name}-wal")
    if log.exists() and log.stat().st_size:
        raise BackupError(
            f"Beside {backup} lies a log, so it is not a backup but a database in use. Make a backup of it first."
        )
    _remove(incoming, "", *_BESIDE)
    descriptor = os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with backup.open("rb") as source, os.fdopen(descriptor, "wb") as target:
        shutil.copyfileobj(source, target, 1024 * 1024)


def new_aside(directory: Path, now: datetime) -> Path:
    """A new folder in a data directory for a gallery that is replaced. Raises OSError."""
    aside = directory / f"replaced-{now:%Y%m%dT%H%M%S%fZ}"
    aside.mkdir(mode=0o700)
    return aside


def copy_sequence(directory: Path, aside: Path) -> None:
    """Copies the number of the last write with a gallery that is replaced. Raises OSError."""
    sequence = directory / SEQUENCE_NAME
    if sequence.exists():
        shutil.copy2(sequence, aside)


def remove_database(path: Path) -> None:
    """Removes a database with what SQLite keeps beside it, if it is there. Raises OSError."""
    _remove(path, "", *_BESIDE)


def _set_aside(directory: Path, held: list[Path], now: datetime) -> Path:
    aside = new_aside(directory, now)
    copy_sequence(directory, aside)
    for path in held:
        path.rename(aside / path.name)
    sync(aside)
    return aside
