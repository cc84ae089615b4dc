"""A gallery for another encoder, made of the chips that were kept: beside the old one, which it then replaces.

The new gallery is a copy of the old one in which batch after batch gets new embeddings, so that ids, times, metadata,
keys and settings stay as they are. It counts as the next write of the same database: whichever of the two files is in
place, it is whole, and lacks no acknowledged write. One renaming switches from one to the other. Whoever is killed
before that finds the old gallery and may go on where the copy was left.

The templates keep their keys. So an erasure after the switch destroys what the old gallery, which is kept aside, and
backups of it hold of the template.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.embeddings import have_unit_norm
from app.gallery.files import sync
from app.gallery.protocol import BackupError, GalleryUnavailable
from app.gallery.records import Collection
from app.gallery.sqlite import chips, queries
from app.gallery.sqlite.backup import copy_sequence, new_aside, remove_database
from app.gallery.sqlite.database import DATABASE_NAME, Database, answering, connect
from app.gallery.sqlite.digests import template_digest
from app.gallery.sqlite.inspection import inspect
from app.gallery.sqlite.locks import DirectoryLock
from app.gallery.sqlite.migration import refuse_other_schema, shipped_scripts
from app.gallery.sqlite.sequence import SEQUENCE_NAME, Position, SequenceFile
from app.gallery.sqlite.vault import Vault
from app.types import Pixels

PARTIAL_NAME = "gallery.reenrolling"
BATCH = 256
"""Templates in a transaction: what is done again, at most, after a process was killed."""

Encode = Callable[[Pixels], tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
"""Chips uint8 [B, 112, 112, 3] -> embeddings float32 [B, 128] of unit length, and their norms before, float32 [B]."""
Progress = Callable[[int, int], None]
"""Called with how many templates are done, and how many there are to do."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A subject with templates that no chip was kept of; none is left if they are all its templates."""

    collection: str
    id: str
    templates: int
    without_chip: int


def missing_chips(connection: sqlite3.Connection) -> list[Missing]:
    """Every subject with templates without a chip, by collection and id."""
    rows = connection.execute(
        """
        SELECT c.id, s.id, COUNT(*), COUNT(*) - COUNT(h.template)
        FROM templates t JOIN subjects s ON s.key = t.subject JOIN collections c ON c.key = s.collection
        LEFT JOIN chips h ON h.template = t.key
        GROUP BY s.key HAVING COUNT(*) > COUNT(h.template) ORDER BY c.id, s.id
        """
    )
    return [Missing(*row) for row in rows]


def list_missing(directory: Path) -> list[Missing]:
    """``missing_chips`` of a data directory; a service may be using it. Raises BackupError, GalleryUnavailable."""
    path = _gallery_in(directory)
    with answering(), closing(connect(path, read_only=True)) as connection:
        refuse_other_schema(connection, directory)
        return missing_chips(connection)


def discard_unfinished(directory: Path, *, keep_copy: bool = False) -> None:
    """Removes what a killed reenrolment left behind; the directory must be held.

    keep_copy: whether the copy that it worked on stays, to go on with. Raises GalleryUnavailable.
    """
    try:
        if not keep_copy:
            remove_database(directory / PARTIAL_NAME)
        for aside in directory.glob("replaced-*"):
            if _was_not_replaced(directory / DATABASE_NAME, aside):
                for file in aside.iterdir():
                    file.unlink()
                aside.rmdir()
    except OSError as error:
        raise GalleryUnavailable(f"{directory} holds files that cannot be removed: {error}.") from error


def _was_not_replaced(path: Path, aside: Path) -> bool:
    """Whether a folder for a replaced gallery has the one in use in it, or nothing but the number of its write."""
    kept = aside / DATABASE_NAME
    if kept.exists():
        return path.exists() and kept.samefile(path)
    return aside.is_dir() and all(file.name == SEQUENCE_NAME for file in aside.iterdir())


def _gallery_in(directory: Path) -> Path:
    path = directory / DATABASE_NAME
    if not path.is_file():
        raise BackupError(f"There is no gallery in {directory}.")
    return path


@contextmanager
def reenrolling(directory: Path, keys: Vault | None) -> Iterator[Reenrolment]:
    """Holds a data directory that no service uses, to make its templates anew.

    Raises BackupError if there is no gallery, or it is damaged; GalleryInUse, GalleryUnavailable.
    """
    path = _gallery_in(directory)
    lock = DirectoryLock(directory)
    try:
        discard_unfinished(directory, keep_copy=True)
        # Opening brings it to the present schema, refuses one that lost writes and destroys keys that are yet to be.
        Database(path, keys).close()
        with answering(), closing(connect(path, read_only=True, keys=keys)) as connection:
            if problems := inspect(connection, keys=keys).problems:
                raise BackupError(f"The gallery is not sound; `tessera gallery check` says more. {problems[0]}")
            yield Reenrolment(directory, keys, connection)
    finally:
        lock.release()


