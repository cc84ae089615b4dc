"""The calibration table: thresholds with the error rates that were measured at them, bound to one encoder.

Rates are those of ISO/IEC 19795-1. Bounds are 95 % intervals over draws of subjects (see ``model.calibrate``). Every
threshold is one of adjusted distances: squared distances plus the crowding of both faces (``app.crowding``).
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from app.errors import TesseraError

CALIBRATION_FILE = "calibration.json"
SCHEMA_FILE = Path(__file__).with_name("calibration-3.schema.json")
"""JSON schema of the tables, for whoever reads them without this package; the number is ``schema_version``."""

Rate = Annotated[float, Field(ge=0, le=1)]

LOOSEST_COMPARED = 1e-2
"""Thresholds of one template and of several are compared at this false match rate and below."""


class CalibrationError(TesseraError):
    """There is no calibration that fits the encoder."""

    code = "calibration_invalid"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Table):
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
        """A rate with the bounds of its draws; of one that no draw moves, such as 0, rounding may put them past it."""
        return cls(value=value, low=min(low, value), high=min(max(high, value), 1.0))


class MeasuredPoint(_Table):
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


class _Curve(_Table, Generic[Point]):
    """Points from the most permissive threshold to the strictest.

    Beyond the strictest threshold whose false match rate could be measured, points repeat that rate, which theirs is at
    most: they are there for what they miss. ``smallest_supported_fmr`` is the lowest false match rate that the subjects
    can show (rule of three over pairs of subjects: no error among n independent trials supports a rate below 3/n at
    95 %).
    """

    smallest_supported_fmr: Rate
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
    def smallest_claim(self) -> float:
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
    """Rates of probes against subjects of so many templates."""

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
class Bound:
    """A threshold (adjusted squared distance), and the group that no more permissive one would do for; None: all."""

    threshold: float
    group: str | None


def strictest_bound(groups: Sequence[Group], fmr: float) -> Bound | None:
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
            point, own = by_name.get(group.part_of or "", group).at_rate(fmr), group.at_rate(group.smallest_claim)
            if point is None:
                return None
            point = point if own is None or point.threshold <= own.threshold else own
        if strictest is None or point.threshold < strictest.threshold:
            strictest = Bound(point.threshold, group.name)
    return strictest


class GalleryPoint(_Table):
    """How often a stranger's search finds somebody at a threshold, and what ``1 - (1 - FMR) ** N`` says of it."""

    false_match_rate: Rate
    false_positive_identification_rate: Estimate
    predicted: Rate


class GallerySize(_Table):
    """Searches of strangers in random galleries of so many subjects, one template each; all of ``group`` if named."""

    group: str | None
    subjects: PositiveInt
    galleries: PositiveInt
    points: tuple[GalleryPoint, ...] = Field(min_length=1)

    @property
    def agrees(self) -> bool:
        """Whether the prediction is nowhere more favourable than what was measured."""
        return all(p.predicted >= p.false_positive_identification_rate.low for p in self.points)


class Stratum(_Table):
    """Rates at the default operating point among comparisons of one kind."""

    name: str
    subjects: int
    mated: int
    non_mated: int
    false_match_rate: Estimate | None
    false_non_match_rate: Estimate | None


class QualityBand(_Table):
    """Rates at the default operating point where the weaker of two faces has an embedding of such a length."""

    shortest: float = Field(ge=0)
    longest: float = Field(ge=0)
    mated: int
    non_mated: int
    false_match_rate: Estimate
    false_non_match_rate: Estimate


class QualityLimit(_Table):
    """Of which faces a distance says little.

    bands: from the shortest embeddings to the longest. limit: faces with shorter ones miss their own person with a rate
    of ``missed`` or more, which is far more than others. inflation: comparisons with such a face are false matches so
    many times as often as all are.
    """

    bands: tuple[QualityBand, ...]
    missed: Rate
    limit: float = Field(ge=0)
    inflation: float = Field(ge=1)


class MarginBand(_Table):
    """Searches in which two subjects matched, by how much farther the second one was (squared distances)."""

    shortest: float = Field(ge=0)
    longest: float = Field(ge=0)
    searches: int
    wrong: Rate


