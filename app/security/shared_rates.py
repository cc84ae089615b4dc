"""How many requests a key or an address may send, counted in PostgreSQL for all replicas of the service together."""

from __future__ import annotations

import threading
import time

import limits

from app.postgres import constant
from app.security.postgres import PostgresSecurityStore
from app.security.rates import one_too_many

FORGET_SECONDS = 60.0
"""How often what does not count any more is deleted."""
MOST_REFUSED = 10_000
"""Refusals that a replica remembers."""

# Windows are numbered from 1970 by the database's clock. A request that waited for another one may come with the
# number of the window before.
_WINDOW = "floor(extract(epoch FROM now()) / %(seconds)s)::bigint"
_PASSED = f"((extract(epoch FROM now()) / %(seconds)s)::float8 - {_WINDOW})"
_EARLIER = """
    CASE WHEN r.number >= {now} THEN r.earlier WHEN r.number = {now} - 1 THEN r.count ELSE 0 END
"""
_COUNT = "CASE WHEN r.number >= {now} THEN r.count ELSE 0 END"
_HIT = constant(
    f"""
    INSERT INTO rates AS r (name, seconds, number, earlier, count) VALUES (%(name)s, %(seconds)s, {_WINDOW}, 0, 1)
    ON CONFLICT (name) DO UPDATE
    SET number = GREATEST(r.number, excluded.number), earlier = {_EARLIER.format(now="excluded.number")},
        count = {_COUNT.format(now="excluded.number")} + 1
    WHERE floor({_EARLIER.format(now="excluded.number")} * (1 - {_PASSED}))
          + {_COUNT.format(now="excluded.number")} < %(most)s
    RETURNING count
    """  # noqa: S608
)
_STATE = constant(
    f"""
    SELECT {_EARLIER.format(now=_WINDOW)}, {_COUNT.format(now=_WINDOW)}, {_PASSED} FROM rates r WHERE name = %(name)s
    """  # noqa: S608
)
_FORGET = "DELETE FROM rates WHERE (number + 2) * seconds < extract(epoch FROM now())"


class SharedRateLimits:
    """``RateLimits`` of all replicas together, over the same sliding windows as those of one process.

    One statement a request. Who was refused is refused here, without one, until another request may be let through.

    ``hit`` raises SecurityStoreUnavailable, too, when the database does not answer.
    """

    waits = True

    def __init__(self, store: PostgresSecurityStore) -> None:
        self._database, self._secret = store.database, store.secret
        self._lock = threading.Lock()
        self._refused: dict[bytes, float] = {}
        self._forgotten = time.monotonic()

    def hit(self, rate: str, kind: str, who: str) -> None:
        """See ``RateLimits``."""
        name = self._secret.digest("rate", rate, kind, who)[:16]
        now = time.monotonic()
        with self._lock:
            until = self._refused.get(name, now)
            forget = now > self._forgotten + FORGET_SECONDS
            self._forgotten = now if forget else self._forgotten
        if until > now:
            raise one_too_many(rate, kind, until - now)
        wait = self._count(name, rate, forget=forget)
        if wait is not None:
            self._refuse(name, now, wait)
            raise one_too_many(rate, kind, wait)

    def _count(self, name: bytes, rate: str, *, forget: bool) -> float | None:
        """Counts a request, unless it is one too many: then the seconds until another one is not."""
        parsed = limits.parse(rate)
        values = {"name": name, "seconds": parsed.get_expiry(), "most": parsed.amount}
        with self._database.reading() as connection:
            if forget:
                connection.execute(_FORGET)
            if connection.execute(_HIT, values).fetchone() is not None:
                return None
            row = connection.execute(_STATE, values).fetchone()
        return 0.0 if row is None else parsed.get_expiry() * _rest(parsed.amount, *row)

    def _refuse(self, name: bytes, now: float, wait: float) -> None:
        with self._lock:
            if len(self._refused) >= MOST_REFUSED:
                self._refused = {each: until for each, until in self._refused.items() if until > now}
            if len(self._refused) < MOST_REFUSED:
                self._refused[name] = now + wait


def _rest(most: int, earlier: int, count: int, passed: float) -> float:
    """Windows of time until one more request is let through.

    earlier, count: requests in the window before and in this one. passed: how much of this one is over, 0..1. Of the
    earlier ones, a share of 1 - ``passed`` counts.
    """
    if count < most:
        return max(0.0, 1 - (most - count) / max(earlier, 1) - passed)
    return 1 - passed
