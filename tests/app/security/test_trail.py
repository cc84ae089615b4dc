from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.security.store import SecurityStore, Statements
from app.security.trail import PRUNED, AuditTrail, Entry, Receipt, append
from tests.app.security.conftest import second


@pytest.fixture
def trail(store: SecurityStore) -> AuditTrail:
    return AuditTrail(store)


def write(trail: AuditTrail, count: int) -> list[Receipt]:
    return [
        trail.record(Entry("k1", "verify", "match", "default", trail.name_of("default", f"s{number}"))).result(30)
        for number in range(count)
    ]


def test_an_empty_trail_is_whole(trail: AuditTrail) -> None:
    assert trail.verify() == []
    assert trail.head() is None


def test_records_are_numbered_linked_and_come_back(trail: AuditTrail) -> None:
    receipts = write(trail, 5)
    assert [r.sequence for r in receipts] == [1, 2, 3, 4, 5]
    assert trail.verify() == []
    assert trail.head() == receipts[-1]
    assert all(trail.verify(receipt) == [] for receipt in receipts)
    records = list(trail.records())
    assert [r.hash for r in records] == [r.hash for r in receipts]
    assert records[0].content == {
        "actor": "k1",
        "action": "verify",
        "outcome": "match",
        "collection": "default",
        "subject": trail.name_of("default", "s0"),
    }
    assert [r.sequence for r in trail.records(subject=trail.name_of("default", "s3"))] == [4]


