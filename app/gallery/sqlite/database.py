"""SQLite connections: one writer, a pool of readers, and the mapping of their errors."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Condition, Lock

from app.gallery.protocol import DiskFull, GalleryUnavailable
from app.gallery.sqlite import queries, vault
from app.gallery.sqlite.locks import LOCK_NAME
from app.gallery.sqlite.migration import migrate, shipped_scripts
from app.gallery.sqlite.presence import OpenFiles
from app.gallery.sqlite.reserve import RESERVE_SIZE, Reserve
from app.gallery.sqlite.sequence import SEQUENCE_NAME, Position, SequenceFile, refuse_loss
from app.gallery.sqlite.upkeep import Upkeep
from app.gallery.sqlite.vault import Vault

_LOGGER = logging.getLogger("tessera")

DATABASE_NAME = "gallery.sqlite3"
WRITE_WAIT_S = 2.0
"""How long a write waits in all, for writes of this process and for locks of others."""
_READ_WAIT_S = 1.0
_CHECKPOINT_WAIT_S = 0.25
# A failure to write: what the disk has no room for gives SQLITE_FULL, or one of the others where a limit cuts it short.
_NO_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})


@contextmanager
def answering(keys: Vault | None = None) -> Iterator[None]:
    """Turns errors of SQLite into GalleryUnavailable, DiskFull where it may be that.

    ``keys``: those of the connection; EncryptionKeyMissing where they could not open what was sealed.
    """
    try:
        yield
    except sqlite3.Error as error:
        if keys is not None and (refusal := keys.refusal()) is not None:
            raise refusal from error
        code = getattr(error, "sqlite_errorcode", 0)
        message = f"The gallery's database does not answer: {error}."
        if code in _NO_ROOM:
            raise DiskFull(f"{message} The disk is full or may not be written: make room on it.") from error
        if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise GalleryUnavailable(
                f"{message} Another process holds it, such as a shell or a copying program: end that one."
            ) from error
        raise GalleryUnavailable(f"{message} Check the disk (space, rights, health) it lies on.") from error


def connect(path: Path, *, read_only: bool = False, keys: Vault | None = None) -> sqlite3.Connection:
    """A connection in autocommit mode to a database that exists. Raises sqlite3.Error.

    ``keys`` open encrypted templates; without them, such templates count as damaged.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=_READ_WAIT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    configure(connection, keys)
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


def configure(connection: sqlite3.Connection, keys: Vault | None) -> None:
    """What every connection to a gallery needs, wherever its database is."""
    # A damaged letter must not keep the rest of the row from being read and named.
    connection.text_factory = _text
    connection.execute("PRAGMA foreign_keys = ON")
    vault.install(connection, keys)


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", "replace")


