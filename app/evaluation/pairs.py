"""All pairs of faces, and the threshold for a given rate (ISO/IEC 19795-1): pure functions over numpy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


def adjusted_distances(
    rows: npt.NDArray[np.float32],
    columns: npt.NDArray[np.float32],
    crowding_of_rows: npt.NDArray[np.float32],
    crowding_of_columns: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Squared distances plus the crowding of both faces (``app.crowding``): [R, D], [C, D], [R], [C] -> [R, C]."""
    distances: npt.NDArray[np.float32] = np.maximum(2 - 2 * rows @ columns.T, 0)
    return distances + crowding_of_rows[:, None] + crowding_of_columns[None, :]


def pair_blocks(
    embeddings: npt.NDArray[np.float32], identity: Ints, block: int, crowding: npt.NDArray[np.float32] | None = None
) -> Iterator[tuple[int, npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    """Every unordered pair once, ``block`` rows at a time.

    Yields the index of the block's first row (and first column), the squared distances float32 [rows, columns],
    adjusted if ``crowding`` (float32 [N]) is given, and two bool masks of the same shape: mated and non-mated pairs.
    """
    crowded = np.zeros(len(embeddings), dtype=np.float32) if crowding is None else crowding
    for start in range(0, len(embeddings), block):
        rows = np.arange(start, min(start + block, len(embeddings)))
        distances = adjusted_distances(embeddings[rows], embeddings[start:], crowded[rows], crowded[start:])
        later = np.arange(start, len(embeddings))[None, :] > rows[:, None]
        same = identity[rows, None] == identity[None, start:]
        yield start, distances, later & same, later & ~same


def _allowed(non_mated: Floats, fmr: float) -> int:
    return int(np.floor(fmr * len(non_mated) + 1e-9))


def can_show(non_mated: Floats, fmr: float) -> bool:
    """Whether there are enough non-mated pairs for one false match to be a share of ``fmr`` or less."""
    return _allowed(non_mated, fmr) >= 1


def threshold_at_fmr(non_mated: Floats, fmr: float) -> float:
    """The largest threshold ``t`` at which ``distance <= t`` accepts at most a share ``fmr`` of non-mated pairs.

    non_mated: ascending. The threshold lies just below the first distance that must be rejected, so it never accepts
    more than ``fmr``; if that distance is the smallest, it accepts nothing. Raises ValueError if there are too few
    pairs to measure ``fmr``.
    """
    allowed = _allowed(non_mated, fmr)
    if not can_show(non_mated, fmr):
        raise ValueError(f"{len(non_mated)} non-mated pairs cannot show a false match rate of {fmr:g}")
    if allowed >= len(non_mated):
        return float(non_mated[-1])
    return float(np.nextafter(np.float32(non_mated[allowed]), np.float32(-np.inf)))


@dataclass(frozen=True, slots=True)
class PairDistances:
    """Squared distances of all unordered pairs of a labelled set, float32, each ascending."""

    mated: npt.NDArray[np.float32]
    non_mated: npt.NDArray[np.float32]


def all_pair_distances(
    embeddings: npt.NDArray[np.float32],
    identity: Ints,
    family: Ints | None = None,
    *,
    crowding: npt.NDArray[np.float32] | None = None,
    block: int = 1024,
) -> PairDistances:
    """Compares every pair of faces once.

    embeddings: unit-length [N, D]; identity: [N], all known. With ``family`` ([N], -1 unknown), non-mated pairs within
    a family are left out. With ``crowding`` ([N]), distances are adjusted by it.
    """
    mated, non_mated = [], []
    for start, distances, same, other in pair_blocks(embeddings, identity, block, crowding):
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
    """Share of mated pairs accepted at the threshold from ``threshold_at_fmr``, 0..1."""
    return accepted_share(pairs.mated, threshold_at_fmr(pairs.non_mated, far))
