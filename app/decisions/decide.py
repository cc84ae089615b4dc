"""One comparison -> one decision: pure functions."""

from __future__ import annotations

from enum import StrEnum


class Decision(StrEnum):
    """Outcome of a comparison or of a search."""

    MATCH = "match"
    NO_MATCH = "no_match"


def decide(distance: float, threshold: float) -> Decision:
    """``match`` when the squared distance (0..4) is at or below the threshold; NaN never matches."""
    return Decision.MATCH if distance <= threshold else Decision.NO_MATCH


def similarity(distance: float) -> float:
    """Cosine of two unit vectors from their squared distance: ``1 - distance / 2``, in -1..1."""
    return 1.0 - distance / 2.0
