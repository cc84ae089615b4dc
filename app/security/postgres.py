"""Keys, audit trail and lockouts in PostgreSQL, so that all replicas of the service agree on them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from app.postgres import RETRY_AFTER_SECONDS, Connection, Postgres, PostgresUnavailable
from app.security.errors import SecurityStoreUnavailable
from app.security.lockout import (
    LONGEST_DELAY,
    NEVER,
    Lockout,
    blocked_until,
    refuse_blocked,
    save_failures,
)
from app.security.secret import SECRET_NAME, read_secret
from app.security.store import Change, Rows, SecurityStore, Statements

CONNECTIONS = 4
ATTEMPT_LASTS = timedelta(minutes=2)
"""An attempt that has not ended by then never will: its replica is gone."""
_WRITER = 0x7E55E7A1
_SUBJECT = 0x7E56
SCHEMA = """
CREATE TABLE installation (
    fingerprint bytea NOT NULL
);
CREATE TABLE keys (
    id          text COLLATE "C" PRIMARY KEY,
    name        text NOT NULL,
    digest      bytea NOT NULL,
    scopes      text NOT NULL,
    collections text,
    rate        text,
    created_at  text COLLATE "C" NOT NULL,
    expires_at  text COLLATE "C",
    revoked_at  text COLLATE "C"
);
CREATE TABLE failures (
    subject       text COLLATE "C" PRIMARY KEY,
    count         integer NOT NULL,
    blocked_until text COLLATE "C" NOT NULL
);
-- Verifications under way.
CREATE TABLE attempts (
    id       uuid PRIMARY KEY,
    subject  text COLLATE "C" NOT NULL,
    began_at timestamptz NOT NULL
);
CREATE INDEX attempts_subject ON attempts (subject);
CREATE TABLE trail (
    sequence bigint PRIMARY KEY,
    at       text COLLATE "C" NOT NULL,
    record   text NOT NULL,
    hash     bytea NOT NULL
);
CREATE INDEX trail_at ON trail (at);
-- The first and the last record, sealed: so that a cut at either end is found.
CREATE TABLE trail_ends (
    name     text PRIMARY KEY CHECK (name IN ('start', 'head')),
    sequence bigint NOT NULL,
    hash     bytea NOT NULL,
    seal     bytea NOT NULL
);
"""


RATES = """
-- Requests of a key or an address in the latest window of time and in the one before. A crash of the server forgets
-- them, as a restart of a single process does; nothing of it waits for the disk. Names are pseudonyms.
CREATE UNLOGGED TABLE rates (
    name    bytea PRIMARY KEY,
    seconds integer NOT NULL,
    number  bigint NOT NULL,
    earlier integer NOT NULL,
    count   integer NOT NULL
) WITH (fillfactor = 50);
"""


def unavailable(reason: PostgresUnavailable) -> SecurityStoreUnavailable:
    """The security store's error."""
    return SecurityStoreUnavailable(f"Keys and audit trail: {reason}", retry_after=RETRY_AFTER_SECONDS)


