"""SQLite connections: one writer, a pool of readers, and the mapping of their errors."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Lock

from app.gallery.protocol import GalleryUnavailable
from app.gallery.sqlite.migration import migrate, shipped_scripts

_LOGGER = logging.getLogger(__name__)

_BUSY_TIMEOUT_S = 2.0


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise GalleryUnavailable(
            f"The gallery's database does not answer: {error}. Check the disk (space, rights, health) it lies on."
        ) from error


class Database:
    """A SQLite database in WAL mode that only this process has open; every method may be called from any thread.

    Every commit is on disk before it returns (``synchronous=FULL``); deleted data is overwritten with zeros
    (``secure_delete``). Opening applies the migrations. Raises GalleryUnavailable if the database cannot be opened, is
    damaged or is newer than this code.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._write_lock = Lock()
        self._pool_changed = Condition()
        self._idle: list[sqlite3.Connection] = []
        self._borrowed = 0
        self._closed = False
        # A killed process may have left a log behind.
        self._log_holds_erased = True
        try:
            # SQLite gives its log the permissions of the database file.
            path.touch(mode=0o600)
            self._writer = self._connect()
            try:
                self._prepare()
            except BaseException:
                self._writer.close()
                raise
        except (OSError, sqlite3.Error) as error:
            raise GalleryUnavailable(
                f"The gallery's database {path} cannot be opened: {error}. If it is damaged, put a backup in its place."
            ) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def _prepare(self) -> None:
        mode = self._writer.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise GalleryUnavailable(
                f"The gallery's database {self._path} cannot keep a write-ahead log (its journal mode is {mode!r}). "
                "It must lie on a local file system."
            )
        self._writer.execute("PRAGMA synchronous = FULL")
        self._writer.execute("PRAGMA secure_delete = ON")
        report = self._writer.execute("PRAGMA quick_check(1)").fetchone()[0]
        if report != "ok":
            raise sqlite3.DatabaseError(f"database disk image is malformed ({report.splitlines()[-1]})")
        migrate(self._writer, shipped_scripts())

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A read transaction: everything read in it is one consistent snapshot. Raises GalleryUnavailable."""
        with _answering():
            connection = self._borrow()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                self._give_back(connection)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A write transaction, one at a time; anything not committed on exit is rolled back.

        Raises GalleryUnavailable.
        """
        with self._write_lock, _answering():
            if self._closed:
                raise GalleryUnavailable("The gallery is closed.")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            finally:
                self._writer.rollback()
                if self._log_holds_erased:
                    self._empty_log()

    def expect_erasure(self) -> None:
        """Marks the current transaction as erasing data, so that the log is emptied after it.

        Deleted rows are zeroed in the database file, but pages as they were before may still be in the write-ahead
        log; a checkpoint that truncates the log removes that copy. A reader that needs the old pages for longer than
        the busy timeout delays this until the next write or ``close``.
        """
        self._log_holds_erased = True

    def _empty_log(self) -> None:
        try:
            busy = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.Error:
            _LOGGER.warning("The write-ahead log could not be emptied; the next write tries again.", exc_info=True)
        else:
            self._log_holds_erased = bool(busy)

    def _borrow(self) -> sqlite3.Connection:
        with self._pool_changed:
            if self._closed:
                raise GalleryUnavailable("The gallery is closed.")
            self._borrowed += 1
            if self._idle:
                return self._idle.pop()
        try:
            connection = self._connect()
            connection.execute("PRAGMA query_only = ON")
        except BaseException:
            self._returned(None)
            raise
        return connection

    def _give_back(self, connection: sqlite3.Connection) -> None:
        try:
            connection.rollback()
        except sqlite3.Error:
            connection.close()
            self._returned(None)
            raise
        self._returned(connection)

    def _returned(self, connection: sqlite3.Connection | None) -> None:
        with self._pool_changed:
            self._borrowed -= 1
            if connection is not None:
                self._idle.append(connection)
            self._pool_changed.notify_all()

    def close(self) -> None:
        """Waits for open transactions, then closes every connection; the last one empties the log."""
        with self._write_lock, self._pool_changed:
            if self._closed:
                return
            self._closed = True
            self._pool_changed.wait_for(lambda: self._borrowed == 0)
            for connection in self._idle:
                connection.close()
            self._writer.close()
