from __future__ import annotations

import errno
import sqlite3
import stat
import threading
import time
from pathlib import Path

import pytest

from app.security.errors import SecurityStoreUnavailable
from app.security.secret import Secret, read_secret
from app.security.store import DATABASE_NAME, MOST_WAITING, SecurityStore, Statements
from app.security.trail import AuditTrail


def count(connection: Statements) -> int:
    return int(connection.execute("SELECT COUNT(*) FROM failures").fetchone()[0])


def insert(name: str, error: Exception | None = None):  # type: ignore[no-untyped-def]
    def change(connection: Statements) -> str:
        connection.execute("INSERT INTO failures VALUES (?, 1, '')", (name,))
        if error is not None:
            raise error
        return name

    return change


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_its_files_are_its_owners_alone(store: SecurityStore, tmp_path: Path) -> None:
    store.change(insert("a"))
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_change_that_fails_changes_nothing(store: SecurityStore) -> None:
    with pytest.raises(ZeroDivisionError):
        store.change(insert("a", ZeroDivisionError()))
    with store.reading() as connection:
        assert count(connection) == 0


def test_what_waits_is_written_before_it_closes(tmp_path: Path) -> None:
    store = SecurityStore(tmp_path)
    for number in range(3000):
        store.change_later(insert(str(number)))
    assert store.change_soon(insert("last")).result(30) == "last"
    store.close()
    reopened = SecurityStore(tmp_path, create=False)
    with reopened.reading() as connection:
        assert count(connection) == 3001
    reopened.close()


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_another_process_may_write_meanwhile(store: SecurityStore, tmp_path: Path) -> None:
    other = SecurityStore(tmp_path)
    other.change(insert("theirs"))
    store.change(insert("ours"))
    with store.reading() as connection:
        assert count(connection) == 2
    other.close()


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_a_database_that_is_held_is_reported_and_caught_up_with(store: SecurityStore, tmp_path: Path) -> None:
    holder = sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    store.change_later(insert("later"))
    with pytest.raises(SecurityStoreUnavailable, match="locked"):
        store.change_soon(insert("soon")).result(30)
    with pytest.raises(SecurityStoreUnavailable, match="locked"):
        store.check()
    holder.execute("COMMIT")
    holder.close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with store.reading() as connection:
            if count(connection) == 1:  # the awaited one was reported as failed, and is not written behind its back
                break
        time.sleep(0.05)
    store.change_soon(lambda _: None).result(30)
    store.check()


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_it_works_again_although_nothing_waits(store: SecurityStore, tmp_path: Path) -> None:
    holder = sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(SecurityStoreUnavailable, match="locked"):
        store.change_soon(insert("soon")).result(30)
    holder.execute("COMMIT")
    holder.close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            store.check()
            break
        except SecurityStoreUnavailable:
            time.sleep(0.05)
    store.check()


def test_whatever_fails_the_next_change_is_made(store: SecurityStore) -> None:
    with pytest.raises(SecurityStoreUnavailable):
        store.change_soon(insert("a", ZeroDivisionError("odd"))).result(30)
    assert store.change_soon(insert("b")).result(30) == "b"


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_a_full_disk_is_tried_again_when_there_is_room(store: SecurityStore) -> None:
    with store.reading() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(SecurityStoreUnavailable, match="full"):
        store.change(insert("x" * 100_000))

    def make_room() -> bool:
        store._connection.execute("PRAGMA max_page_count = 100000")
        return True

    store.make_room = make_room
    store.change(insert("x" * 100_000))
    with store.reading() as connection:
        assert count(connection) == 1


def test_no_more_wait_than_may(store: SecurityStore) -> None:
    gate = threading.Event()
    store.change_later(lambda _: gate.wait(30))
    for number in range(MOST_WAITING):
        store.change_later(insert(str(number)))
        if number == 0:
            time.sleep(0.2)  # the writer has begun, and takes nothing more
    try:
        with pytest.raises(SecurityStoreUnavailable, match="too many"):
            _fill(store)
    finally:
        gate.set()


def _fill(store: SecurityStore) -> None:
    for number in range(MOST_WAITING):
        store.change_later(insert(f"more {number}"))


def test_nothing_is_created_to_be_read(tmp_path: Path) -> None:
    with pytest.raises(SecurityStoreUnavailable, match="missing"):
        SecurityStore(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()


def test_a_lost_secret_is_not_replaced(tmp_path: Path) -> None:
    SecurityStore(tmp_path).close()
    (tmp_path / "secret.key").unlink()
    with pytest.raises(SecurityStoreUnavailable, match="secret"):
        SecurityStore(tmp_path)
    assert not (tmp_path / "secret.key").exists()


@pytest.mark.parametrize("text", ["", "12", "x" * 64, "00" * 33])
def test_a_secret_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    with pytest.raises(SecurityStoreUnavailable, match="hexadecimal"):
        read_secret(path, create=True)


def test_a_lost_database_is_not_replaced_by_one_without_keys(tmp_path: Path) -> None:
    SecurityStore(tmp_path).close()
    for path in tmp_path.glob(f"{DATABASE_NAME}*"):
        path.unlink()
    with pytest.raises(SecurityStoreUnavailable, match="are lost"):
        SecurityStore(tmp_path)


def test_another_secret_opens_a_trail_to_look_at_it_only(tmp_path: Path) -> None:
    SecurityStore(tmp_path).close()
    before = (tmp_path / DATABASE_NAME).read_bytes()
    (tmp_path / "another").write_text("ab" * 32)
    with pytest.raises(SecurityStoreUnavailable, match="TESSERA_SECURITY__SECRET_FILE"):
        SecurityStore(tmp_path, tmp_path / "another")
    looking = SecurityStore(tmp_path, tmp_path / "another", create=False, any_secret=True)
    assert "the secret is another one" in AuditTrail(looking).verify()[0]
    looking.close()
    assert (tmp_path / DATABASE_NAME).read_bytes() == before
    SecurityStore(tmp_path).close()


@pytest.mark.parametrize("failing", ["os.fsync", "sqlite3.connect"])
def test_a_first_start_on_a_full_disk_leaves_nothing_that_stops_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(failing, full)
        with pytest.raises(SecurityStoreUnavailable, match="No space left"):
            SecurityStore(tmp_path)
    assert not (tmp_path / "secret.key").exists()
    store = SecurityStore(tmp_path)
    store.change(insert("a"))
    store.close()


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    SecurityStore(tmp_path).close()
    connection = sqlite3.connect(tmp_path / DATABASE_NAME)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SecurityStoreUnavailable, match="version 99"):
        SecurityStore(tmp_path)


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    SecurityStore(tmp_path).close()
    (tmp_path / DATABASE_NAME).write_bytes(b"no database" * 1000)
    with pytest.raises(SecurityStoreUnavailable, match="cannot be opened"):
        SecurityStore(tmp_path)


def test_digests_of_different_things_differ() -> None:
    secret = Secret(bytes(32))
    digests = {
        secret.digest("a", "b", "c"),
        secret.digest("a", "bc"),
        secret.digest("a", "b\0", "c"),
        secret.digest("a", "b", "\0c"),
        secret.digest("ab", "c"),
        Secret(bytes([1] * 32)).digest("a", "b", "c"),
    }
    assert len(digests) == 6
