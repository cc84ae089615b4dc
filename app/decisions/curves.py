"""Curves of error rates over thresholds, of all pairs and of groups of people, and the thresholds that they promise.

Rates are those of ISO/IEC 19795-1, thresholds those of adjusted distances (``app.crowding``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

Rate = Annotated[float, Field(ge=0, le=1)]


class Table(BaseModel):
    """A part of the calibration table: fixed, and without anything unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(Table):
    """A measured rate, 0..1, and the bounds of its interval."""

    value: Rate
    low: Rate
    high: Rate

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError("an estimate lies between its bounds")
        return self

    @classmethod
    def around(cls, value: float, low: float, high: float) -> Self:
        """A rate with the bounds of its replicates; where no draw moves it, such as 0, rounding may cross it."""
        return cls(value=value, low=min(low, value), high=min(max(high, value), 1.0))


class MeasuredPoint(Table):
    """A threshold (adjusted squared distance) and the false match rate of one comparison measured at it."""

    threshold: float = Field(ge=-4, le=8)
    false_match_rate: Estimate

    @property
    def claimed_fmr(self) -> float:
        """The false match rate that may be promised of the threshold: the upper bound of what was measured.

        The value itself would be exceeded in half of all populations like the one that was measured.
        """
        return self.false_match_rate.high


class OperatingPoint(MeasuredPoint):
    """A threshold and both rates of one comparison."""

    false_non_match_rate: Estimate


class GroupPoint(MeasuredPoint):
    """A threshold and the rates within a group; no false non-match rate where nobody has two faces."""

    false_non_match_rate: Estimate | None


Point = TypeVar("Point", bound=MeasuredPoint)


class _Curve(Table, Generic[Point]):
    """Points from the most permissive threshold to the strictest.

    Beyond the strictest threshold whose false match rate could be measured, points repeat that rate, which theirs is at
    most: they are there for what they miss. ``rule_of_three_fmr`` is the lowest false match rate that the subjects
    can show (rule of three over pairs of subjects: no error among n independent trials supports a rate below 3/n at
    95 %).
    """

    rule_of_three_fmr: Rate
    operating_points: tuple[Point, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _falling(self) -> Self:
        for loose, strict in pairwise(self.operating_points):
            if strict.threshold >= loose.threshold or strict.false_match_rate.value > loose.false_match_rate.value:
                raise ValueError("operating points must run from the most permissive to the strictest")
        return self

    def at_rate(self, false_match_rate: float) -> Point | None:
        """The most permissive point that promises a false match rate of at most this; None if there is none."""
        allowed = false_match_rate * (1 + 1e-9)
        return next((p for p in self.operating_points if p.claimed_fmr <= allowed), None)

    def showing(self, false_match_rate: float) -> Point:
        """The most permissive point at which no more than this was measured, whatever its bounds; or the strictest."""
        allowed = false_match_rate * (1 + 1e-9)
        points = self.operating_points
        return next((p for p in points if p.false_match_rate.value <= allowed), self.strictest)

    # Kept once found: a search asks for it of every group and for every candidate.
    @cached_property
    def strictest(self) -> Point:
        """The point of the smallest threshold whose false match rate was measured."""
        last = self.operating_points[-1].false_match_rate
        return next(p for p in self.operating_points if p.false_match_rate == last)

    @cached_property
    def smallest_supported(self) -> float:
        """The lowest false match rate that any measured point promises."""
        return min(p.claimed_fmr for p in self.operating_points)

    def at_distance(self, distance: float) -> Point | None:
        """The strictest measured point that an adjusted distance lies within: no better than the distance's own rates.

        None where the distance is beyond the most permissive point.
        """
        points = self.operating_points
        place = bisect_left(points, -distance, key=lambda p: -p.threshold)
        if place < len(points) and points[place].threshold == distance:
            return points[place]
        return points[place - 1] if place else None


class TemplateCurve(_Curve[OperatingPoint]):
    """Rates of probes against subjects of one number of templates."""

    templates: PositiveInt
    subjects: int = Field(gt=1)
    mated: PositiveInt
    non_mated: PositiveInt


class Group(_Curve[GroupPoint]):
    """Rates among people of one kind, one template each, who are compared with each other only.

    definition: what makes a member. claimed: whether a claim for every group holds for this one; the others are
    measured and told. part_of: the larger group that answers for rates which this one is too small to show.
    """

    name: str = Field(min_length=1)
    definition: str
    claimed: bool
    part_of: str | None
    subjects: int = Field(gt=1)
    faces: int = Field(gt=1)
    mated: int = Field(ge=0)
    non_mated: PositiveInt


class Claim(StrEnum):
    """For whom a false match rate is promised."""

    EVERY_GROUP = "every_group"
    """For every group that was measured and is claimed, and for all pairs, as far down as they can show it."""
    POOLED = "pooled"
    """For the average over all pairs, which is what is usually quoted; single groups may have far more."""


@dataclass(frozen=True, slots=True)
class ClaimedThreshold:
    """A threshold (adjusted squared distance), and the group that no more permissive one would do for; None: all."""

    threshold: float
    group: str | None


def strictest_threshold(groups: Sequence[Group], fmr: float) -> ClaimedThreshold | None:
    """The largest threshold at which every claimed group has at most this false match rate, upper bounds included.

    A group that is too small to show the rate is answered for by the larger one that it is part of, and still keeps the
    lowest rate that it can show itself; None where the larger one cannot show it either.
    """
    by_name, strictest = {group.name: group for group in groups}, None
    for group in groups:
        if not group.claimed:
            continue
        point = group.at_rate(fmr)
        if point is None:
            point, own = by_name.get(group.part_of or "", group).at_rate(fmr), group.at_rate(group.smallest_supported)
            if point is None:
                return None
            point = point if own is None or point.threshold <= own.threshold else own
        if strictest is None or point.threshold < strictest.threshold:
            strictest = ClaimedThreshold(point.threshold, group.name)
    return strictest


def smallest_supported_by_groups(groups: Sequence[Group]) -> float:
    """The lowest false match rate that all claimed groups support, themselves or through the one they are part of.

    0 where there are none.
    """
    own = {group.name: group.smallest_supported for group in groups}
    return max((min(own[g.name], own.get(g.part_of or "", 1.0)) for g in groups if g.claimed), default=0.0)
