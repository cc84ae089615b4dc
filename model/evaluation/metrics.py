"""Rates of a verifier from its distances (ISO/IEC 19795-1): pure functions over numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.evaluation.pairs import Floats, Ints, can_show, pair_blocks, threshold_at_fmr

__all__ = [
    "PairDistances",
    "accepted_share",
    "all_pair_distances",
    "can_show",
    "pair_blocks",
    "tar_at_far",
    "threshold_at_fmr",
]


@dataclass(frozen=True, slots=True)
class PairDistances:
    """Squared distances of all unordered pairs of a labelled set, float32, each ascending."""

    mated: npt.NDArray[np.float32]
    non_mated: npt.NDArray[np.float32]


def all_pair_distances(
    embeddings: npt.NDArray[np.float32], identity: Ints, family: Ints | None = None, *, block: int = 1024
) -> PairDistances:
    """Compares every face with every other once.

    embeddings: unit-length [N, D]; identity: [N], all known. With ``family`` ([N], -1 unknown), non-mated pairs of one
    family are left out.
    """
    mated, non_mated = [], []
    for start, distances, same, other in pair_blocks(embeddings, identity, block):
        mated.append(distances[same])
        if family is None:
            non_mated.append(distances[other])
        else:
            own = family[start : start + len(distances), None]
            non_mated.append(distances[other & ((own != family[None, start:]) | (own < 0))])
    return PairDistances(np.sort(np.concatenate(mated)), np.sort(np.concatenate(non_mated)))


def accepted_share(sorted_distances: Floats, threshold: float) -> float:
    """Share of distances ``<= threshold``; the distances ascend. Raises ValueError if there are none."""
    if not len(sorted_distances):
        raise ValueError("there are no distances to take a share of")
    return float(np.searchsorted(sorted_distances, threshold, side="right") / len(sorted_distances))


def tar_at_far(pairs: PairDistances, far: float) -> float:
    """Share of mated pairs accepted at the threshold of ``threshold_at_fmr``, 0..1."""
    return accepted_share(pairs.mated, threshold_at_fmr(pairs.non_mated, far))
