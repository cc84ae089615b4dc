"""The audit trail: an append-only chain of records of who did what, when, with what outcome. No biometric data.

Each record's hash covers the one before it (HMAC-SHA256 with the installation's secret), and both ends are sealed, so
an edited, removed or reordered record is found, and a cut at either end. Whoever has the database *and* the secret
could write another chain: keep the hash of the last record elsewhere now and then (`tessera audit head`).
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from app.security.secret import Secret
from app.security.store import GENESIS, SecurityStore, Statements, seal, set_end

PRUNED = "prune_trail"

_PAGE = 1000
_BEFORE_ALL = -(2**63)

_End = tuple[int, bytes, bytes]
_Row = tuple[int, str, str, bytes]


@dataclass(frozen=True, slots=True)
class Entry:
    """What happened.

    actor: the id of a key, ``anonymous``, or ``command``. action: such as ``verify``. outcome: such as ``match``, or
    the code of an error. subject: its id, or its pseudonym. details: versions, counts; never anything biometric.
    """

    actor: str
    action: str
    outcome: str
    collection: str | None = None
    subject: str | None = None
    address: str | None = None
    request_id: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


class Receipt(NamedTuple):
    """The place of a record in the chain, and its hash: proof that it was written."""

    sequence: int
    hash: str


class TrailRecord(NamedTuple):
    """A stored record."""

    sequence: int
    at: str
    content: dict[str, Any]
    hash: str


DUPLICATE = "duplicate"
"""Detail of a record: another subject, who became part of the one that the record is of; written as that one is."""
ALSO = "also"
"""Detail of a record: further subjects whom a search found, separated by commas, which are in no id or pseudonym."""


class AuditTrail:
    """Appends to the chain, checks and reads it. Callable from any thread.

    plain_ids: write the ids of subjects; otherwise pseudonyms, so that nothing names a subject who was erased.
    """

    def __init__(
        self,
        store: SecurityStore,
        *,
        plain_ids: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._plain_ids, self._clock = store, plain_ids, clock

    def name_of(self, collection: str, subject_id: str) -> str:
        """How a subject is written."""
        return subject_id if self._plain_ids else self._store.secret.pseudonym(collection, subject_id)

    def record_later(self, entry: Entry) -> None:
        """Writes a record within about a second. Raises SecurityStoreUnavailable if too many wait."""
        self._store.change_later(self.appending(entry))

    def record(self, entry: Entry) -> Future[Receipt]:
        """Writes a record; the future is done when it is on disk."""
        return self._store.change_soon(self.appending(entry))

    def appending(self, entry: Entry) -> Callable[[Statements], Receipt]:
        """What appends a record, once, however often the store is given it: a try that failed may be stored."""
        at = self._clock().isoformat(timespec="milliseconds")
        content = {name: value for name, value in asdict(entry).items() if value not in (None, {})}
        written: Receipt | None = None

        def change(connection: Statements) -> Receipt:
            nonlocal written
            # What was tried before may be stored all the same: its commit was not confirmed, or the answer was lost.
            if written is None or not _has(connection, written):
                written = append(connection, self._store.secret, at, content)
            return written

        return change

    def head(self) -> Receipt | None:
        """The last record; None if there is none."""
        with self._store.reading() as connection:
            end = _end(connection, "head")
        return None if end is None or end[0] == 0 else Receipt(end[0], end[1].hex())

    def length(self) -> int:
        """How many records there are, without pruned ones. Raises SecurityStoreUnavailable."""
        with self._store.reading() as connection:
            start, head = _end(connection, "start"), _end(connection, "head")
        return (head[0] if head else 0) - (start[0] if start else 0)

    def records(self, *, subject: str | None = None) -> Iterator[TrailRecord]:
        """All records, oldest first, or those that name a subject as ``name_of`` does."""
        after = _BEFORE_ALL
        while True:
            with self._store.reading() as connection:
                rows = _page(connection, after)
            if not rows:
                return
            after = rows[-1][0]
            for sequence, at, text, digest in rows:
                content = json.loads(text)
                if subject is None or subject in _named(content):
                    yield TrailRecord(sequence, at, content, digest.hex())

    def prune(self, days: int) -> int:
        """Removes records older than this many days and records that; returns how many."""
        limit = (self._clock() - timedelta(days=days)).isoformat(timespec="milliseconds")

        def change(connection: Statements) -> int:
            # Only what lies before every record that is kept: a clock that was wrong for a moment removes nothing.
            last = connection.execute(
                """
                SELECT sequence, hash FROM trail
                WHERE sequence < COALESCE((SELECT MIN(sequence) FROM trail WHERE at >= ?), 9223372036854775807)
                ORDER BY sequence DESC LIMIT 1
                """,
                (limit,),
            ).fetchone()
            if last is None:
                return 0
            count = connection.execute("DELETE FROM trail WHERE sequence <= ?", (last[0],)).rowcount
            set_end(connection, self._store.secret, "start", last[0], last[1])
            details = {"records": count, "before": limit}
            self.appending(Entry("service", PRUNED, "done", details=details))(connection)
            return int(count)

        removed: int = self._store.change(change)
        return removed

    def verify(self, expected: Receipt | None = None) -> list[str]:
        """What is wrong with the chain; empty if nothing is. ``expected``: a record that must be in it."""
        return verify_chain(self._store, expected)


def _named(content: dict[str, Any]) -> set[str]:
    """The subjects whom a record names."""
    details = content.get("details", {})
    return {content.get("subject"), details.get(DUPLICATE), *details.get(ALSO, "").split(",")} - {None, ""}


def append(connection: Statements, secret: Secret, at: str, content: dict[str, Any]) -> Receipt:
    """Appends a record inside the caller's transaction."""
    head = _end(connection, "head") or (0, GENESIS, b"")
    sequence, text = head[0] + 1, json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = _link(secret, head[1], sequence, at, text)
    connection.execute(
        "INSERT INTO trail (sequence, at, record, hash) VALUES (?, ?, ?, ?)", (sequence, at, text, digest)
    )
    set_end(connection, secret, "head", sequence, digest)
    return Receipt(sequence, digest.hex())


