"""Connections to PostgreSQL: a pool that survives fail-over, transactions that are tried again, ordered migrations."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import DeadlockDetected, SerializationFailure
from psycopg_pool import ConnectionPool

from app.errors import TesseraError

SCHEMA = "tessera"
"""Everything is in this schema, so that the database may have other uses, too."""
OLDEST_SERVER = 150000
ATTEMPTS = 5
RETRY_AFTER_SECONDS = 3
"""How soon a client may try again: a fail-over takes about as long."""
WAIT_SECONDS = 5.0
"""How long a request waits for a connection."""
STATEMENT_SECONDS = 10.0
COMMIT_SECONDS = 10.0
"""How long a commit may wait for synchronous standbys."""
RECONNECT_SECONDS = 1.0
"""A connection attempt is given up so soon: the next request makes another one, without a growing pause."""
_MIGRATION_LOCK = 0x7E55E7A0

# What the operating system needs to notice a server that went away without a word, seconds.
_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

Connection = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")


class PostgresUnavailable(Exception):
    """PostgreSQL does not answer; ``full``: because its disk is full."""

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class Postgres:
    """A pool of connections. Callable from any thread.

    Args:
        url: ``postgresql://...`` or libpq's own words; a password may come from ``PGPASSFILE`` or ``PGPASSWORD``.
        unavailable: makes the error to raise when the database does not answer.
        connections: most at once.
        read_only: never writes; any server will do, also a standby.
        statement_seconds: longest time of one statement.

    Raises what ``unavailable`` makes if the database cannot be reached, is too old or may lose what it acknowledges.
    """

    def __init__(
        self,
        url: str,
        unavailable: Callable[[PostgresUnavailable], TesseraError],
        *,
        connections: int,
        read_only: bool = False,
        statement_seconds: float = STATEMENT_SECONDS,
    ) -> None:
        self._unavailable, self._statement_ms = unavailable, int(1000 * statement_seconds)
        with self._answering():
            self.place, conninfo = _conninfo(url, read_only=read_only)
            with psycopg.connect(conninfo, autocommit=True) as connection:
                _refuse_unsafe(connection, read_only=read_only)
            self._pool: ConnectionPool[Connection] = ConnectionPool(
                conninfo,
                kwargs={"autocommit": True},
                min_size=1,
                max_size=connections,
                timeout=WAIT_SECONDS,
                reconnect_timeout=RECONNECT_SECONDS,
                configure=self._configure,
                check=ConnectionPool.check_connection,
                name="tessera",
                open=True,
            )

    def _configure(self, connection: Connection) -> None:
        connection.execute(
            """
            SELECT set_config('search_path', %s || ', ' || current_setting('search_path'), false),
                   set_config('TimeZone', 'UTC', false),
                   set_config('statement_timeout', %s, false),
                   set_config('lock_timeout', %s, false),
                   set_config('idle_in_transaction_session_timeout', '60000', false),
                   set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                                                    THEN 'on' ELSE current_setting('synchronous_commit') END, false)
            """,
            (SCHEMA, str(self._statement_ms), str(self._statement_ms)),
        )

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection on which every statement by itself sees one consistent state."""
        with self._answering(), self._pool.connection() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection on which all statements together see one consistent state, without a limit of time."""
        with self._answering(), self._pool.connection() as connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            without_time_limit(connection)
            yield connection

    def write(self, work: Callable[[Connection], T]) -> T:
        """Runs ``work`` in a transaction, durable when this returns; again from the start if others were in its way.

        Raises what ``work`` raises, with nothing changed.
        """
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311
            with self._answering(), self._pool.connection() as connection:
                try:
                    connection.execute("BEGIN")
                    result = work(connection)
                except (SerializationFailure, DeadlockDetected):
                    connection.rollback()
                    if attempt == ATTEMPTS - 1:
                        raise
                    continue
                _commit(connection)
                return result
        raise AssertionError  # the last attempt returned or raised

    def migrate(
        self,
        name: str,
        scripts: Sequence[str],
        then: Callable[[Connection], None],
        first: Callable[[Connection], None] | None = None,
    ) -> None:
        """Applies the scripts that the part ``name`` of the database has not seen, all or none.

        One process at a time does so, others wait. ``first`` and ``then`` run around them in the same transaction.
        """

        def work(connection: Connection) -> None:
            without_time_limit(connection)
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
            if first is not None:
                first(connection)
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_versions (name text PRIMARY KEY, version int NOT NULL)"
            )
            row = connection.execute("SELECT version FROM schema_versions WHERE name = %s", (name,)).fetchone()
            version = 0 if row is None else int(row[0])
            self._refuse_newer(name, version, len(scripts))
            for script in scripts[version:]:
                connection.execute(script.encode())
            if version < len(scripts):
                connection.execute(
                    """
                    INSERT INTO schema_versions (name, version) VALUES (%s, %s)
                    ON CONFLICT (name) DO UPDATE SET version = excluded.version
                    """,
                    (name, len(scripts)),
                )
            then(connection)

        self.write(work)

    def check_version(self, connection: Connection, name: str, known: int) -> None:
        """Raises what ``unavailable`` makes if the part ``name`` of the database is newer than version ``known``."""
        row = connection.execute("SELECT version FROM schema_versions WHERE name = %s", (name,)).fetchone()
        self._refuse_newer(name, 0 if row is None else int(row[0]), known)

    def _refuse_newer(self, name: str, version: int, known: int) -> None:
        if version > known:
            raise self._unavailable(
                PostgresUnavailable(
                    f"The database {self.place} has schema version {version} of its {name}, but this release knows "
                    f"versions up to {known}. Run the release that wrote it, or a newer one."
                )
            )

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Turns errors of PostgreSQL into the caller's own."""
        try:
            yield
        except errors.DiskFull as error:
            raise self._unavailable(
                PostgresUnavailable(f"The disk of the database is full: {_text(error)}. Make room on it.", full=True)
            ) from error
        except psycopg.DataError as error:
            raise ValueError(f"PostgreSQL cannot store this: {_text(error)}.") from error
        except psycopg.Error as error:
            raise self._unavailable(PostgresUnavailable(f"The database does not answer: {_text(error)}.")) from error
        except PostgresUnavailable as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        """Closes all connections; those in use when they are returned."""
        self._pool.close()