class _Statements:
    """A connection to PostgreSQL for statements with ``?``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Rows:
        """See ``Statements``."""
        return self._connection.execute(statement.replace("?", "%s"), values)


class PostgresSecurityStore(SecurityStore):
    """A ``SecurityStore`` in the database of the gallery; the secret is a file that is the same for every replica.

    Args:
        url: of the database.
        directory: where the secret is, unless ``secret_file`` says.
        secret_file: the file with the secret.
        create: begin a new trail, with a new secret if there is none, where the database has none.

    Raises SecurityStoreUnavailable if the database cannot be used or the secret is not the one it was begun with.
    """

    def __init__(self, url: str, directory: Path, secret_file: Path | None = None, *, create: bool = True) -> None:
        self.url, self._directory, self._secret_file, self._create = url, directory, secret_file, create
        self.database = Postgres(url, unavailable, connections=CONNECTIONS)
        try:
            self.database.migrate("security", (SCHEMA, RATES), self._open)
        except BaseException:
            self.database.close()
            raise
        self._start()

    def _open(self, connection: Connection) -> None:
        path = self._secret_file or self._directory / SECRET_NAME
        row = connection.execute("SELECT fingerprint FROM installation").fetchone()
        if row is None and not self._create:
            raise SecurityStoreUnavailable("There are no keys and no audit trail in the database yet.")
        if row is not None and not path.exists():
            raise SecurityStoreUnavailable(
                f"The secret {path} is missing, and the keys and the audit trail in {self.database.place} were made "
                "with it. All replicas need the same: name the file in TESSERA_SECURITY__SECRET_FILE."
            )
        if row is None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.secret = read_secret(path, create=row is None)
        fingerprint = self.secret.digest("installation")
        if row is None:
            connection.execute("INSERT INTO installation (fingerprint) VALUES (%s)", (fingerprint,))
            self._begin_trail(_Statements(connection))
        elif row[0] != fingerprint:
            raise SecurityStoreUnavailable(
                f"The secret {path} is not the one that the keys and the audit trail in {self.database.place} were "
                "made with. All replicas need the same: name its file in TESSERA_SECURITY__SECRET_FILE."
            )

    @contextmanager
    def reading(self) -> Iterator[Statements]:
        with self.database.reading() as connection:
            yield _Statements(connection)

    @contextmanager
    def snapshot(self) -> Iterator[Statements]:
        with self.database.snapshot() as connection:
            yield _Statements(connection)

    def change(self, change: Change) -> Any:
        return self._run([change])[0]

    def _run(self, changes: list[Change]) -> list[Any]:
        def work(connection: Connection) -> list[Any]:
            # One writer at a time in all replicas: every record of the trail follows the one before it.
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_WRITER,))
            return [change(_Statements(connection)) for change in changes]

        return self.database.write(work)

    def _close(self) -> None:
        self.database.close()


class SharedLockout(Lockout):
    """A ``Lockout`` whose failures and attempts under way are those of all replicas."""

    def __init__(
        self,
        store: PostgresSecurityStore,
        *,
        enabled: bool = True,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = store.database
        super().__init__(store, enabled=enabled, clock=clock)
        # What matters is read anew for every attempt.
        self._failures = {}

    def _begin(self, subject: str) -> str:
        begun = str(uuid.uuid4())

        def work(connection: Connection) -> None:
            # A crash loses attempts under way in any case.
            connection.execute("SELECT set_config('synchronous_commit', 'off', true)")
            count, until = self._locked(connection, subject)
            now = self._clock()
            connection.execute(
                "DELETE FROM attempts WHERE subject = %s AND began_at NOT BETWEEN %s AND %s",
                (subject, now - ATTEMPT_LASTS, now + ATTEMPT_LASTS),
            )
            row = connection.execute("SELECT COUNT(*) FROM attempts WHERE subject = %s", (subject,)).fetchone()
            assert row is not None
            # A clock that was set back must not lock anybody out for longer.
            refuse_blocked(count, row[0], min(until, now + LONGEST_DELAY), now)
            connection.execute(
                "INSERT INTO attempts (id, subject, began_at) VALUES (%s, %s, %s)", (begun, subject, now)
            )

        self._database.write(work)
        return begun

    def _end(self, subject: str, begun: str, *, failed: bool | None) -> None:
        def work(connection: Connection) -> None:
            count, _ = self._locked(connection, subject)
            connection.execute("DELETE FROM attempts WHERE id = %s", (begun,))
            if failed:
                until = blocked_until(count + 1, self._clock())
                save_failures(_Statements(connection), subject, count + 1, until)
            elif failed is False and count:
                save_failures(_Statements(connection), subject, 0, NEVER)

        self._database.write(work)

    def forget(self, collection: str, subject_id: str) -> None:
        name = self._name(collection, subject_id)
        self._database.write(lambda connection: _forget(connection, name))

    def forget_collection(self, collection: str) -> None:
        prefix = self._name(collection, "").partition(":")[0]
        self._database.write(lambda connection: _forget(connection, f"{prefix}:%"))

    @staticmethod
    def _locked(connection: Connection, subject: str) -> tuple[int, datetime]:
        """Failures of a subject, and until when it is blocked; nobody else reads or changes them meanwhile."""
        connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_SUBJECT, subject))
        row = connection.execute("SELECT count, blocked_until FROM failures WHERE subject = %s", (subject,)).fetchone()
        return (0, NEVER) if row is None else (row[0], datetime.fromisoformat(row[1]))

    def _forget_stored(self) -> None:
        super()._forget_stored()
        old = self._clock() - ATTEMPT_LASTS
        self._database.write(lambda connection: connection.execute("DELETE FROM attempts WHERE began_at < %s", (old,)))


def _forget(connection: Connection, pattern: str) -> None:
    """Erases failures and attempts of the subjects whose names are like this; names are hexadecimal."""
    connection.execute("DELETE FROM failures WHERE subject LIKE %s", (pattern,))
    connection.execute("DELETE FROM attempts WHERE subject LIKE %s", (pattern,))
