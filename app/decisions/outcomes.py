"""One comparison -> one decision: pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Decision(StrEnum):
    """Outcome of a comparison or of a search."""

    MATCH = "match"
    NO_MATCH = "no_match"
    INCONCLUSIVE = "inconclusive"
    """The distance does not say enough; ``Reason`` says why."""


class Reason(StrEnum):
    """Why a distance does not say enough."""

    WEAK_PROBE = "weak_probe"
    """The encoder finds so little in the probe that it would miss the same person far more often than usual."""
    WEAK_REFERENCE = "weak_reference"
    """Likewise of the reference, or of all templates of the subject."""
    AMBIGUOUS_SUBJECTS = "ambiguous_subjects"
    """Two subjects match, so nearly alike that the nearer one is often the wrong one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A decision, and the reason of one that is inconclusive, or would be if that were wanted."""

    decision: Decision
    reason: Reason | None = None


def decide(distance: float, threshold: float) -> Decision:
    """``match`` when the squared distance (0..4) is at or below the threshold; NaN never matches."""
    return Decision.MATCH if distance <= threshold else Decision.NO_MATCH


def similarity(distance: float) -> float:
    """Cosine of two unit vectors from their squared distance: ``1 - distance / 2``, in -1..1."""
    return 1.0 - distance / 2.0
