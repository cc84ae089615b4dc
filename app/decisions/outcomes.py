"""One comparison -> one decision: pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Decision(StrEnum):
    """Outcome of a comparison or a search."""

    MATCH = "match"
    NO_MATCH = "no_match"
    INCONCLUSIVE = "inconclusive"
    """The distance is not enough to decide; ``Reason`` says why."""


class Reason(StrEnum):
    """Why a decision is inconclusive."""

    WEAK_PROBE = "weak_probe"
    """The norm of the probe is so small that the same person would be missed far more often than usual."""
    WEAK_REFERENCE = "weak_reference"
    """The same for the reference, or for all templates of the subject."""
    AMBIGUOUS_SUBJECTS = "ambiguous_subjects"
    """Two subjects match at such similar distances that the nearer one is often the wrong one."""
    AMBIGUOUS_FACE = "ambiguous_face"
    """The photograph shows two faces of like size, and the one that was taken for the largest does not match."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A decision, and the reason if it is inconclusive or would be if that outcome were enabled."""

    decision: Decision
    reason: Reason | None = None


def for_ambiguous_face(outcome: Outcome) -> Outcome:
    """The outcome where the face compared was the largest of several of like size.

    Somebody else may be meant, so a ``no_match`` of this face says nothing: it becomes ``inconclusive``. A match says
    whose face it is, and stays one.
    """
    return Outcome(Decision.INCONCLUSIVE, Reason.AMBIGUOUS_FACE) if outcome.decision is Decision.NO_MATCH else outcome


def decide(distance: float, threshold: float) -> Decision:
    """``match`` when the squared distance (0..4) is at or below the threshold; NaN never matches."""
    return Decision.MATCH if distance <= threshold else Decision.NO_MATCH


def similarity(distance: float) -> float:
    """Cosine of two unit vectors from their squared distance: ``1 - distance / 2``, in -1..1."""
    return 1.0 - distance / 2.0
