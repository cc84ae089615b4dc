"""Every face with every other, and the threshold that a rate asks for: pure functions over numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator

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

    Each part is the number of its first row (and first column), the squared distances float32 [rows, columns], with
    ``crowding`` (float32 [N]) adjusted by it, and which of them are mated and which non-mated pairs, bool of the same
    shape.
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
    """Whether one false match among so many non-mated pairs is a share of ``fmr`` or less."""
    return _allowed(non_mated, fmr) >= 1


def threshold_at_fmr(non_mated: Floats, fmr: float) -> float:
    """The largest threshold ``t`` at which ``distance <= t`` accepts at most a share ``fmr`` of non-mated pairs.

    non_mated: ascending. The threshold lies just below the first distance that must be refused, so that it never
    accepts more than was asked for; where that distance is the smallest, it accepts nothing. Raises ValueError if
    the pairs are too few to measure ``fmr``.
    """
    allowed = _allowed(non_mated, fmr)
    if not can_show(non_mated, fmr):
        raise ValueError(f"{len(non_mated)} non-mated pairs cannot show a false match rate of {fmr:g}")
    if allowed >= len(non_mated):
        return float(non_mated[-1])
    return float(np.nextafter(np.float32(non_mated[allowed]), np.float32(-np.inf)))