TAMPERINGS = {
    "edited": ["UPDATE trail SET record = replace(record, 'match', 'no_match') WHERE sequence = 3"],
    "edited at the end": ["UPDATE trail SET record = '{}' WHERE sequence = 5"],
    "moved in time": ["UPDATE trail SET at = '2020-01-01' WHERE sequence = 2"],
    "another hash": ["UPDATE trail SET hash = ? WHERE sequence = 5"],
    "removed": ["DELETE FROM trail WHERE sequence = 3"],
    "cut at the start": ["DELETE FROM trail WHERE sequence <= 2"],
    "cut at the end": ["DELETE FROM trail WHERE sequence >= 4"],
    "removed whole": ["DELETE FROM trail", "DELETE FROM trail_ends"],
    "emptied": ["DELETE FROM trail"],
    "reordered": [
        "UPDATE trail SET sequence = 99 WHERE sequence = 2",
        "UPDATE trail SET sequence = 2 WHERE sequence = 3",
        "UPDATE trail SET sequence = 3 WHERE sequence = 99",
    ],
    "added": ["INSERT INTO trail VALUES (6, '2030', '{}', ?)"],
    "no head": ["DELETE FROM trail_ends"],
    "cut, with another head": [
        "DELETE FROM trail WHERE sequence >= 4",
        "UPDATE trail_ends SET sequence = 3, hash = (SELECT hash FROM trail WHERE sequence = 3)",
    ],
    "cut, with a start": [
        "INSERT INTO trail_ends SELECT 'start', 2, hash, hash FROM trail WHERE sequence = 2",
        "DELETE FROM trail WHERE sequence <= 2",
    ],
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_found(store: SecurityStore, trail: AuditTrail, name: str) -> None:
    write(trail, 5)
    # Straight into the database, as somebody with access to its file would.
    with store.reading() as connection:
        for statement in TAMPERINGS[name]:
            connection.execute(statement, (bytes(32),) if "?" in statement else ())
    assert trail.verify() != []


def test_an_older_copy_is_found_by_a_receipt_kept_elsewhere(tmp_path: Path) -> None:
    store = SecurityStore(tmp_path)
    write(AuditTrail(store), 3)
    store.close()
    copy = (tmp_path / "security.sqlite3").read_bytes()
    store = SecurityStore(tmp_path)
    receipt = write(AuditTrail(store), 2)[-1]
    store.close()
    (tmp_path / "security.sqlite3").write_bytes(copy)
    store = SecurityStore(tmp_path)
    trail = AuditTrail(store)
    assert trail.verify() == []
    assert "not in the trail" in trail.verify(receipt)[0]
    store.close()


def test_old_records_go_and_the_rest_stays_whole(store: SecurityStore) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    trail = AuditTrail(store, clock=lambda: now)
    old = write(trail, 4)
    now += timedelta(days=20)
    kept = write(trail, 3)
    assert trail.prune(30) == 0
    now += timedelta(days=15)
    assert trail.prune(30) == 4
    assert trail.verify() == []
    assert trail.verify(kept[0]) == []
    assert trail.verify(old[-1]) == []  # what the chain begins with is known
    assert "pruned" in trail.verify(old[0])[0]
    records = list(trail.records())
    assert [r.sequence for r in records] == [5, 6, 7, 8]
    assert records[-1].content["action"] == PRUNED
    assert records[-1].content["details"]["records"] == 4
    assert trail.prune(30) == 0


def test_a_clock_that_was_wrong_for_a_moment_removes_nothing(store: SecurityStore) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    trail = AuditTrail(store, clock=lambda: now)
    write(trail, 3)
    now = datetime(1970, 1, 1, tzinfo=UTC)
    write(trail, 1)
    now = datetime(2030, 1, 5, tzinfo=UTC)
    write(trail, 1)
    assert trail.prune(30) == 0
    assert len(list(trail.records())) == 5
    assert trail.verify() == []


def test_the_trail_goes_on_after_all_of_it_was_pruned(store: SecurityStore) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    trail = AuditTrail(store, clock=lambda: now)
    write(trail, 4)
    now += timedelta(days=100)
    assert trail.prune(30) == 4
    assert write(trail, 1)[0].sequence == 6
    assert trail.verify() == []


def test_two_writers_make_one_chain(store: SecurityStore, tmp_path: Path) -> None:
    other_store = second(store, tmp_path)
    trail, other = AuditTrail(store), AuditTrail(other_store)
    futures = [t.record(Entry("k", "verify", "match")) for _ in range(50) for t in (trail, other)]
    assert sorted(future.result(30).sequence for future in futures) == list(range(1, 101))
    assert trail.verify() == []
    other_store.close()


@pytest.mark.parametrize("plain", [False, True])
def test_ids_are_written_as_asked(tmp_path: Path, plain: bool) -> None:
    store = SecurityStore(tmp_path)
    trail = AuditTrail(store, plain_ids=plain)
    trail.record(Entry("k", "verify", "match", "default", trail.name_of("default", "ada-lovelace"))).result(30)
    store.close()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert (b"ada-lovelace" in written) is plain


class Counting:
    """Statements, and how many rows each of them gave."""

    def __init__(self, connection: Statements) -> None:
        self._connection, self.rows = connection, list[int]()

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Any:
        rows = self._connection.execute(statement, values).fetchall()
        self.rows.append(len(rows))
        return Fetched(rows)


class Fetched(list[Any]):
    rowcount = -1

    def fetchone(self) -> Any:
        return self[0] if self else None

    def fetchall(self) -> list[Any]:
        return self


def test_a_long_trail_is_checked_a_page_at_a_time(
    store: SecurityStore, trail: AuditTrail, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = "2026-03-01T12:00:00.000+00:00"
    store.change(lambda connection: [append(connection, store.secret, at, {"number": n}) for n in range(2500)])
    snapshot, counted = store.snapshot, list[Counting]()

    @contextmanager
    def counting() -> Iterator[Counting]:
        with snapshot() as connection:
            counted.append(Counting(connection))
            yield counted[-1]

    monkeypatch.setattr(store, "snapshot", counting)
    assert trail.verify() == []
    assert (max(counted[0].rows), sum(counted[0].rows) >= 2500) == (1000, True)
    store.change(lambda connection: connection.execute("DELETE FROM trail WHERE sequence BETWEEN 1000 AND 1001"))
    assert trail.verify() == ["records 1000 to 1001 are missing"]
    store.change(lambda connection: connection.execute("UPDATE trail SET record = ? WHERE sequence = 999", ("{}",)))
    assert trail.verify() == ["record 999 was changed, or one before it"]


def test_a_record_that_is_given_again_is_written_once(store: SecurityStore, trail: AuditTrail) -> None:
    append_it = trail.appending(Entry("k1", "erase", "done"))
    first = store.change_soon(append_it).result(30)
    store.change_later(append_it)
    write(trail, 1)
    assert (trail.length(), trail.head() is not None, first.sequence) == (2, True, 1)
    assert trail.verify() == []
