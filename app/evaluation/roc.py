"""True accept rates at false accept rates (TAR at FAR, as in published protocols), with intervals.

The intervals are those of ``app.evaluation.bootstrap``. Encoders compared on the same faces get the same draws, so that
their differences have intervals too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.evaluation.bootstrap import REPLICATES, bootstrap_weights
from app.evaluation.pairs import pair_blocks

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

KEPT_AT_LEAST = 100_000
"""Non-mated pairs: in a small set, a draw may leave out all subjects of the few nearest pairs."""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Squared distances with their subjects, mated and non-mated each ascending.

    mated: float32 [M], mated_subject: int64 [M] in 0..subjects-1. non_mated: float32 [T], non_mated_subjects: int64
    [T, 2]. With ``faces`` (int64 [subjects], number of faces of each), non_mated may hold only the nearest of all pairs
    of these faces; without it, non_mated holds all pairs.
    """

    mated: Floats
    mated_subject: Ints
    non_mated: Floats
    non_mated_subjects: Ints
    subjects: int
    faces: Ints | None = None

    def non_mated_total(self, weights: npt.NDArray[np.float64]) -> float:
        """Sum of the weights of all non-mated pairs, including those not listed."""
        if self.faces is None:
            return float(self._non_mated_weights(weights).sum())
        counts = weights * self.faces
        return float((counts.sum() ** 2 - np.square(counts).sum()) / 2)

    def shown(self, fars: Sequence[float]) -> tuple[float, ...]:
        """The false accept rates of at least one false accept that the listed pairs reach."""
        total = self.non_mated_total(np.ones(self.subjects))
        reach = len(self.non_mated) / total if self.faces is not None else np.inf
        return tuple(float(far) for far in fars if far * total >= 1 - 1e-9 and far < reach)

    def tar_at_far(self, fars: tuple[float, ...], weights: npt.NDArray[np.float64] | None = None) -> list[float]:
        """Weighted share of mated pairs accepted where at most ``far`` of the non-mated weight is, for each ``far``.

        ``weights``: float [subjects], 1 each if not given. Raises ValueError if the listed non-mated pairs do not reach
        ``far``.
        """
        weights = np.ones(self.subjects) if weights is None else weights
        genuine = np.concatenate([[0.0], np.cumsum(weights[self.mated_subject])])
        accepted = np.searchsorted(self.mated, self._limits(fars, weights), side="left")
        return [float(rate) for rate in genuine[accepted] / genuine[-1]]

    def threshold_at_far(self, far: float) -> float:
        """The distance below which at most a share ``far`` of the non-mated pairs lies; itself it is rejected.

        Raises ValueError as ``tar_at_far`` does.
        """
        return float(self._limits((far,), np.ones(self.subjects))[0])

    def _limits(self, fars: tuple[float, ...], weights: npt.NDArray[np.float64]) -> Floats:
        false_matches = np.cumsum(self._non_mated_weights(weights)) / self.non_mated_total(weights)
        refused = np.searchsorted(false_matches, np.array(fars) * (1 + 1e-9), side="right")
        if self.faces is not None and (refused == len(false_matches)).any():
            raise ValueError(
                f"the nearest {len(self.non_mated)} non-mated pairs are fewer than a share of {max(fars):g}"
            )
        return np.append(self.non_mated, np.float32(np.inf))[refused]

    def _non_mated_weights(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        first, second = self.non_mated_subjects.T
        product: npt.NDArray[np.float64] = weights[first] * weights[second]
        return product


def bootstrap_tar(comparisons: Comparisons, fars: tuple[float, ...], replicates: int = REPLICATES) -> Floats:
    """True accept rates at each false accept rate in each replicate, [replicates, len(fars)]."""
    rates = [
        comparisons.tar_at_far(fars, weights)
        for weights in bootstrap_weights(comparisons.subjects, replicates=replicates)
    ]
    return np.array(rates, dtype=np.float32)


def all_comparisons(
    embeddings: Floats,
    identity: Ints,
    *,
    deepest: float = 2e-3,
    at_least: int = KEPT_AT_LEAST,
    block: int = 1024,
) -> Comparisons:
    """All pairs of faces; only the nearest non-mated pairs are kept, for rates up to ``deepest``.

    embeddings: unit-length [N, D]; identity: [N], all known. About three times the share ``deepest`` of the pairs is
    kept, so that draws that favour far pairs reach it too, and about ``at_least`` pairs in any case.
    """
    labels, subject = np.unique(identity, return_inverse=True)
    faces = np.bincount(subject)
    total = (len(subject) ** 2 - float(np.square(faces).sum())) / 2
    limit = _limit(embeddings, subject, max(3 * deepest * total, at_least) / total) if total else np.inf
    mated, mated_rows, near, near_rows = [], [], [], []
    for start, distances, same, other in pair_blocks(embeddings, subject, block):
        a, b = np.nonzero(same)
        mated.append(distances[a, b])
        mated_rows.append(subject[start + a])
        a, b = np.nonzero(other & (distances <= limit))
        near.append(distances[a, b])
        near_rows.append(np.stack([subject[start + a], subject[start + b]], axis=1))
    mated_all, near_all = np.concatenate(mated), np.concatenate(near)
    mated_order, near_order = np.argsort(mated_all, kind="stable"), np.argsort(near_all, kind="stable")
    return Comparisons(
        mated=mated_all[mated_order],
        mated_subject=np.concatenate(mated_rows)[mated_order],
        non_mated=near_all[near_order],
        non_mated_subjects=np.concatenate(near_rows)[near_order],
        subjects=len(labels),
        faces=faces,
    )


def _limit(embeddings: Floats, subject: Ints, share: float) -> float:
    """A distance below which about a share ``share`` of the non-mated pairs lies; infinity for 1 or more."""
    if share >= 1:
        return np.inf
    rows = np.random.default_rng(0).permutation(len(embeddings))[:1500]
    distances = 2 - 2 * embeddings[rows] @ embeddings.T
    others = distances[subject[rows, None] != subject[None, :]]
    return float(np.quantile(others, share))