def verify_chain(store: SecurityStore, expected: Receipt | None) -> list[str]:
    """See ``AuditTrail.verify``; stops at the first broken link, since all after it are in doubt."""
    with store.snapshot() as connection:
        return _problems(connection, store.secret, expected)


def _problems(connection: Statements, secret: Secret, expected: Receipt | None) -> list[str]:
    start, head = _end(connection, "start"), _end(connection, "head")
    if head is None:
        return ["the trail has no head, which even an empty one has: it was removed"]
    if broken := _broken_seals(secret, start, head):
        return broken
    sequence, digest = (start[0], start[1]) if start else (0, GENESIS)
    if expected is not None and expected.sequence < sequence:
        return [f"record {expected.sequence} was pruned, so nothing can be said about it"]
    found = expected is None or (sequence, digest.hex()) == expected
    for number, at, text, stored in _all(connection):
        link = _link(secret, digest, number, at, text)
        if number != sequence + 1:
            return [f"records {sequence + 1} to {number - 1} are missing"]
        if not hmac.compare_digest(link, stored):
            return [f"record {number} was changed, or one before it"]
        sequence, digest = number, link
        found = found or (number, link.hex()) == expected
    problems = []
    if head[:2] != (sequence, digest):
        problems.append(f"the trail ends at record {sequence}, but {head[0]} were written")
    elif not found and expected is not None:
        problems.append(f"record {expected.sequence} with hash {expected.hash} is not in the trail")
    return problems


def _page(connection: Statements, after: int) -> list[_Row]:
    """The next records by sequence: the client of PostgreSQL holds all that one statement gives in memory."""
    rows: list[_Row] = connection.execute(
        "SELECT sequence, at, record, hash FROM trail WHERE sequence > ? ORDER BY sequence LIMIT ?", (after, _PAGE)
    ).fetchall()
    return rows


def _all(connection: Statements) -> Iterator[_Row]:
    after = _BEFORE_ALL
    while rows := _page(connection, after):
        yield from rows
        after = rows[-1][0]


def _has(connection: Statements, receipt: Receipt) -> bool:
    row = connection.execute("SELECT hash FROM trail WHERE sequence = ?", (receipt.sequence,)).fetchone()
    return row is not None and bytes(row[0]).hex() == receipt.hash


def _broken_seals(secret: Secret, start: _End | None, head: _End) -> list[str]:
    return [
        f"the seal of the {name} of the trail does not fit: it was changed, or the secret is another one "
        "(TESSERA_SECURITY__SECRET_FILE)"
        for name, end in (("start", start), ("head", head))
        if end is not None and not hmac.compare_digest(end[2], seal(secret, name, end[0], end[1]))
    ]


def _link(secret: Secret, previous: bytes, sequence: int, at: str, text: str) -> bytes:
    return secret.digest("trail", previous.hex(), str(sequence), at, text)


def _end(connection: Statements, name: str) -> _End | None:
    row: _End | None = connection.execute(
        "SELECT sequence, hash, seal FROM trail_ends WHERE name = ?", (name,)
    ).fetchone()
    return row
