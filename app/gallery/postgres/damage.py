"""Which subjects are damaged: noticed when they are read, and looked for a few at a time."""

from __future__ import annotations

import threading
import time
from itertools import islice

from app.gallery.postgres.templates import find_damage, is_damaged
from app.gallery.protocol import GalleryUnavailable
from app.gallery.sqlite.templates import Damage, log_damage
from app.postgres import Connection

AT_ONCE = 1000
"""Subjects that one review reads: a check takes some tens of milliseconds, however many there are."""
REVIEW_SECONDS = 1.0
"""Reviews are at least so far apart, however often somebody asks."""
MOST_KNOWN = 10_000
MOST_LOOKED_AT_AGAIN = 100
MOST_NAMED = 10


class DamageWatch:
    """Knows damaged subjects until they are put right. Callable from any thread."""

    def __init__(self) -> None:
        self._known: dict[int, Damage] = {}
        self._reached = (0, 0)
        self._reviewed = -REVIEW_SECONDS
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many are known."""
        return len(self._known)

    def found(self, damage: Damage) -> None:
        """Remembers a damaged subject; it is logged once."""
        with self._lock:
            if damage.subject not in self._known and len(self._known) < MOST_KNOWN:
                log_damage(damage)
                self._known[damage.subject] = damage

    def review(self, connection: Connection) -> None:
        """Looks at the next subjects, going round, and at those that are known, whether they are still damaged."""
        with self._lock:
            if time.monotonic() < self._reviewed + REVIEW_SECONDS:
                return
            self._reviewed = time.monotonic()
            known, reached = list(islice(self._known.values(), MOST_LOOKED_AT_AGAIN)), self._reached
        mended = [damage.subject for damage in known if not is_damaged(connection, damage)]
        damaged, reached = find_damage(connection, reached, AT_ONCE)
        with self._lock:
            self._reached = reached
            for subject in mended:
                self._known.pop(subject, None)
        for damage in damaged:
            self.found(damage)

    def refuse(self) -> None:
        """Raises GalleryUnavailable, which names subjects, if any are known to be damaged."""
        with self._lock:
            damaged = list(self._known.values())
        if not damaged:
            return
        named = " ".join(damage.error().message for damage in damaged[:MOST_NAMED])
        more = f" And {len(damaged) - MOST_NAMED} more." if len(damaged) > MOST_NAMED else ""
        error = GalleryUnavailable(f"{len(damaged)} subject(s) are damaged and left out of searches. {named}{more}")
        error.names_subjects = True
        raise error
