"""Error rates within groups of people: how often two different people of one kind match.

A rate over all pairs is an average that holds for nobody: two people of the same origin and sex falsely match many
times more often than two at random (Grother et al. 2019, NIST IR 8280). So a group is only compared within itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.decisions.curves import Estimate, Group, GroupPoint
from app.evaluation.bootstrap import bootstrap_weights, by_rule_of_three, interval
from app.evaluation.pairs import adjusted_distances, pair_blocks

GROUP_TARGETS = tuple(10 ** (-1 - i / 10) for i in range(61))
"""False match rates of a group's points, as far down as its people support."""
STEP, STEPS = 0.04, 12
BLOCK = 1024
SAMPLED = 2000
MOST_KEPT = 300_000
"""About how many of a group's nearest non-mated comparisons are kept, and as many of the others."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """Faces compared with each other: unit-length float32 [N, D], crowding [N], subject int64 [N] from 0."""

    embeddings: Floats
    crowding: Floats
    subject: Ints

    def blocks(self) -> Iterator[tuple[int, Floats, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
        """See ``pair_blocks``."""
        return pair_blocks(self.embeddings, self.subject, BLOCK, self.crowding)


@dataclass(frozen=True, slots=True)
class GroupFaces:
    """A group of people. Faces in different parts, such as women and men, are not compared with each other.

    ``claimed``: a claim for every group covers this one. ``part_of``: the larger group that stands in where this one is
    too small to show a rate.
    """

    name: str
    definition: str
    parts: Sequence[Part]
    claimed: bool = True
    part_of: str | None = None


class _Kept(NamedTuple):
    """Non-mated comparisons: distances, both subjects, and how many comparisons each represents."""

    distances: Floats
    first: Ints
    second: Ints
    weight: npt.NDArray[np.float64]


def _limit(parts: Sequence[Part], share: float) -> float:
    """A distance below which about a share ``share`` of the non-mated comparisons lies."""
    rng, others = np.random.default_rng(0), list[Floats]()
    for part in parts:
        rows = rng.permutation(len(part.subject))[: max(SAMPLED * len(part.subject) // _faces(parts), 1)]
        distances = adjusted_distances(part.embeddings[rows], part.embeddings, part.crowding[rows], part.crowding)
        others.append(distances[part.subject[rows, None] != part.subject[None, :]])
    return float(np.quantile(np.concatenate(others), share))


def _faces(parts: Sequence[Part]) -> int:
    return sum(len(part.subject) for part in parts)


class GroupRates:
    """The comparisons of a group: all mated ones and the nearest non-mated ones, with their subjects.

    Subjects are numbered across all parts. In a large group only the ``MOST_KEPT`` nearest comparisons are all kept; of
    those farther away, as many are sampled at random, each representing several.
    """

    def __init__(self, parts: Sequence[Part], loosest: float = max(GROUP_TARGETS)) -> None:
        """Keeps twice what rates up to ``loosest`` need, so that unfavourable draws reach them too."""
        counts = [np.bincount(part.subject) for part in parts]
        self.total = int(sum((int(c.sum()) ** 2 - int(np.square(c).sum())) // 2 for c in counts))
        share = min(2 * loosest, 1.0)
        dense = min(share, MOST_KEPT / max(self.total, 1))
        near, far = (_limit(parts, s) if self.total and s < 1 else np.inf for s in (dense, share))
        sampled = min(MOST_KEPT / max((share - dense) * self.total, 1), 1.0)
        rng, kept, mated, start = np.random.default_rng(0), list[_Kept](), list[tuple[Floats, Ints]](), 0
        self._faces = list[Ints]()
        for part in parts:
            for row, block, same, other in part.blocks():
                chosen = other & (block <= far)
                chosen &= (block <= near) | (rng.random(block.shape, dtype=np.float32) < sampled)
                a, b = np.nonzero(chosen)
                weight = np.where(block[a, b] <= near, 1.0, 1 / sampled)
                kept.append(_Kept(block[a, b], part.subject[a + row] + start, part.subject[b + row] + start, weight))
                a, b = np.nonzero(same)
                mated.append((block[a, b], part.subject[a + row] + start))
            self._faces.append(np.bincount(part.subject))
            start += len(self._faces[-1])
        distances = np.concatenate([k.distances for k in kept])
        order = np.argsort(distances, kind="stable")
        self.non_mated = distances[order]
        self._first = np.concatenate([k.first for k in kept])[order]
        self._second = np.concatenate([k.second for k in kept])[order]
        self._weight = np.concatenate([k.weight for k in kept])[order]
        # Weighted number of comparisons up to each kept one.
        self._count = np.concatenate([[0.0], np.cumsum(self._weight)])
        self.mated = np.concatenate([d for d, _ in mated])
        self._own = np.concatenate([own for _, own in mated])

    @property
    def subjects(self) -> int:
        """The number of people in all parts."""
        return sum(len(faces) for faces in self._faces)

    @property
    def faces(self) -> int:
        """The number of faces in all parts."""
        return int(sum(faces.sum() for faces in self._faces))

    @property
    def pairs_of_subjects(self) -> int:
        """The number of pairs of people compared."""
        return sum(len(faces) * (len(faces) - 1) // 2 for faces in self._faces)

    @property
    def rule_of_three_fmr(self) -> float:
        """Rule of three over pairs of people: comparisons that share a person are not independent."""
        return min(3 / max(self.pairs_of_subjects, 1), 1.0)

    def threshold(self, fmr: float) -> float | None:
        """The largest threshold that accepts at most a share ``fmr``; None if the group is too small to show it."""
        allowed = np.floor(fmr * self.total + 1e-9)
        place = int(np.searchsorted(self._count, allowed, side="right")) - 1
        if allowed < 1 or not 1 <= place < len(self.non_mated):
            return None
        return float(np.nextafter(self.non_mated[place], np.float32(-np.inf)))

    def false_match_rates(self, thresholds: npt.NDArray[np.float64]) -> list[Estimate]:
        """The rate at each threshold, with bootstrap intervals over people; of none, up to the rule of three."""
        places = np.searchsorted(self.non_mated, thresholds.astype(np.float32), side="right")
        within = int(places.max(initial=0))
        first, second, weight = self._first[:within], self._second[:within], self._weight[:within]
        shares = []
        for weights in bootstrap_weights(self.subjects):
            sums = np.concatenate([[0.0], np.cumsum(weights[first] * weights[second] * weight)])
            shares.append(sums[places] / max(self._drawn(weights), 1.0))
        return [
            Estimate.around(found.value, found.low, found.high)
            for found in (
                by_rule_of_three(interval(count / self.total, replicate), self.pairs_of_subjects)
                for count, replicate in zip(self._count[places].tolist(), np.array(shares).T, strict=True)
            )
        ]

    def _drawn(self, weights: npt.NDArray[np.float64]) -> float:
        """The number of non-mated comparisons in a draw of people."""
        total, start = 0.0, 0
        for faces in self._faces:
            own = weights[start : start + len(faces)] * faces
            total += (float(own.sum()) ** 2 - float(np.square(own).sum())) / 2
            start += len(faces)
        return total

    def false_non_match_rates(self, thresholds: npt.NDArray[np.float64]) -> list[Estimate] | None:
        """The rate at each threshold, with intervals as above; None if nobody has two faces."""
        if not len(self.mated):
            return None
        every = np.bincount(self._own, minlength=self.subjects).astype(np.float64)
        weights = np.array(bootstrap_weights(self.subjects))
        drawn, people = weights @ every, int(np.count_nonzero(every))
        rates = []
        with np.errstate(invalid="ignore"):
            for threshold in thresholds:
                missed = np.bincount(self._own[self.mated > threshold], minlength=self.subjects)
                share = float(missed.sum() / every.sum())
                found = by_rule_of_three(interval(share, (weights @ missed) / drawn), people)
                rates.append(Estimate.around(found.value, found.low, found.high))
        return rates


def beyond(threshold: float) -> list[float]:
    """Thresholds stricter than any whose FMR can be measured; used for their FNMR."""
    return [threshold - STEP * number for number in range(1, STEPS + 1)]


def measure_group(group: GroupFaces) -> Group:
    """The points of a group at ``GROUP_TARGETS``, as far down as its people support them.

    Raises ValueError if they support none.
    """
    rates = GroupRates(group.parts)
    floor = rates.rule_of_three_fmr
    found = [t for target in GROUP_TARGETS if (t := rates.threshold(target)) is not None]
    found += beyond(min(found)) if found and len(rates.mated) else []
    thresholds = np.array(sorted(set(found), reverse=True))
    false_matches = rates.false_match_rates(thresholds)
    false_non_matches = rates.false_non_match_rates(thresholds)
    points = list[GroupPoint]()
    for number, (threshold, fmr) in enumerate(zip(thresholds.tolist(), false_matches, strict=True)):
        if fmr.value < floor and (false_non_matches is None or not points):
            break
        # Where the people cannot show the rate of a stricter threshold, the rate before it is an upper bound.
        shown = fmr if fmr.value >= floor else points[-1].false_match_rate
        fnmr = None if false_non_matches is None else false_non_matches[number]
        points.append(GroupPoint(threshold=threshold, false_match_rate=shown, false_non_match_rate=fnmr))
    if not points:
        raise ValueError(f"{rates.subjects} people of the group {group.name!r} cannot show any false match rate")
    return Group(
        name=group.name,
        definition=group.definition,
        claimed=group.claimed,
        part_of=group.part_of,
        subjects=rates.subjects,
        faces=rates.faces,
        mated=len(rates.mated),
        non_mated=rates.total,
        rule_of_three_fmr=floor,
        operating_points=tuple(points),
    )
