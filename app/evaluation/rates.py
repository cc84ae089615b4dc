"""Error rates at thresholds, with bootstrap intervals over subjects.

Counts are kept for every pair of subjects, so that a bootstrap replicate is a matrix product instead of another pass
over tens of millions of pairs. The intervals are those of ``app.evaluation.bootstrap``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.crowding import Crowding
from app.evaluation.bootstrap import REPLICATES, Interval, bootstrap_weights, by_rule_of_three, interval
from app.evaluation.pairs import adjusted_distances, pair_blocks

MOST_COUNTS = 2**26
"""About how many numbers of comparisons are kept at once, by pair of subjects and threshold; 4 bytes each."""
ROWS = 256

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Masks = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Block:
    """Comparisons of templates (rows) with probes (columns).

    distances: squared, plus the crowding of both faces, float32 [R, C]. rows, columns: int64 [R] and [C], the subject
    of each, 0..subjects-1. mated, non_mated: bool [R, C], which comparisons count as mated and non-mated; a face is not
    compared with itself.
    """

    distances: Floats
    rows: Ints
    columns: Ints
    mated: Masks
    non_mated: Masks


Blocks = Callable[[], Iterator[Block]]
"""Yields the same comparisons on each call."""


def single_templates(embeddings: Floats, subject: Ints, crowding: Floats, *, block: int = 1024) -> Blocks:
    """Every pair of faces once: unit-length [N, D], int64 [N] and float32 [N]."""

    def blocks() -> Iterator[Block]:
        for start, distances, same, other in pair_blocks(embeddings, subject, block, crowding):
            yield Block(distances, subject[start : start + len(distances)], subject[start:], same, other)

    return blocks


def several_templates(
    embeddings: Floats,
    subject: Ints,
    crowding: Crowding,
    templates: int,
    fuse: Callable[[Floats], Floats],
    *,
    repeats: int,
    seed: int = 0,
) -> Blocks:
    """Subjects of ``templates`` faces, drawn at random ``repeats`` times, compared with all faces not drawn.

    Only subjects with more faces than that are enrolled; all subjects are probes. ``fuse`` maps [S, templates, D] to
    the vectors compared, [S, M, D]; the nearest of the M counts, crowding included.
    """
    own = crowding(embeddings)
    members = [np.flatnonzero(subject == s) for s in range(int(subject.max()) + 1)]
    enrolled = np.array([s for s, faces in enumerate(members) if len(faces) > templates], dtype=np.int64)

    def blocks() -> Iterator[Block]:
        for repeat in range(repeats):
            rng = np.random.default_rng([seed, templates, repeat])
            chosen = np.stack([rng.choice(members[s], templates, replace=False) for s in enrolled])
            fused = fuse(embeddings[chosen])
            nearest = np.min(
                [
                    adjusted_distances(fused[:, m], embeddings, crowding(fused[:, m]), own)
                    for m in range(fused.shape[1])
                ],
                axis=0,
            )
            same = enrolled[:, None] == subject[None, :]
            other = ~same
            same[np.arange(len(enrolled))[:, None], chosen] = False
            yield Block(nearest, enrolled, subject, same, other)

    return blocks


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of comparisons at or below each of T ascending thresholds.

    thresholds: float [T]. mated: int [S, T] and mated_total: int [S], by subject. non_mated: int [S, S, T] and
    non_mated_total: int [S, S], by the subjects of template and probe.
    """

    thresholds: Floats
    mated: npt.NDArray[np.int32]
    mated_total: Ints
    non_mated: npt.NDArray[np.int32]
    non_mated_total: npt.NDArray[np.int32]

    def among(self, chosen: Masks) -> Counts:
        """Only the comparisons between these pairs of subjects, bool [S, S]; mated ones where the diagonal is set."""
        own = np.diagonal(chosen)
        return Counts(
            self.thresholds,
            self.mated * own[:, None],
            self.mated_total * own,
            self.non_mated * chosen[:, :, None],
            self.non_mated_total * chosen,
        )

    @property
    def pairs_of_subjects(self) -> int:
        """How many pairs of subjects were compared, whichever of the two was the template."""
        either = self.non_mated_total + self.non_mated_total.T
        return int(np.count_nonzero(np.triu(either, 1)))

    def false_match_rates(self) -> npt.NDArray[np.float64]:
        """Share of non-mated comparisons at or below each threshold, [T]; NaN where there are none."""
        return self._share(self.non_mated.sum(axis=(0, 1), dtype=np.int64), int(self.non_mated_total.sum()))

    def false_non_match_rates(self) -> npt.NDArray[np.float64]:
        """Share of mated comparisons above each threshold, [T]; NaN where there are none."""
        return 1 - self._share(self.mated.sum(axis=0, dtype=np.int64), int(self.mated_total.sum()))

    @staticmethod
    def _share(counts: Ints, total: int) -> npt.NDArray[np.float64]:
        return counts / total if total else np.full(len(counts), np.nan)

    def intervals(self, replicates: int = REPLICATES) -> tuple[list[Interval], list[Interval]]:
        """Intervals of the false match rate and of the false non-match rate at each threshold.

        Where nothing was counted, up to the rule of three over pairs of subjects, and over subjects.
        """
        weights = np.array(bootstrap_weights(len(self.mated_total), replicates=replicates), dtype=np.float32)
        total = np.einsum("rs,rs->r", weights @ self.non_mated_total.astype(np.float32), weights)
        genuine = weights @ self.mated_total.astype(np.float32)
        false_matches, false_non_matches = [], []
        pairs, people = self.pairs_of_subjects, int(np.count_nonzero(self.mated_total))
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            # Without comparisons there is no rate: NaN.
            warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
            for t, (fmr, fnmr) in enumerate(zip(self.false_match_rates(), self.false_non_match_rates(), strict=True)):
                accepted = np.einsum("rs,rs->r", weights @ self.non_mated[:, :, t].astype(np.float32), weights)
                false_matches.append(by_rule_of_three(interval(float(fmr), accepted / total), pairs))
                found = weights @ self.mated[:, t].astype(np.float32)
                false_non_matches.append(by_rule_of_three(interval(float(fnmr), 1 - found / genuine), people))
        return false_matches, false_non_matches


