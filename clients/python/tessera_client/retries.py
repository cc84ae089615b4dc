"""When a request is sent again: decided here, without waiting or sending."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import httpx

from tessera_client.errors import TesseraError

LOCKED_OUT = "locked_out"
UNDER_WAY = "idempotency_conflict"
"""What a repeated enrolment gets while the first one is still being worked on."""
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Failures before anything was sent: repeating is always safe."""
FIRST_WAIT, LONGEST_WAIT = 0.25, 4.0


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and for how long at most, a request is repeated.

    Attributes:
        times: repetitions after the first attempt; 0 for none.
        seconds: no attempt begins later than this after the first one.
    """

    times: int = 3
    seconds: float = 30.0


class Schedule:
    """The attempts of one request."""

    def __init__(self, retries: Retries, *, repeatable: bool) -> None:
        """``repeatable``: sending the request twice does no harm, even if the first one was carried out."""
        self._left, self._repeatable, self._sent = retries.times, repeatable, 0
        self._end = time.monotonic() + retries.seconds

    def after_failure(self, failure: httpx.RequestError) -> float | None:
        """Seconds until the next attempt; None if there should be none."""
        if isinstance(failure, httpx.LocalProtocolError):  # no attempt can send it
            return None
        return self._next(None) if self._repeatable or isinstance(failure, NOT_SENT) else None

    def after_error(self, error: TesseraError) -> float | None:
        """Seconds until the next attempt; None if there should be none.

        Only what the service refused before it began has a ``Retry-After``. To wait out a lockout is for the caller.
        """
        if error.code == UNDER_WAY and self._sent:
            return self._next(None)
        if error.status not in {429, 503} or error.retry_after is None or error.code == LOCKED_OUT:
            return None
        return self._next(error.retry_after)

    def _next(self, asked: float | None) -> float | None:
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2**self._sent) if asked is None else asked
        # Clients that were refused together should not come back together.
        wait += random.uniform(0, 0.25 * wait)  # noqa: S311
        if self._left == 0 or time.monotonic() + wait > self._end:
            return None
        self._left, self._sent = self._left - 1, self._sent + 1
        return wait