class MarginLimit(_Table):
    """How near to each other two matching subjects may be before the nearer one is too often the wrong one.

    bands: from the smallest margins to the largest. limit: with smaller margins a share of ``wrong`` or more was wrong.
    """

    bands: tuple[MarginBand, ...]
    wrong: Rate
    limit: float = Field(ge=0)


class PrecisionCheck(_Table):
    """Rates at the default operating point when the encoder runs otherwise."""

    runtime: str
    precision: str
    false_match_rate: Rate
    false_non_match_rate: Rate


class CalibrationData(_Table):
    """What the rates were measured on."""

    description: str
    subjects: int = Field(gt=1)
    faces: int = Field(gt=1)
    runtime: str
    precision: str
    replicates: PositiveInt


class Calibration(_Table):
    """Everything that was measured of one encoder. ``curves`` are those of one template, of two, and so on.

    cohort_sha256: of the cohort that distances were adjusted by; None where they were not.
    """

    schema_version: Literal[3]
    version: str
    encoder_sha256: str
    cohort_sha256: str | None
    data: CalibrationData
    default_fmr: Rate
    default_fpir: Rate
    curves: tuple[TemplateCurve, ...] = Field(min_length=1)
    groups: tuple[Group, ...]
    identification: tuple[GallerySize, ...]
    strata: tuple[Stratum, ...]
    quality: QualityLimit
    margin: MarginLimit
    precisions: tuple[PrecisionCheck, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if [curve.templates for curve in self.curves] != list(range(1, len(self.curves) + 1)):
            raise ValueError("curves must be of one template, two, three and so on")
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names) or any(g.part_of is not None and g.part_of not in names for g in self.groups):
            raise ValueError("groups have names of their own, and are part of groups that are there")
        for templates in range(1, self.most_templates + 1):
            if any(self.bound(claim, self.default_fmr, templates) is None for claim in Claim):
                raise ValueError(f"default_fmr is below what is supported for {templates} templates")
        return self

    def bound(self, claim: Claim, fmr: float, templates: int) -> Bound | None:
        """The largest threshold that keeps a claim for a subject of so many templates; None if it cannot be shown.

        A group that is too small to show the rate is answered for by the larger one that it is part of.
        """
        return self.remembered_bound(claim, fmr, templates)

    @cached_property
    def remembered_bound(self) -> Callable[[Claim, float, int], Bound | None]:
        """The same, for ``bound``: a candidate is decided on by the same few as the one before."""
        return lru_cache(maxsize=256)(self._find_bound)

    def _find_bound(self, claim: Claim, fmr: float, templates: int) -> Bound | None:
        if claim is Claim.POOLED or not self.claimed_groups:
            point = self.curve(templates).at_rate(fmr)
            return None if point is None else Bound(point.threshold, None)
        strictest = strictest_bound(self.groups, fmr)
        if strictest is None:
            return None
        pooled = self.curve(1).at_rate(fmr)
        if pooled is not None and pooled.threshold < strictest.threshold:
            strictest = Bound(pooled.threshold, None)
        return Bound(strictest.threshold + self.shift(templates), strictest.group)

    def shift(self, templates: int) -> float:
        """How much farther the threshold of so many templates may be than that of a single one: 0 or less, mostly.

        Groups were measured with one template. With several the threshold moves as it does for all pairs at the same
        measured rate; where that differs from rate to rate, by what is safest.
        """
        return self._shifts[self.curve(templates).templates - 1]

    @cached_property
    def _shifts(self) -> tuple[float, ...]:
        one = self.curves[0].operating_points

        def shift(curve: TemplateCurve) -> float:
            rates = {p.false_match_rate.value for p in curve.operating_points}
            compared = sorted(rate for rate in rates if rate <= LOOSEST_COMPARED) or [min(rates)]
            # The strictest point of one template whose rate is no lower: the difference is no more than it should be.
            alone = {rate: [p for p in one if p.false_match_rate.value >= rate] or [one[0]] for rate in compared}
            return min(curve.showing(rate).threshold - alone[rate][-1].threshold for rate in compared)

        return tuple(0.0 if curve.templates == 1 else shift(curve) for curve in self.curves)

    def worst_group(self, distance: float, templates: int) -> tuple[Group, GroupPoint] | None:
        """The claimed group in which different people are most often within an adjusted distance, and how often.

        None without groups, and beyond the most permissive threshold of any.
        """
        single, worst = distance - self.shift(templates), None
        for group in self.claimed_groups:
            point = self.answering(group, single).at_distance(single)
            if point is None:
                return None
            if worst is None or point.false_match_rate.value > worst[1].false_match_rate.value:
                worst = (group, point)
        return worst

    def answering(self, group: Group, distance: float) -> Group:
        """The group itself, or, where a distance is smaller than it can measure, the larger one that it is part of."""
        larger = self._larger(group)
        return larger if larger is not None and distance < group.strictest.threshold else group

    def _larger(self, group: Group) -> Group | None:
        return None if group.part_of is None else self._by_name[group.part_of]

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    @cached_property
    def claimed_groups(self) -> tuple[Group, ...]:
        """The groups that a claim for every group holds for."""
        return tuple(group for group in self.groups if group.claimed)

    def smallest_supported(self, claim: Claim, templates: int) -> float:
        """The lowest false match rate that can be claimed of subjects of so many templates and of those of fewer."""
        pooled = max(curve.smallest_claim for curve in self.curves[: max(templates, 1)])
        if claim is Claim.POOLED or not self.claimed_groups:
            return pooled
        larger = {group.name: self._larger(group) or group for group in self.claimed_groups}
        return max(min(group.smallest_claim, larger[group.name].smallest_claim) for group in self.claimed_groups)

    @property
    def most_templates(self) -> int:
        """So many templates of a subject were measured at most."""
        return self.curves[-1].templates

    @cached_property
    def largest_gallery(self) -> float:
        """Up to so many subjects rates of identification may be derived from those of one comparison.

        Infinity where the prediction held at all sizes that were measured, in galleries of every group, too.
        """
        agreed = 1
        for subjects in sorted({size.subjects for size in self.identification}):
            if not all(size.agrees for size in self.identification if size.subjects == subjects):
                return agreed
            agreed = subjects
        return float("inf") if self.identification else 1

    def curve(self, templates: int) -> TemplateCurve:
        """The rates for a subject of so many templates. Raises ValueError if they were not measured."""
        if not 1 <= templates <= len(self.curves):
            raise ValueError(f"rates of {templates} templates of one subject were not measured")
        return self.curves[templates - 1]

    @property
    def default(self) -> OperatingPoint:
        """The point of ``default_fmr`` over all pairs, for one template."""
        point = self.curves[0].at_rate(self.default_fmr)
        assert point is not None
        return point