def without_time_limit(connection: Connection) -> None:
    """Lets the statements of the current transaction take as long as they need."""
    connection.execute("SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true)")


def constant(statement: str) -> LiteralString:
    """A statement that is put together from constants only."""
    return statement


def _commit(connection: Connection) -> None:
    """Commits, and makes sure that all servers have it that must.

    A commit that waits in vain for a synchronous standby succeeds with a warning; it must not count as durable.
    """
    warnings: list[str] = []

    def noticed(notice: errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            warnings.append(notice.message_primary or "")

    connection.add_notice_handler(noticed)
    # The server's own limits of time do not hold for this wait.
    cancelling = threading.Timer(COMMIT_SECONDS, connection.cancel_safe)
    cancelling.daemon = True
    cancelling.start()
    try:
        connection.execute("COMMIT")
    except psycopg.OperationalError as error:
        raise PostgresUnavailable(
            f"The database went away during a write ({_text(error)}): it may or may not be stored. Ask for it, or send "
            "the same request with the same Idempotency-Key again."
        ) from error
    finally:
        cancelling.cancel()
        connection.remove_notice_handler(noticed)
    if warnings:
        raise PostgresUnavailable(
            f"The write was not confirmed by all servers that must have it: {warnings[0]}. It may or may not be kept. "
            "Ask for it, or send the same request with the same Idempotency-Key again."
        )


def _text(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")


def _conninfo(url: str, *, read_only: bool) -> tuple[str, str]:
    """How to name the database in a message, without its password; how to connect."""
    given = conninfo_to_dict(url)
    # After a fail-over only the new primary will do, whichever of several hosts it is.
    session = "any" if read_only else "read-write"
    chosen = _DEFAULTS | {"application_name": "tessera", "target_session_attrs": session} | given
    place = f"{given.get('dbname', '')} on {given.get('host', given.get('hostaddr', 'the local socket'))}"
    return place, make_conninfo(**chosen)


def _refuse_unsafe(connection: psycopg.Connection[Any], *, read_only: bool) -> None:
    """Raises PostgresUnavailable for a server that is too old, or that may lose what it has acknowledged."""
    if connection.info.server_version < OLDEST_SERVER:
        raise PostgresUnavailable(f"PostgreSQL {OLDEST_SERVER // 10_000} or newer is needed.")
    row = connection.execute(
        "SELECT current_setting('server_encoding'), current_setting('fsync'), current_setting('full_page_writes')"
    ).fetchone()
    assert row is not None
    encoding, *safe = row
    if encoding != "UTF8":
        raise PostgresUnavailable(f"The database has the encoding {encoding}; create one with ENCODING 'UTF8'.")
    if not read_only and safe != ["on", "on"]:
        raise PostgresUnavailable(
            "The server runs with fsync or full_page_writes off and may lose writes: switch them on."
        )
