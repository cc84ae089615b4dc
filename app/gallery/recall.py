"""Are approximate searches right? Measured while they are served."""

from __future__ import annotations

import logging
from threading import Lock

from app.types import RecallAudit

_LOGGER = logging.getLogger(__name__)


class RecallWatch:
    """Chooses the searches that are to be done exactly as well, counts how often both agree, and judges the guide.

    A new guide is on probation: its first searches are all audited, ``probation`` of them, and afterwards one in
    ``every``. From the end of the probation on a guide whose share of agreement is below ``floor`` has failed, with a
    warning; the next guide starts anew. Every method may be called from several threads at once.
    """

    def __init__(self, *, every: int, probation: int, floor: float) -> None:
        self._every, self._probation, self._floor = every, probation, floor
        self._lock = Lock()
        self._searches = self._audited = self._agreed = 0
        self._chosen = self._audited_of_guide = self._agreed_of_guide = 0
        self._failed = False

    @property
    def failed(self) -> bool:
        """Whether the guide may not be used any more."""
        return self._failed

    @property
    def audit(self) -> RecallAudit:
        """What was counted of all guides."""
        with self._lock:
            return RecallAudit(self._searches, self._audited, self._agreed)

    def renew(self) -> None:
        """Says that there is a new guide."""
        with self._lock:
            self._chosen = self._audited_of_guide = self._agreed_of_guide = 0
            self._failed = False

    def chooses(self) -> bool:
        """Counts a search by the guide; whether it is to be audited."""
        with self._lock:
            self._searches += 1
            chosen = self._chosen < self._probation or self._searches % self._every == 0
            self._chosen += chosen
            return chosen

    def record(self, agreed: bool) -> None:
        """Counts an audit."""
        with self._lock:
            self._audited += 1
            self._agreed += agreed
            self._audited_of_guide += 1
            self._agreed_of_guide += agreed
            if self._failed or self._audited_of_guide < self._probation:
                return
            self._failed = self._agreed_of_guide < self._floor * self._audited_of_guide
            if self._failed:
                _LOGGER.warning(
                    "Approximate searches agreed with exact ones in %d of %d audits: searches are exact until the "
                    "next guide is built.",
                    self._agreed_of_guide,
                    self._audited_of_guide,
                )
