"""The database of keys, failed verifications and the audit trail, and the thread that writes what need not be awaited.

It is a file of its own beside the gallery: commands open it while the service runs.
"""

from __future__ import annotations

import hmac
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from app.security.errors import SecurityStoreUnavailable
from app.security.secret import SECRET_NAME, Secret, read_secret

DATABASE_NAME = "security.sqlite3"
SCHEMA_VERSION = 1
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS keys (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    digest      BLOB NOT NULL,
    scopes      TEXT NOT NULL,
    collections TEXT,
    rate        TEXT,
    created_at  TEXT NOT NULL,
    expires_at  TEXT,
    revoked_at  TEXT
);
CREATE TABLE IF NOT EXISTS failures (
    subject       TEXT PRIMARY KEY,
    count         INTEGER NOT NULL,
    blocked_until TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS trail (
    sequence INTEGER PRIMARY KEY,
    at       TEXT NOT NULL,
    record   TEXT NOT NULL,
    hash     BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS trail_at ON trail (at);
-- The first and the last record, sealed: so that a cut at either end is found.
CREATE TABLE IF NOT EXISTS trail_ends (
    name     TEXT PRIMARY KEY CHECK (name IN ('start', 'head')),
    sequence INTEGER NOT NULL,
    hash     BLOB NOT NULL,
    seal     BLOB NOT NULL
);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
GENESIS = bytes(32)
"""What the first record of the trail follows."""
BUSY_SECONDS = 2.0
MOST_WAITING = 10_000
"""Records that may wait to be written; then requests are refused."""
BATCH = 1000
RETRY_SECONDS = 1.0

_LOGGER = logging.getLogger("tessera")

NO_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})


