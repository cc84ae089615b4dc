"""A PostgreSQL server for the tests, and an empty database for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.postgres import SCHEMA
from benchmarks.postgres_server import IN_MEMORY, PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer(on=IN_MEMORY) as server:
        for name in ("first", "second"):
            server.execute(f"CREATE DATABASE {name}")
        yield server


@contextmanager
def emptied(server: PostgresServer, database: str = "first") -> Iterator[str]:
    """The URL of a database, ``first`` or ``second``, without anything of the service in it."""
    server.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE", database)
    yield server.uri(database)


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    """An empty database."""
    with emptied(postgres) as found:
        yield found
