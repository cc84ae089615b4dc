from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.security.lockout import Lockout
from app.security.postgres import PostgresSecurityStore, SharedLockout
from app.security.store import SecurityStore
from benchmarks.postgres_server import PostgresServer
from tests.app.postgres import emptied, postgres

__all__ = ["postgres"]


@pytest.fixture(params=["sqlite", "postgres"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SecurityStore]:
    """An empty store, of either kind."""
    if request.param == "sqlite":
        opened = SecurityStore(tmp_path)
        yield opened
        opened.close()
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    with emptied(server) as url:
        shared = PostgresSecurityStore(url, tmp_path)
        yield shared
        shared.close()


def second(store: SecurityStore, directory: Path) -> SecurityStore:
    """The same store, opened once more."""
    if isinstance(store, PostgresSecurityStore):
        return PostgresSecurityStore(store.url, directory)
    return SecurityStore(directory)


def lockout_of(
    store: SecurityStore, *, enabled: bool = True, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Lockout:
    """The lockout that goes with a store."""
    kind = SharedLockout if isinstance(store, PostgresSecurityStore) else Lockout
    return kind(store, enabled=enabled, clock=clock)  # type: ignore[arg-type]