class Rows(Protocol):
    """What a statement gives."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""
        ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Statements(Protocol):
    """A connection to SQLite or PostgreSQL. Statements are of the SQL that both know, with ``?`` for values."""

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Rows:
        """Runs one statement."""
        ...


Change = Callable[[Statements], Any]
"""Something to do inside a write transaction."""


class SecurityStore:
    """One SQLite database (WAL, every commit on disk) and its secret. Callable from any thread.

    ``make_room``, once set, is called when the disk is full, and returns whether there is space now.

    Args:
        directory: where the database is, and the secret unless ``secret_file`` says.
        secret_file: the file with the secret.
        create: begin a new trail, with a new secret if there is none, where there is no database.
        any_secret: open a trail that another secret sealed, too: to look at it, not to go on with it.

    Raises SecurityStoreUnavailable if it cannot be opened, is damaged, of a newer release or of another secret.
    """

    def __init__(
        self, directory: Path, secret_file: Path | None = None, *, create: bool = True, any_secret: bool = False
    ) -> None:
        path, secret_path = directory / DATABASE_NAME, secret_file or directory / SECRET_NAME
        exists, new_secret = _has_content(path), not secret_path.exists()
        if not exists and secret_file is None and not new_secret:
            raise SecurityStoreUnavailable(
                f"{path} is missing, but the secret beside it is there: keys and the audit trail are lost. Restore "
                f"them, or remove {secret_path} to begin anew, without keys."
            )
        if not create and not exists:
            raise SecurityStoreUnavailable(f"There are no keys and no audit trail in {directory}: {path} is missing.")
        self._lock = threading.Lock()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.secret: Secret = read_secret(secret_path, create=create and not exists)
            path.touch(mode=0o600)
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._prepare(path)
            if not any_secret:
                self._require_own(path, secret_path)
        except (OSError, sqlite3.Error) as error:
            if new_secret and not _has_content(path):
                # Alone it would be taken for one whose database is lost.
                secret_path.unlink(missing_ok=True)
            raise SecurityStoreUnavailable(f"The database {path} cannot be opened: {error}.") from error
        self._start()

    def _require_own(self, path: Path, secret_path: Path) -> None:
        """Raises SecurityStoreUnavailable if another secret sealed the trail: records of this one would break it."""
        head = self._connection.execute("SELECT sequence, hash, seal FROM trail_ends WHERE name = 'head'").fetchone()
        if head is None or hmac.compare_digest(head[2], seal(self.secret, "head", head[0], head[1])):
            return
        self._connection.close()
        raise SecurityStoreUnavailable(
            f"The secret {secret_path} is not the one that the keys and the audit trail in {path} were made with: name "
            "its file in TESSERA_SECURITY__SECRET_FILE, or unset that if it is secret.key in the data directory. If it "
            "is the right one, the trail was changed: restore both files from a backup."
        )

    def _start(self) -> None:
        self._lock, self._starting = threading.Lock(), threading.Lock()
        self._waiting: queue.Queue[tuple[Change, Future[Any] | None] | None] = queue.Queue(MOST_WAITING)
        self._failure: str | None = None
        self.make_room: Callable[[], bool] | None = None
        self._writer: threading.Thread | None = None

    def _prepare(self, path: Path) -> None:
        version: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            self._connection.close()
            raise SecurityStoreUnavailable(
                f"{path} has schema version {version}, but this release knows versions up to {SCHEMA_VERSION}."
            )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA secure_delete = ON")
        if version < SCHEMA_VERSION:
            self._connection.executescript(SCHEMA)
            self.change(self._begin_trail)

    def _begin_trail(self, connection: Statements) -> None:
        set_end(connection, self.secret, "head", 0, GENESIS)

    @contextmanager
    def reading(self) -> Iterator[Statements]:
        """The connection, for reads. Raises SecurityStoreUnavailable."""
        with self._lock, _answering():
            yield self._connection

    @contextmanager
    def snapshot(self) -> Iterator[Statements]:
        """As ``reading``; all statements see one state."""
        with self._lock, _answering():
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.rollback()

    def change(self, change: Change) -> Any:
        """Runs a change in a transaction of its own, on disk when this returns. Raises SecurityStoreUnavailable."""
        with self._lock, _answering():
            return self._run([change])[0]

    def change_later(self, change: Change) -> None:
        """Runs a change soon, together with others. Raises SecurityStoreUnavailable if too many wait."""
        self._enqueue(change, None)

    def change_soon(self, change: Change) -> Future[Any]:
        """As ``change_later``; the future is done when it is on disk, and fails if it cannot be."""
        future: Future[Any] = Future()
        self._enqueue(change, future)
        return future

    def check(self) -> None:
        """Raises SecurityStoreUnavailable if records cannot be written now."""
        if self._failure is not None:
            raise SecurityStoreUnavailable(f"The audit trail cannot be written: {self._failure}.")

    def close(self) -> None:
        """Writes what waits, then closes the database."""
        if self._writer is not None:
            self._waiting.put(None)
            self._writer.join()
        with self._lock:
            self._close()

    def _close(self) -> None:
        self._connection.close()

    def _enqueue(self, change: Change, future: Future[Any] | None) -> None:
        with self._starting:
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="security-store", daemon=True)
                self._writer.start()
        try:
            self._waiting.put_nowait((change, future))
        except queue.Full:
            raise SecurityStoreUnavailable(
                f"The audit trail cannot be written: {self._failure or 'too many records wait'}."
            ) from None

    def _write(self) -> None:
        """The writer thread: commits all that waits at once; what nobody awaits is tried again until it works."""
        closing = False
        kept: list[tuple[Change, Future[Any] | None]] = []
        while not closing:
            try:
                first = self._waiting.get(timeout=RETRY_SECONDS if kept or self._failure else None)
            except queue.Empty:
                first = (_probe, None)
            items = [first]
            while len(items) < BATCH and not self._waiting.empty():
                items.append(self._waiting.get_nowait())
            closing = None in items
            kept = self._commit(kept + [item for item in items if item is not None])

    def _commit(self, items: list[tuple[Change, Future[Any] | None]]) -> list[tuple[Change, Future[Any] | None]]:
        """Commits the changes; returns those to try again."""
        try:
            with self._lock:
                results = self._run([change for change, _ in items])
        except Exception as error:  # whatever it is: without this thread nothing would be recorded any more
            if self._failure is None:
                _LOGGER.warning("The audit trail cannot be written: %s", error)
            self._failure = str(error) or type(error).__name__
            for _, future in items:
                if future is not None:
                    future.set_exception(SecurityStoreUnavailable(f"The audit trail cannot be written: {error}."))
            return [item for item in items if item[1] is None and item[0] is not _probe]
        self._failure = None
        for (_, future), result in zip(items, results, strict=True):
            if future is not None:
                future.set_result(result)
        return []

    def _run(self, changes: list[Change]) -> list[Any]:
        try:
            return self._transaction(changes)
        except sqlite3.OperationalError as error:
            full = getattr(error, "sqlite_errorcode", 0) in NO_ROOM
            if not full or self.make_room is None or not self.make_room():
                raise
            return self._transaction(changes)

    def _transaction(self, changes: list[Change]) -> list[Any]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            results = [change(self._connection) for change in changes]
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.rollback()
            raise
        return results


def is_begun(directory: Path) -> bool:
    """Whether a data directory has a trail, or had one: the secret alone is what is left where the database is lost."""
    return any((directory / name).exists() for name in (DATABASE_NAME, SECRET_NAME))


def _has_content(path: Path) -> bool:
    """Whether something was ever written into a database: a start on a full disk leaves an empty file."""
    return path.exists() and path.stat().st_size > 0


def _probe(connection: Statements) -> None:
    """A write that changes nothing: whether writes work again."""
    connection.execute("UPDATE trail_ends SET sequence = sequence")


def seal(secret: Secret, name: str, sequence: int, digest: bytes) -> bytes:
    """What shows that an end of the trail was written by whoever has the secret."""
    return secret.digest("trail end", name, str(sequence), digest.hex())


def set_end(connection: Statements, secret: Secret, name: str, sequence: int, digest: bytes) -> None:
    """Writes the ``start`` or the ``head`` of the trail, sealed: even an empty one has a head."""
    connection.execute(
        """
        INSERT INTO trail_ends (name, sequence, hash, seal) VALUES (?, ?, ?, ?) ON CONFLICT (name)
        DO UPDATE SET sequence = excluded.sequence, hash = excluded.hash, seal = excluded.seal
        """,
        (name, sequence, digest, seal(secret, name, sequence, digest)),
    )


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise SecurityStoreUnavailable(f"The database of keys and audit trail does not answer: {error}.") from error
