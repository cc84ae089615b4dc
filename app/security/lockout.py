"""Limits failed verifications of one subject, as NIST SP 800-63B (section 5.2.3) asks of biometrics.

After five failures in a row the next attempt has to wait 30 seconds, and twice as long after each further failure, an
hour at most. A match resets the count. Attempts that are under way count as failures until they end, so that many at
once gain nothing.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.security.errors import LockedOut
from app.security.store import SecurityStore, Statements

FREE_FAILURES = 5
FIRST_DELAY = timedelta(seconds=30)
LONGEST_DELAY = timedelta(hours=1)
FORGOTTEN_AFTER = timedelta(days=30)
"""Failures of a subject that nobody tries any more are erased."""
NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class _Failures:
    count: int = 0
    pending: int = 0
    blocked_until: datetime = NEVER


@dataclass(slots=True)
class Attempt:
    """A verification under way; set ``matched`` if it succeeds."""

    matched: bool = False


class Lockout:
    """Counts failures by subject; they survive a restart. Callable from any thread."""

    def __init__(
        self, store: SecurityStore, *, enabled: bool = True, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._store, self._enabled, self._clock = store, enabled, clock
        self._lock = threading.Lock()
        self._forget_stored()
        with store.reading() as connection:
            rows = connection.execute("SELECT subject, count, blocked_until FROM failures").fetchall()
        self._failures = {
            subject: _Failures(count, blocked_until=datetime.fromisoformat(until)) for subject, count, until in rows
        }

    @contextmanager
    def attempt(self, collection: str, subject_id: str) -> Iterator[Attempt]:
        """One verification of a subject; it failed unless it matched or raised. Raises LockedOut."""
        attempt = Attempt()
        if not self._enabled:
            yield attempt
            return
        subject = self._name(collection, subject_id)
        begun = self._begin(subject)
        try:
            yield attempt
        except BaseException:
            self._end(subject, begun, failed=None)
            raise
        self._end(subject, begun, failed=not attempt.matched)

    def forget(self, collection: str, subject_id: str) -> None:
        """Erases the failures of an erased subject."""
        name = self._name(collection, subject_id)
        with self._lock:
            self._failures.pop(name, None)
        self._store.change_later(lambda connection: save_failures(connection, name, 0, NEVER))

    def forget_collection(self, collection: str) -> None:
        """Erases the failures of all subjects of an erased collection."""
        prefix = self._name(collection, "").partition(":")[0] + ":"
        with self._lock:
            for name in [name for name in self._failures if name.startswith(prefix)]:
                del self._failures[name]
        self._store.change_later(
            lambda connection: connection.execute("DELETE FROM failures WHERE subject LIKE ?", (prefix + "%",))
        )

    def forget_old(self) -> None:
        """Erases the failures of subjects that nobody has tried for long. Raises SecurityStoreUnavailable."""
        limit = self._clock() - FORGOTTEN_AFTER
        with self._lock:
            for name in [n for n, f in self._failures.items() if f.count and not f.pending and f.blocked_until < limit]:
                del self._failures[name]
        self._forget_stored()

    def _forget_stored(self) -> None:
        limit = (self._clock() - FORGOTTEN_AFTER).isoformat()
        self._store.change(
            lambda connection: connection.execute("DELETE FROM failures WHERE blocked_until < ?", (limit,))
        )

    def _name(self, collection: str, subject_id: str) -> str:
        """The pseudonyms of a collection and of a subject in it."""
        pseudonym = self._store.secret.pseudonym
        return f"{pseudonym(collection, '')}:{pseudonym(collection, subject_id)}"

    def _begin(self, subject: str) -> str:
        """Lets an attempt begin; what ``_end`` has to be told of it. Raises LockedOut."""
        with self._lock:
            known = self._failures.setdefault(subject, _Failures())
            # A clock that was set back must not lock anybody out for longer.
            known.blocked_until = min(known.blocked_until, self._clock() + LONGEST_DELAY)
            refuse_blocked(known.count, known.pending, known.blocked_until, self._clock())
            known.pending += 1
        return ""

    def _end(self, subject: str, _: str, *, failed: bool | None) -> None:
        """Records the outcome of an attempt; None: there was none."""
        with self._lock:
            known = self._failures.setdefault(subject, _Failures())
            known.pending = max(known.pending - 1, 0)
            if failed is None:
                changed = False
            elif failed:
                known.count += 1
                known.blocked_until = blocked_until(known.count, self._clock())
                changed = True
            else:
                changed = known.count > 0
                known.count, known.blocked_until = 0, NEVER
            count, until = known.count, known.blocked_until
            if not known.count and not known.pending:
                del self._failures[subject]
        if changed:
            self._store.change_later(lambda connection: save_failures(connection, subject, count, until))


def refuse_blocked(count: int, pending: int, until: datetime, now: datetime) -> None:
    """Raises LockedOut if no attempt may begin after so many failures, with so many attempts under way."""
    # Beyond the free failures one attempt at a time: each of them decides how long the next one waits.
    allowed = max(FREE_FAILURES - count, 1)
    if now < until or pending >= allowed:
        wait = max(1, math.ceil((until - now).total_seconds()))
        raise LockedOut(
            f"{count} verifications of this subject failed in a row, {pending} are under way; the next one may begin "
            f"in {wait} s.",
            retry_after=wait,
            failures=count,
        )


def blocked_until(count: int, now: datetime) -> datetime:
    """When the next attempt may begin after the last of so many failures."""
    over = count - FREE_FAILURES
    # A time even where nothing is blocked: how old the failures are.
    return now + min(FIRST_DELAY * 2 ** min(over, 20), LONGEST_DELAY) if over >= 0 else now


def save_failures(connection: Statements, subject: str, count: int, until: datetime) -> None:
    """Stores how often verifications of a subject failed in a row."""
    if count:
        connection.execute(
            """
            INSERT INTO failures (subject, count, blocked_until) VALUES (?, ?, ?)
            ON CONFLICT (subject) DO UPDATE SET count = excluded.count, blocked_until = excluded.blocked_until
            """,
            (subject, count, until.isoformat()),
        )
    else:
        connection.execute("DELETE FROM failures WHERE subject = ?", (subject,))