class Database:
    """A SQLite database in WAL mode that only this process writes; every method may be called from any thread.

    Every commit is on disk before it returns (``synchronous=FULL``); deleted data is overwritten with zeros
    (``secure_delete``). Opening applies the migrations. Soon after the last write, the log is moved into the database
    file. Every transaction makes sure first that the files are still in place.

    Raises GalleryUnavailable if the database cannot be opened, is damaged, is newer than this code or lacks
    acknowledged writes.
    """

    def __init__(self, path: Path, keys: Vault | None = None) -> None:
        self._path, self._directory, self._keys = path, path.parent, keys
        self._write_lock = Lock()
        self._pool_changed = Condition()
        self._idle: list[sqlite3.Connection] = []
        self._borrowed = 0
        self._closed = False
        # A killed process may have left a log behind.
        self._log_holds_erased = True
        self._changes = 0
        self._upkeep_failed = False
        self.checkpoints = (0, 0.0)
        """How often the log was moved into the database since the opening, and the seconds that it took in all."""
        self._reserve = Reserve(self._directory)
        with ExitStack() as opened:
            try:
                self._open_with_reserve(opened)
            except (OSError, sqlite3.Error) as error:
                raise GalleryUnavailable(
                    f"The gallery's database {path} cannot be opened: {error}. If it is damaged, put a backup in its "
                    "place."
                ) from error
            self._opened = opened.pop_all()

    def _open_with_reserve(self, opened: ExitStack) -> None:
        """Opens it even on a full disk, so that something can be erased from it."""
        try:
            self._open(opened)
        except sqlite3.Error as error:
            opened.close()
            if getattr(error, "sqlite_errorcode", 0) not in _NO_ROOM or not self._reserve.release():
                raise
            self._open(opened)

    def _open(self, opened: ExitStack) -> None:
        if not self._path.exists():
            refuse_loss(self._directory, None)
            # SQLite gives its log the permissions of the database file.
            self._path.touch(mode=0o600)
        self._writer = connect(self._path, keys=self._keys)
        opened.callback(self._writer.close)
        self._prepare()
        self._position = queries.read_position(self._writer)
        refuse_loss(self._directory, lambda: self._position)
        self._sequence_file = SequenceFile(self._directory)
        opened.callback(self._sequence_file.close)
        self._sequence_file.note(self._position)
        self._sequence_file.sync()
        names = (self._path.name, f"{self._path.name}-wal", f"{self._path.name}-shm", LOCK_NAME, SEQUENCE_NAME)
        self._files = OpenFiles(self._directory, names if self._keys is None else (*names, *vault.VAULT_FILES))
        opened.callback(self._files.close)
        if not self._reserve.fill():
            _LOGGER.warning("There is no space on the disk of %s to keep in reserve for erasing.", self._directory)
        self._upkeep = Upkeep(self._keep_up)
        # A killed process may have left some behind.
        destroyed = self._destroy_keys()
        if not destroyed or self._reserve.is_released:
            self._upkeep.written()

    def _prepare(self) -> None:
        mode = self._writer.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise GalleryUnavailable(
                f"The gallery's database {self._path} cannot keep a write-ahead log (its journal mode is {mode!r}). "
                "It must lie on a local file system."
            )
        self._writer.execute("PRAGMA synchronous = FULL")
        self._writer.execute("PRAGMA secure_delete = ON")
        # A row that breaks a constraint is not the whole database's failure: it is left out by its digest.
        self._writer.execute("PRAGMA ignore_check_constraints = ON")
        report = self._writer.execute("PRAGMA quick_check(1)").fetchone()[0]
        self._writer.execute("PRAGMA ignore_check_constraints = OFF")
        if report != "ok":
            raise sqlite3.DatabaseError(f"database disk image is malformed ({report.splitlines()[-1]})")
        if self._writer.execute("PRAGMA user_version").fetchone()[0] == 0:
            refuse_loss(self._directory, None)
        migrate(self._writer, shipped_scripts())
        vault.require_vault(self._writer, self._keys)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A read transaction: everything read in it is one consistent snapshot.

        Raises GalleryUnavailable, EncryptionKeyMissing.
        """
        with answering(self._keys):
            connection = self._borrow()
            try:
                self._files.check()
                connection.execute("BEGIN")
                yield connection
            finally:
                self._give_back(connection)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A write transaction, one at a time; anything not committed with ``commit`` on exit is rolled back.

        Raises GalleryUnavailable, at the latest two seconds after another write has kept it waiting, and
        EncryptionKeyMissing.
        """
        deadline = time.monotonic() + WRITE_WAIT_S
        if not self._write_lock.acquire(timeout=WRITE_WAIT_S):
            raise GalleryUnavailable(
                f"The gallery is busy: other writes have taken {WRITE_WAIT_S:g} s. Try again, and look at the disk and "
                "at other processes that have the database open."
            )
        try:
            with answering(self._keys):
                if self._closed:
                    raise GalleryUnavailable("The gallery is closed.")
                self._files.check()
                self._wait_at_most(deadline - time.monotonic())
                self._writer.execute("BEGIN IMMEDIATE")
                self._changes = self._writer.total_changes
                try:
                    yield self._writer
                finally:
                    self._writer.rollback()
                    self._empty_log()
        finally:
            self._write_lock.release()

    def commit(self) -> None:
        """Commits the write transaction under way. Raises sqlite3.Error, GalleryUnavailable.

        The number of the write is noted beside the database, so that a later opening notices if the write is gone.
        """
        if self._writer.total_changes == self._changes:
            self._writer.commit()
            return
        self._writer.execute("UPDATE state SET sequence = sequence + 1")
        self._writer.commit()
        self._position = Position(self._position.database, self._position.sequence + 1)
        self._files.check()
        try:
            self._sequence_file.note(self._position)
        except OSError:
            _LOGGER.warning("The write %d could not be noted beside the database.", self._position.sequence)
        self._destroy_keys()
        self._upkeep.written()

    def _destroy_keys(self) -> bool:
        """Makes what backups hold of erased templates unreadable; whether it could be done, else it is tried again."""
        if self._keys is None:
            return True
        try:
            if seals := [seal for (seal,) in self._writer.execute("SELECT seal FROM erased_seals")]:
                self._keys.forget(seals)
                self._writer.execute("DELETE FROM erased_seals")
        except (GalleryUnavailable, sqlite3.Error) as error:
            _LOGGER.warning("The keys of erased templates could not be destroyed yet; it is tried again: %s", error)
            return False
        return True

    def release_reserve(self) -> bool:
        """Frees the space kept for erasing; whether there was any. It is taken again once there is room."""
        released = self._reserve.release()
        self._upkeep.written()
        return released

    def require_room(self) -> None:
        """Raises DiskFull while the space kept for erasing is free: what is left of it is for nothing else."""
        if self._reserve.is_released:
            raise DiskFull(
                f"The disk is full, and what was kept on it is for erasing. Make room on it, {2 * RESERVE_SIZE >> 20} "
                "MiB at least; enrolments go on some seconds later."
            )

    def expect_erasure(self) -> None:
        """Marks the current transaction as erasing data, so that the log is emptied after it.

        Deleted rows are zeroed in the database file, but pages as they were before may still be in the write-ahead
        log; a checkpoint that truncates the log removes that copy. A reader that needs the old pages delays this; it is
        tried again every few seconds and at ``close``.
        """
        self._log_holds_erased = True

    def _wait_at_most(self, seconds: float) -> None:
        self._writer.execute(f"PRAGMA busy_timeout = {max(0, int(1000 * seconds))}")

    def _empty_log(self) -> None:
        if not self._log_holds_erased:
            return
        try:
            self._log_holds_erased = not self._checkpoint()
        except sqlite3.Error as error:
            _LOGGER.warning("The write-ahead log could not be emptied; it is tried again: %s.", error)
        if self._log_holds_erased:
            self._upkeep.written()

    def _checkpoint(self) -> bool:
        """Moves the log into the database file and empties it; False if others need it still."""
        self._wait_at_most(_CHECKPOINT_WAIT_S)
        started = time.perf_counter()
        busy = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        count, seconds = self.checkpoints
        self.checkpoints = (count + 1, seconds + time.perf_counter() - started)
        return not busy

    def _keep_up(self) -> bool:
        """After writes: the logs are emptied, the reserve filled. Whether all of it could be done."""
        with self._write_lock:
            if self._closed:
                return True
            try:
                self._files.check()
                destroyed = self._destroy_keys()
                if done := self._checkpoint() and destroyed:
                    self._log_holds_erased = False
                self._sequence_file.sync()
                if self._keys is not None:
                    done = self._keys.empty_log() and done
            except (sqlite3.Error, OSError, GalleryUnavailable) as error:
                if not self._upkeep_failed:
                    _LOGGER.warning("The write-ahead log could not be moved into the database: %s", error)
                self._upkeep_failed = True
                return False
            self._upkeep_failed = False
            return self._reserve.fill() and done

    def _borrow(self) -> sqlite3.Connection:
        with self._pool_changed:
            if self._closed:
                raise GalleryUnavailable("The gallery is closed.")
            self._borrowed += 1
            if self._idle:
                return self._idle.pop()
        try:
            return connect(self._path, read_only=True, keys=self._keys)
        except BaseException:
            self._returned(None)
            raise

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
        self._upkeep.stop()
        with self._write_lock, self._pool_changed:
            if self._closed:
                return
            self._closed = True
            self._pool_changed.wait_for(lambda: self._borrowed == 0)
            for connection in self._idle:
                connection.close()
            self._opened.close()
