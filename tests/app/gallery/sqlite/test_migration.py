from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from app.gallery.protocol import GalleryUnavailable
from app.gallery.sqlite.digests import template_digest
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


def test_receipts_from_before_are_erased_with_whom_they_name(connection: sqlite3.Connection) -> None:
    unit, moment = np.eye(128, dtype=np.float32)[0].tobytes(), "2026-01-01T00:00:00.000000+00:00"
    bodies = {
        "own": {"templates": [{"template_id": "t2"}], "possible_duplicates": []},
        "names": {"templates": [{"template_id": "t2"}], "possible_duplicates": [{"template_id": "t1"}]},
        "names the erased": {"templates": [{"template_id": "t2"}], "possible_duplicates": [{"template_id": "gone"}]},
    }
    migrate(connection, shipped_scripts()[:4])
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("INSERT INTO encoders (digest) VALUES ('e')")
    connection.execute("INSERT INTO collections (id, created_at) VALUES ('default', ?)", (moment,))
    for key, embedding in ((1, unit), (2, unit), (3, bytes(512))):
        connection.execute("INSERT INTO subjects VALUES (?, 1, ?, '{}', ?, ?, 0)", (key, f"s{key}", moment, moment))
        connection.execute(
            "INSERT INTO templates VALUES (?, ?, 1, ?, 1, ?, ?, 10)", (key, f"t{key}", key, embedding, moment)
        )
    for name, body in (bodies | {"no answer": "text"}).items():
        text = body if isinstance(body, str) else json.dumps(body)
        connection.execute("INSERT INTO receipts VALUES (?, 'f', ?, 2, ?)", (name, text, moment))
    migrate(connection, shipped_scripts())

    def receipts() -> set[str]:
        return {row[0] for row in connection.execute("SELECT key FROM receipts")}

    digests = [row[0] for row in connection.execute("SELECT digest FROM templates ORDER BY key")]
    expected = [template_digest(f"t{key}", f"s{key}", "default", "e", unit, 10.0) for key in (1, 2)]
    assert digests == [*expected, None], "a vector that is none must not be vouched for"
    assert receipts() == {"own", "names", "no answer"}
    connection.execute("DELETE FROM subjects WHERE key = 1")
    assert receipts() == {"own", "no answer"}
    connection.execute("DELETE FROM templates WHERE key = 2")
    assert receipts() == {"no answer"}
    assert connection.execute("SELECT COUNT(*) FROM receipt_templates").fetchone() == (0,)
