"""Confidence intervals of rates by resampling subjects, not comparisons.

Comparisons that share a subject are correlated, so resampling single comparisons gives intervals that are too narrow
(Bolle et al. 2004, "The subset bootstrap"; Wu 2017, NIST IR 8205). The mated comparisons of a subject drawn ``w`` times
count ``w`` times; a non-mated comparison counts the product of its two subjects' numbers of draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

REPLICATES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its bounds at ``CONFIDENCE``."""

    value: float
    low: float
    high: float


def bootstrap_weights(subjects: int, seed: int = 0, replicates: int = REPLICATES) -> list[npt.NDArray[np.float64]]:
    """How often each subject is drawn, float [subjects], for each replicate."""
    rng = np.random.default_rng([seed, subjects])
    chosen = (rng.integers(subjects, size=subjects) for _ in range(replicates))
    return [np.bincount(c, minlength=subjects).astype(np.float64) for c in chosen]


def by_rule_of_three(found: Interval, independent: int) -> Interval:
    """An interval, 3 / ``independent`` trials wide where none or all were errors: drawing anew then has no spread."""
    width = min(3 / max(independent, 1), 1.0)
    if found.value == 0:
        return Interval(0.0, 0.0, width)
    return Interval(1.0, 1 - width, 1.0) if found.value == 1 else found


def interval(value: float, replicates: Floats) -> Interval:
    """The middle ``CONFIDENCE`` of the replicates, float [R], around an estimate (percentile bootstrap).

    NaN replicates, from draws without a comparison to measure, are left out.
    """
    low, high = np.nanquantile(replicates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))