class Reenrolment:
    """A sound gallery that is held, and the new one beside it. Comes from ``reenrolling``."""

    def __init__(self, directory: Path, keys: Vault | None, connection: sqlite3.Connection) -> None:
        self._directory, self._keys, self._connection = directory, keys, connection
        self._path, self._partial = directory / DATABASE_NAME, directory / PARTIAL_NAME
        self._position = queries.read_position(connection)
        self.missing = missing_chips(connection)
        self.encoder = queries.stored_encoder(connection)
        self.with_chip: int = connection.execute("SELECT COUNT(*) FROM chips").fetchone()[0]

    def collections(self) -> list[Collection]:
        """All collections with their targets."""
        return queries.read_collections(self._connection)

    def run(self, encoder: str, encode: Encode, now: datetime, *, leave_out: bool, progress: Progress) -> Path:
        """Makes all templates anew by this encoder and switches; returns the folder where the old gallery is kept.

        Raises what ``require_ready`` raises; BackupError if another process has the database open, or for embeddings
        that are none; GalleryUnavailable. The old gallery stays in place then.
        """
        self.require_ready(encoder, leave_out=leave_out)
        try:
            with answering():
                with closing(self._begun(encoder)) as copy:
                    self._embed(copy, encoder, encode, progress)
                self._connection.close()
                with self._alone():
                    with closing(self._opened()) as copy:
                        self._finish(copy, encoder)
                    sync(self._partial)
                    return self._switch(now)
        except OSError as error:
            raise BackupError(f"The gallery in {self._directory} cannot be made anew: {error}.") from error

    def require_ready(self, encoder: str, *, leave_out: bool) -> None:
        """Raises BackupError if templates have no chip, unless they are to be left out; if there is no chip at all.

        And if the templates are of this encoder already. ``leave_out``: whether templates without a chip, and subjects
        without any other template, are left out.
        """
        if encoder == self.encoder:
            raise BackupError(f"The templates in {self._directory} are of this encoder already.")
        if not self.with_chip:
            raise BackupError("No chip was kept, so everybody has to be enrolled again.")
        if self.missing and not leave_out:
            raise BackupError(
                f"{len(self.missing)} subject(s) have templates without a chip. Enrol them again, or have these "
                "templates left out with --leave-out-missing. Nothing was changed."
            )

    def _begun(self, encoder: str) -> sqlite3.Connection:
        """The copy to work on: the one that was left by a killed process, if it is of the gallery as it is now."""
        with suppress(sqlite3.Error):
            copy = self._opened()
            if self._is_of_now(copy, encoder):
                return copy
            copy.close()
        remove_database(self._partial)
        os.close(os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        copy = self._opened()
        self._connection.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
        copy.execute("INSERT OR IGNORE INTO encoders (digest) VALUES (?)", (encoder,))
        return copy

    def _opened(self) -> sqlite3.Connection:
        copy = connect(self._partial, keys=self._keys)
        copy.execute("PRAGMA synchronous = FULL")
        copy.execute("PRAGMA secure_delete = ON")
        return copy

    def _is_of_now(self, copy: sqlite3.Connection, encoder: str) -> bool:
        if copy.execute("PRAGMA user_version").fetchone()[0] != len(shipped_scripts()):
            return False
        known = {digest for (digest,) in copy.execute("SELECT digest FROM encoders")}
        stored = "SELECT DISTINCT e.digest FROM templates t JOIN encoders e ON e.key = t.encoder"
        used = {digest for (digest,) in copy.execute(stored)}
        return (
            queries.read_position(copy) == self._position
            and encoder in known
            and used <= {self.encoder, encoder}
            and copy.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
        )

    def _embed(self, copy: sqlite3.Connection, encoder: str, encode: Encode, progress: Progress) -> None:
        """Gives new embeddings to all templates that have a chip, a batch in each transaction."""
        to_do = copy.execute(
            """
            SELECT t.key FROM chips h JOIN templates t ON t.key = h.template JOIN encoders e ON e.key = t.encoder
            WHERE e.digest <> ? ORDER BY t.key
            """,
            (encoder,),
        ).fetchall()
        done = self.with_chip - len(to_do)
        for start in range(0, len(to_do), BATCH):
            keys = [key for (key,) in to_do[start : start + BATCH]]
            copy.execute("BEGIN IMMEDIATE")
            self._embed_batch(copy, keys, encoder, encode)
            copy.commit()
            done += len(keys)
            progress(done, self.with_chip)

    def _embed_batch(self, copy: sqlite3.Connection, templates: list[int], encoder: str, encode: Encode) -> None:
        assert self._keys is not None
        rows = [
            copy.execute(
                """
                SELECT t.id, s.id, c.id, t.seal, h.chip, h.seal
                FROM templates t JOIN subjects s ON s.key = t.subject JOIN collections c ON c.key = s.collection
                JOIN chips h ON h.template = t.key WHERE t.key = ?
                """,
                (key,),
            ).fetchone()
            for key in templates
        ]
        pictures = [self._chip(row) for row in rows]
        embeddings, norms = encode(np.stack(pictures))
        if len(embeddings) != len(rows) or not have_unit_norm(embeddings):
            raise BackupError("The new encoder gives no embeddings of unit length. Nothing was changed.")
        for key, (id_, subject, collection, seal, *_), embedding, norm in zip(
            templates, rows, embeddings, norms.tolist(), strict=True
        ):
            vector = embedding.astype("<f4", copy=False).tobytes()
            kept, new_seal = self._keys.seal_again(vector, seal, id_)
            digest = template_digest(id_, subject, collection, encoder, vector, norm)
            copy.execute(
                """
                UPDATE templates SET embedding = ?, seal = ?, norm = ?, digest = ?,
                                     encoder = (SELECT key FROM encoders WHERE digest = ?)
                WHERE key = ?
                """,
                (kept, new_seal, norm, digest, encoder, key),
            )

    def _chip(self, row: tuple[object, ...]) -> Pixels:
        assert self._keys is not None
        template, _, collection, _, chip, seal = row
        packed = self._keys.open(chip, seal, chips.purpose(str(template), str(collection)))
        if packed is None:
            raise GalleryUnavailable(f"The chip of template {template!r} cannot be opened. Nothing was changed.")
        return chips.unpack(packed)

    def _finish(self, copy: sqlite3.Connection, encoder: str) -> None:
        """Leaves out what has no new embedding and makes the copy the next write of the gallery."""
        copy.execute("BEGIN IMMEDIATE")
        # The keys of those who are left out are needed to go back, so they are not to be destroyed.
        pending = copy.execute("SELECT seal FROM erased_seals").fetchall()
        copy.execute("DELETE FROM templates WHERE encoder <> (SELECT key FROM encoders WHERE digest = ?)", (encoder,))
        copy.execute("DELETE FROM subjects WHERE NOT EXISTS (SELECT 1 FROM templates t WHERE t.subject = subjects.key)")
        copy.execute("DELETE FROM erased_seals")
        copy.executemany("INSERT INTO erased_seals (seal) VALUES (?)", pending)
        copy.execute("UPDATE subjects SET crowding = NULL")
        copy.execute("UPDATE state SET sequence = sequence + 1")
        copy.commit()
        if problems := inspect(copy, keys=self._keys).problems:
            raise BackupError(f"The new gallery is not sound, so it is not used. {problems[0]}")

    def _switch(self, now: datetime) -> Path:
        aside = new_aside(self._directory, now)
        copy_sequence(self._directory, aside)
        os.link(self._path, aside / DATABASE_NAME)
        sync(aside)
        sync(self._directory)
        self._partial.rename(self._path)
        sync(self._directory)
        # Else it is noted when the gallery is opened.
        with suppress(OSError), closing(SequenceFile(self._directory)) as file:
            file.note(Position(self._position.database, self._position.sequence + 1))
            file.sync()
        return aside

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Makes the old gallery one file without a log, and keeps others out of it meanwhile."""
        with closing(connect(self._path)) as old:
            try:
                old.execute("PRAGMA locking_mode = EXCLUSIVE")
                old.execute("PRAGMA journal_mode = DELETE")
                old.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                raise BackupError(
                    f"Another process reads the gallery in {self._directory} ({error}); end it and run this again: it "
                    "goes on where it was."
                ) from error
            if queries.read_position(old) != self._position:
                raise BackupError(f"The gallery in {self._directory} was changed meanwhile. Run this again.")
            yield


def forget_others(directory: Path, keys: Vault) -> int:
    """Destroys the keys of all templates and chips that are not in the gallery of a data directory; returns how many.

    What older galleries and backups hold of them is lost then. Raises BackupError, GalleryInUse, GalleryUnavailable.
    """
    path = _gallery_in(directory)
    lock = DirectoryLock(directory)
    try:
        Database(path, keys).close()
        with answering(), closing(connect(path, read_only=True)) as connection:
            held = connection.execute("SELECT seal FROM templates WHERE seal IS NOT NULL UNION SELECT seal FROM chips")
            return keys.forget_others(seal for (seal,) in held)
    finally:
        lock.release()
