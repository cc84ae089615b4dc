"""How many requests a key or an address may send, counted in memory by the ``limits`` package."""

from __future__ import annotations

import ipaddress
import math
import time
from typing import Protocol

import limits
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from app.security.errors import RateLimited

RATE_PATTERN = r"^[1-9]\d{0,8} ?/ ?(second|minute|hour|day)$"
"""Such as ``100/minute``."""


class RateLimits(Protocol):
    """Counts requests over sliding windows. Callable from any thread."""

    @property
    def waits(self) -> bool:
        """Whether counting waits for something, so that it is not for the event loop."""
        ...

    def hit(self, rate: str, kind: str, who: str) -> None:
        """Counts one request. Raises RateLimited if it is one too many; one that is refused does not count."""
        ...


class LocalRateLimits:
    """``RateLimits`` of one process, in its memory."""

    waits = False

    def __init__(self) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def hit(self, rate: str, kind: str, who: str) -> None:
        """See ``RateLimits``."""
        if self._limiter.hit(limits.parse(rate), kind, who):
            return
        reset = self._limiter.get_window_stats(limits.parse(rate), kind, who).reset_time
        raise one_too_many(rate, kind, reset - time.time())


def one_too_many(rate: str, kind: str, wait: float) -> RateLimited:
    """The error for a request that has to wait so many seconds."""
    seconds = max(1, math.ceil(wait))
    return RateLimited(f"More than {rate} for one {kind}; wait {seconds} s.", retry_after=seconds, limit=rate)


def network_of(address: str) -> str:
    """An address as it is counted: IPv6 by its /64, which one host has for itself; what is no address as it is."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
