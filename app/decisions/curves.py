"""Curves of error rates over thresholds, for all pairs and for groups of people, and the thresholds they support.

Rates are those of ISO/IEC 19795-1; thresholds apply to adjusted distances (``app.crowding``).
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
    """A part of the calibration table: frozen, with unknown fields refused."""

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
        """A rate with the bounds of its replicates, widened if rounding has put the rate just outside them."""
        return cls(value=value, low=min(low, value), high=min(max(high, value), 1.0))


class MeasuredPoint(Table):
    """A threshold (adjusted squared distance) and the false match rate of one comparison measured at it."""

    threshold: float = Field(ge=-4, le=8)
    false_match_rate: Estimate

    @property
    def claimed_fmr(self) -> float:
        """The false match rate that may be claimed at the threshold: the upper bound of the measured rate.

        About half of all populations like the measured one would exceed the value itself.
        """
        return self.false_match_rate.high


class OperatingPoint(MeasuredPoint):
    """A threshold and both rates of one comparison."""

    false_non_match_rate: Estimate


class GroupPoint(MeasuredPoint):
    """A threshold and the rates within a group; no false non-match rate if nobody has two faces."""

    false_non_match_rate: Estimate | None


Point = TypeVar("Point", bound=MeasuredPoint)


class _Curve(Table, Generic[Point]):
    """Points from the most permissive threshold to the strictest.

    Beyond the strictest threshold whose false match rate could be measured, points repeat that rate as an upper bound;
    they are kept for their false non-match rates. ``rule_of_three_fmr`` is the lowest false match rate that the
    subjects can show (rule of three over pairs of subjects: no error among n independent trials supports a rate below
    3/n at 95 %).
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
        """The most permissive point whose claimed false match rate is at most this; None if there is none."""
        allowed = false_match_rate * (1 + 1e-9)
        return next((p for p in self.operating_points if p.claimed_fmr <= allowed), None)

    def showing(self, false_match_rate: float) -> Point:
        """The most permissive point whose measured rate is at most this, whatever its bounds; else the strictest."""
        allowed = false_match_rate * (1 + 1e-9)
        points = self.operating_points
        return next((p for p in points if p.false_match_rate.value <= allowed), self.strictest)

    # Cached, because a search needs it for every group and every candidate.
    @cached_property
    def strictest(self) -> Point:
        """The point of the smallest threshold whose false match rate was measured."""
        last = self.operating_points[-1].false_match_rate
        return next(p for p in self.operating_points if p.false_match_rate == last)

    @cached_property
    def smallest_supported(self) -> float:
        """The lowest false match rate that any measured point can claim."""
        return min(p.claimed_fmr for p in self.operating_points)

    def at_distance(self, distance: float) -> Point | None:
        """The strictest measured point that an adjusted distance lies within; its FMR is no lower than at the distance.

        None if the distance is beyond the most permissive point.
        """
        points = self.operating_points
        place = bisect_left(points, -distance, key=lambda p: -p.threshold)
        if place < len(points) and points[place].threshold == distance:
            return points[place]
        return points[place - 1] if place else None


class TemplateCurve(_Curve[OperatingPoint]):
    """Rates of probes against subjects with a given number of templates."""

    templates: PositiveInt
    subjects: int = Field(gt=1)
    mated: PositiveInt
    non_mated: PositiveInt


class Group(_Curve[GroupPoint]):
    """Rates among people of one kind, one template each, compared only with each other.

    definition: who belongs to it. claimed: whether a claim for every group covers this one; the others are only
    reported. part_of: the larger group that stands in where this one is too small to show a rate.
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
    """For whom a false match rate is claimed."""

    EVERY_GROUP = "every_group"
    """For every claimed group and for all pairs, as far down as they can show the rate."""
    POOLED = "pooled"
    """For the average over all pairs, which is usually quoted; single groups may have far higher rates."""


@dataclass(frozen=True, slots=True)
class ClaimedThreshold:
    """A threshold (adjusted squared distance), and the group that requires it; None: all pairs together."""

    threshold: float
    group: str | None


def strictest_threshold(groups: Sequence[Group], fmr: float) -> ClaimedThreshold | None:
    """The largest threshold at which every claimed group has at most this false match rate, upper bounds included.

    For a group that is too small to show the rate, the larger one that it is part of stands in, and the group still
    keeps the lowest rate that it can show itself. None if the larger one cannot show the rate either.
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
    """The lowest false match rate that all claimed groups support, by themselves or through their larger group.

    0 if there are none.
    """
    own = {group.name: group.smallest_supported for group in groups}
    return max((min(own[g.name], own.get(g.part_of or "", 1.0)) for g in groups if g.claimed), default=0.0)