def count(blocks: Blocks, subjects: int, thresholds: Sequence[float]) -> Counts:
    """Counts comparisons at or below each threshold; the thresholds ascend."""
    limits = np.array(thresholds, dtype=np.float32)
    bins = len(limits) + 1
    mated = np.zeros(subjects * bins, dtype=np.int64)
    non_mated = np.zeros(subjects * subjects * bins, dtype=np.int32)
    for part in blocks():
        for start in range(0, len(part.rows), ROWS):
            own = slice(start, start + ROWS)
            place = np.searchsorted(limits, part.distances[own], side="left")
            row, column = np.nonzero(part.mated[own])
            mated += np.bincount(part.rows[own][row] * bins + place[row, column], minlength=len(mated))
            row, column = np.nonzero(part.non_mated[own])
            pair = part.rows[own][row] * subjects + part.columns[column]
            np.add.at(non_mated, pair * bins + place[row, column], 1)
    by_subject = mated.reshape(subjects, bins)
    by_pair = non_mated.reshape(subjects, subjects, bins)
    np.cumsum(by_pair, axis=2, out=by_pair)
    return Counts(
        thresholds=limits,
        mated=by_subject[:, :-1].cumsum(axis=1).astype(np.int32),
        mated_total=by_subject.sum(axis=1),
        non_mated=by_pair[:, :, :-1],
        non_mated_total=by_pair[:, :, -1],
    )


def count_in_parts(blocks: Blocks, subjects: int, thresholds: Sequence[float]) -> Iterator[Counts]:
    """``count`` for as many thresholds at a time as ``MOST_COUNTS`` allows: the memory does not grow with them."""
    at_once = max(MOST_COUNTS // subjects**2 - 1, 1)
    for start in range(0, len(thresholds), at_once):
        yield count(blocks, subjects, thresholds[start : start + at_once])


def non_mated_distances(blocks: Blocks) -> Floats:
    """The distances of all non-mated comparisons, ascending."""
    return np.sort(np.concatenate([part.distances[part.non_mated] for part in blocks()]))


def count_by_weaker(
    embeddings: Floats, subject: Ints, crowding: Floats, band: Ints, bands: int, threshold: float
) -> list[Counts]:
    """Counts over all pairs of faces at one threshold, separately for each band of the weaker of the two.

    embeddings: unit-length [N, D]; subject, crowding: [N]; band: [N], 0..bands-1, 0 being the weakest.
    """
    if not bands:
        return []
    subjects = int(subject.max()) + 1
    mated = np.zeros((2, bands * subjects), dtype=np.int64)
    non_mated = np.zeros((2, bands * subjects * subjects), dtype=np.int32)
    for start, distances, same, other in pair_blocks(embeddings, subject, 1024, crowding):
        for kind, chosen in enumerate((distances <= np.float32(threshold), np.ones_like(same))):
            a, b = (places + start for places in np.nonzero(same & chosen))
            place = np.minimum(band[a], band[b]) * subjects + subject[a]
            mated[kind] += np.bincount(place, minlength=mated.shape[1])
            a, b = (places + start for places in np.nonzero(other & chosen))
            place = (np.minimum(band[a], band[b]) * subjects + subject[a]) * subjects + subject[b]
            np.add.at(non_mated[kind], place, 1)
    own = mated.reshape(2, bands, subjects)
    pairs = non_mated.reshape(2, bands, subjects, subjects)
    limits = np.array([threshold], dtype=np.float32)
    return [
        Counts(
            limits,
            own[0, b][:, None].astype(np.int32),
            own[1, b],
            pairs[0, b][:, :, None],
            pairs[1, b],
        )
        for b in range(bands)
    ]