def _reason(error: OSError | ValidationError) -> str:
    """What is wrong, in one line."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    first, *others = error.errors(include_url=False)
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(others)} more)" if others else ""
    return f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}"


def load_calibration(directory: Path, encoder_sha256: str) -> Calibration:
    """Reads the table that lies beside an encoder; see ``read_calibration``."""
    return read_calibration(directory / CALIBRATION_FILE, encoder_sha256)


def read_calibration(path: Path, encoder_sha256: str) -> Calibration:
    """Reads the table of an encoder.

    Raises CalibrationError if it is missing, malformed, or was measured on another encoder.
    """
    try:
        calibration = Calibration.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CalibrationError(
            f"no usable calibration in {path}: {_reason(error)}; "
            "restore it or measure it with `python -m model.calibrate` or `tessera calibrate`"
        ) from error
    if calibration.encoder_sha256 != encoder_sha256:
        raise CalibrationError(
            f"{path} was measured on encoder {calibration.encoder_sha256[:12]}, but {encoder_sha256[:12]} is loaded: "
            "thresholds do not carry over; measure it anew with `python -m model.calibrate` or `tessera calibrate`"
        )
    return calibration


if __name__ == "__main__":
    SCHEMA_FILE.write_text(json.dumps(Calibration.model_json_schema(), indent=1) + "\n")
