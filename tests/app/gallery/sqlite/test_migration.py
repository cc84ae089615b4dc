from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from app.gallery.protocol import GalleryUnavailable
from app.gallery.sqlite.migration import migrate, shipped_scripts

FIRST = "CREATE TABLE a (x TEXT);"
SECOND = "CREATE TABLE b (x TEXT); INSERT INTO a VALUES ('second');"


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        yield connection


def version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def tables(connection: sqlite3.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_scripts_are_applied_in_order_and_once(connection: sqlite3.Connection) -> None:
    migrate(connection, [FIRST])
    assert (version(connection), tables(connection)) == (1, {"a"})
    migrate(connection, [FIRST, SECOND])
    migrate(connection, [FIRST, SECOND])
    assert (version(connection), tables(connection)) == (2, {"a", "b"})
    assert connection.execute("SELECT x FROM a").fetchall() == [("second",)]


def test_a_script_that_fails_leaves_the_version_before_it(connection: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, [FIRST, SECOND + "INSERT INTO nowhere VALUES (1);"])
    assert (version(connection), tables(connection)) == (1, {"a"})
    assert connection.execute("SELECT x FROM a").fetchall() == []
    migrate(connection, [FIRST, SECOND])
    assert version(connection) == 2


def test_a_newer_database_is_refused_untouched(connection: sqlite3.Connection) -> None:
    migrate(connection, [FIRST, SECOND])
    with pytest.raises(GalleryUnavailable, match=r"version 2.*up to 1") as refusal:
        migrate(connection, [FIRST])
    assert refusal.value.details == {"database_version": 2, "known_version": 1}
    assert version(connection) == 2


def test_the_shipped_scripts_lead_to_the_present_schema(connection: sqlite3.Connection) -> None:
    migrate(connection, shipped_scripts())
    assert version(connection) == len(shipped_scripts())
    assert {"collections", "subjects", "templates", "receipts", "encoders"} <= tables(connection)
