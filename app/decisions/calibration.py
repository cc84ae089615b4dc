"""The calibration table: thresholds with the error rates that were measured at them, bound to one encoder.

Rates are those of ISO/IEC 19795-1. Bounds are 95 % intervals over draws of subjects (see ``app.evaluation.bootstrap``).
Every threshold is one of adjusted distances: squared distances plus the crowding of both faces (``app.crowding``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveInt, ValidationError, model_validator

from app.decisions.curves import (
    Claim,
    ClaimedThreshold,
    Estimate,
    Group,
    GroupPoint,
    OperatingPoint,
    Rate,
    Table,
    TemplateCurve,
    smallest_supported_by_groups,
    strictest_threshold,
)
from app.errors import TesseraError

CALIBRATION_FILE = "calibration.json"
SCHEMA_FILE = Path(__file__).with_name("calibration-4.schema.json")
"""JSON schema of the tables, for readers without this package; the number is ``schema_version``."""

LOOSEST_COMPARED = 1e-2
"""Thresholds of one template and of several are compared at this false match rate and below."""


class CalibrationError(TesseraError):
    """There is no calibration that fits the encoder."""

    code = "calibration_invalid"


class GalleryPoint(Table):
    """How often a stranger's search finds somebody at a threshold, and what ``1 - (1 - FMR) ** N`` says of it."""

    false_match_rate: Rate
    false_positive_identification_rate: Estimate
    predicted: Rate


class GallerySize(Table):
    """Searches by strangers in random galleries of one size, one template a subject; all of ``group`` if named."""

    group: str | None
    subjects: PositiveInt
    galleries: PositiveInt
    points: tuple[GalleryPoint, ...] = Field(min_length=1)

    @property
    def agrees(self) -> bool:
        """Whether the prediction is nowhere more favourable than what was measured."""
        return all(p.predicted >= p.false_positive_identification_rate.low for p in self.points)


class Stratum(Table):
    """Rates at the default operating point among comparisons of one kind."""

    name: str
    subjects: int
    mated: int
    non_mated: int
    false_match_rate: Estimate | None
    false_non_match_rate: Estimate | None


class QualityBand(Table):
    """Rates at the default operating point where the weaker of two faces has an embedding of such a length."""

    shortest: float = Field(ge=0)
    longest: float = Field(ge=0)
    mated: int
    non_mated: int
    false_match_rate: Estimate
    false_non_match_rate: Estimate


class QualityLimit(Table):
    """Of which faces a distance says little.

    bands: from the shortest embeddings to the longest. limit: faces with shorter ones miss their own person with a rate
    of ``missed`` or more, which is far more than others. inflation: comparisons with such a face are false matches so
    many times as often as all are.
    """

    bands: tuple[QualityBand, ...]
    missed: Rate
    limit: float = Field(ge=0)
    inflation: float = Field(ge=1)


class MarginBand(Table):
    """Searches in which two subjects matched, by how much farther the second one was (squared distances)."""

    shortest: float = Field(ge=0)
    longest: float = Field(ge=0)
    searches: int
    wrong: Rate


class MarginLimit(Table):
    """How near to each other two matching subjects may be before the nearer one is too often the wrong one.

    bands: from the smallest margins to the largest. limit: with smaller margins a share of ``wrong`` or more was wrong.
    """

    bands: tuple[MarginBand, ...]
    wrong: Rate
    limit: float = Field(ge=0)


class PrecisionCheck(Table):
    """Rates at the default operating point when the encoder runs otherwise."""

    runtime: str
    precision: str
    false_match_rate: Rate
    false_non_match_rate: Rate


class CalibrationData(Table):
    """What the rates were measured on."""

    description: str
    subjects: int = Field(gt=1)
    faces: int = Field(gt=1)
    runtime: str
    precision: str
    replicates: PositiveInt


class Calibration(Table):
    """Everything that was measured of one encoder. ``curves`` are those of one template, of two, and so on.

    cohort_sha256: of the cohort that distances were adjusted by; None where they were not.
    """

    schema_version: Literal[4]
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

    def bound(self, claim: Claim, fmr: float, templates: int) -> ClaimedThreshold | None:
        """The largest threshold that keeps a claim for subjects of this many templates; None if it cannot be shown.

        A group that is too small to show the rate is answered for by the larger one that it is part of.
        """
        return self.cached_threshold(claim, fmr, templates)

    @cached_property
    def cached_threshold(self) -> Callable[[Claim, float, int], ClaimedThreshold | None]:
        """The same, for ``bound``: a candidate is decided on by the same few as the one before."""
        return lru_cache(maxsize=256)(self._find_threshold)

    def _find_threshold(self, claim: Claim, fmr: float, templates: int) -> ClaimedThreshold | None:
        if claim is Claim.POOLED or not self.claimed_groups:
            point = self.curve(templates).at_rate(fmr)
            return None if point is None else ClaimedThreshold(point.threshold, None)
        strictest = strictest_threshold(self.groups, fmr)
        if strictest is None:
            return None
        pooled = self.curve(1).at_rate(fmr)
        if pooled is not None and pooled.threshold < strictest.threshold:
            strictest = ClaimedThreshold(pooled.threshold, None)
        return ClaimedThreshold(strictest.threshold + self.shift(templates), strictest.group)

    def shift(self, templates: int) -> float:
        """How much larger the threshold of this many templates may be than that of one: 0 or less, mostly.

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
            point = self.responsible_group(group, single).at_distance(single)
            if point is None:
                return None
            if worst is None or point.false_match_rate.value > worst[1].false_match_rate.value:
                worst = (group, point)
        return worst

    def responsible_group(self, group: Group, distance: float) -> Group:
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
        """The lowest false match rate that can be claimed of subjects of up to this many templates."""
        pooled = max(curve.smallest_supported for curve in self.curves[: max(templates, 1)])
        if claim is Claim.POOLED or not self.claimed_groups:
            return pooled
        return self._smallest_group_claim

    @cached_property
    def _smallest_group_claim(self) -> float:
        return smallest_supported_by_groups(self.groups)

    @property
    def most_templates(self) -> int:
        """The largest number of templates a subject that was measured."""
        return self.curves[-1].templates

    @cached_property
    def largest_gallery(self) -> float:
        """Up to how many subjects identification rates may be derived from the rates of one comparison.

        Infinity where the prediction held at all sizes that were measured, in galleries of every group, too.
        """
        agreed = 1
        for subjects in sorted({size.subjects for size in self.identification}):
            if not all(size.agrees for size in self.identification if size.subjects == subjects):
                return agreed
            agreed = subjects
        return float("inf") if self.identification else 1

    def curve(self, templates: int) -> TemplateCurve:
        """The rates for subjects of this many templates. Raises ValueError if they were not measured."""
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
