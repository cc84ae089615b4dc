"""Damaged subjects: noticed when they are read, and looked for a few at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from app.gallery.protocol import GalleryUnavailable, SubjectDamaged, TemplateDamaged

AT_ONCE = 1000
"""Subjects that one review reads: a check takes some tens of milliseconds, however many there are."""
REVIEW_SECONDS = 1.0
"""Reviews are at least so far apart, however often somebody asks."""
MOST_KNOWN = 10_000
MOST_LOOKED_AT_AGAIN = 100
MOST_NAMED = 10

_LOGGER = logging.getLogger("tessera")

Place = TypeVar("Place")


@dataclass(frozen=True, slots=True)
class Damage:
    """A subject that cannot be compared: which of its templates are damaged; none: its record is."""

    subject: int
    subject_id: str
    collection: str
    templates: tuple[str, ...]

    def error(self) -> TemplateDamaged | SubjectDamaged:
        """What a comparison with the subject raises."""
        subject = f"subject {self.subject_id!r} in collection {self.collection!r}"
        details = {"collection": self.collection, "subject_id": self.subject_id}
        if not self.templates:
            return SubjectDamaged(
                f"The stored record of {subject} is damaged: replace its metadata, erase the subject, or restore a "
                "backup.",
                **details,
            )
        return TemplateDamaged(
            f"{len(self.templates)} stored template(s) of {subject} are damaged: enrol the subject again with "
            "on_conflict=replace, erase it, or restore a backup.",
            **details,
            templates=list(self.templates),
        )


OnDamage = Callable[[Damage], None]


def refuse(damage: Damage) -> None:
    """Raises the error of the damage."""
    raise damage.error()


def log_damage(damage: Damage) -> None:
    """One line of the log, which names nobody: it outlives erasures."""
    _LOGGER.error(
        "A subject of collection %r is damaged and left out of searches. %s", damage.collection, damage.error().reason
    )


class DamageWatch(Generic[Place]):
    """Knows damaged subjects until they are put right. Callable from any thread.

    start: the place where a review of all subjects begins.
    """

    def __init__(self, start: Place) -> None:
        self._known: dict[int, Damage] = {}
        self._reached = start
        self._reviewed = -REVIEW_SECONDS
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many are known."""
        return len(self._known)

    def knows(self, subject: int) -> bool:
        """Whether the subject with this key is known to be damaged."""
        return subject in self._known

    def found(self, damage: Damage) -> None:
        """Remembers a damaged subject; the same damage is logged once."""
        with self._lock:
            known = self._known.get(damage.subject)
            if known != damage and (known is not None or len(self._known) < MOST_KNOWN):
                log_damage(damage)
                self._known[damage.subject] = damage

    def forget(self, subjects: Iterable[int]) -> None:
        """These have been put right or erased."""
        with self._lock:
            for subject in subjects:
                self._known.pop(subject, None)

    def review(
        self,
        find: Callable[[Place, int, OnDamage], Place],
        is_damaged: Callable[[Damage], bool] | None = None,
    ) -> None:
        """Looks at the next subjects, going round, unless it just did.

        find: hands over the damaged ones of so many subjects after a place, and returns the place that it reached.
        is_damaged: whether a subject still is, for known ones that others may have put right.
        """
        with self._lock:
            if time.monotonic() < self._reviewed + REVIEW_SECONDS:
                return
            self._reviewed = time.monotonic()
            known, reached = list(islice(self._known.values(), MOST_LOOKED_AT_AGAIN)), self._reached
        if is_damaged is not None:
            self.forget([damage.subject for damage in known if not is_damaged(damage)])
        self._reached = find(reached, AT_ONCE, self.found)

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
