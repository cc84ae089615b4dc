"""How many people and photographs each step needs, and what was measured with how many.

Only people with two photographs or more count: others have no pair to learn from or to be measured on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.commands import StoppedError
from model.data.face_set import UNLABELLED

TRAIN_PEOPLE = 32
"""The smallest batch among the recipes draws so many people."""
CALIBRATION_PEOPLE = 40
"""With fewer, no false match rate of one in a hundred can be claimed (``benchmarks.few_people``)."""
VALIDATION_PAIRS = 1000
"""Pairs of different people's photographs that show a false accept rate of 1e-3, the least that training reports."""

EXPECTATIONS = (
    "10,000 photographs of 1,000 people, random weights, triplets alone (textbook.toml): 85.57 % on LFW, and 1.33 % of "
    "true accepts at FAR 1e-5 on held-out people; no use in a service",
    "the same photographs from a published network's weights (textbook-from-start.toml): 99.37 % on LFW; at FAR 1e-5 "
    "49.98 %, where that network has 62.9 % untrained",
    "65,312 photographs from SFace's weights, held by what SFace says (tessera-l-2.toml): 99.43 % on LFW; at FAR 1e-5 "
    "65.25 % (SFace, centred, 64.43 %)",
)
"""Measured (docs/measured.md, docs/training.md); nothing smaller was."""
ADVICE = (
    "With fewer photographs nothing was measured: serve tessera-l or tessera-m, and measure its error rates on your "
    "people with `tessera calibrate`."
)


@dataclass(frozen=True, slots=True)
class Holdings:
    """How much there is of a split: ``people`` with two photographs or more, and all ``photographs``."""

    people: int
    photographs: int
    strangers: int = 0
    """Pairs of photographs of different people."""


def holdings(identity: npt.NDArray[np.int64]) -> Holdings:
    """Of int64 [N] identities, ``UNLABELLED`` where unknown."""
    counts = np.unique(identity[identity != UNLABELLED], return_counts=True)[1]
    known = int(counts.sum())
    strangers = (known * known - int(np.square(counts).sum())) // 2
    return Holdings(int((counts >= 2).sum()), len(identity), strangers)


def short_of_training(train: Holdings, people: int = TRAIN_PEOPLE, photographs: int = 0) -> list[str]:
    """What lacks for training in batches of so many people, or photographs; empty if nothing does."""
    if train.people < people:
        return [f"training needs {people} people with two photographs or more, there are {train.people}"]
    if train.photographs < photographs:
        return [f"training needs {photographs} photographs for one batch, there are {train.photographs}"]
    return []


def short_of_heldout(heldout: Holdings) -> list[str]:
    """What lacks for validation and calibration; empty if nothing does."""
    lacks = []
    if heldout.strangers < VALIDATION_PAIRS:
        lacks.append(
            f"held-out validation needs {VALIDATION_PAIRS:,} pairs of photographs of different people, the "
            f"{heldout.photographs} photographs held out make {heldout.strangers:,}"
        )
    return [*lacks, *short_of_calibration(heldout)]


def short_of_calibration(heldout: Holdings) -> list[str]:
    """What lacks for a false match rate of one in a hundred; empty if nothing does."""
    if heldout.people >= CALIBRATION_PEOPLE:
        return []
    return [
        f"calibration needs {CALIBRATION_PEOPLE} people with two photographs or more who are held out of training, to "
        f"claim a false match rate of 1 in 100; there are {heldout.people}"
    ]


def refuse_small(lacks: Sequence[str], remedy: str = "") -> None:
    """Raises StoppedError if anything lacks."""
    if lacks:
        raise StoppedError(
            f"too little to be of use: {'; '.join(lacks)}. {remedy}--small goes on all the same, to try the commands; "
            "what comes out is fit for nothing else"
        )
