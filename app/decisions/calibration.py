"""The calibration table: thresholds with the error rates measured at them, bound to one encoder.

Rates are those of ISO/IEC 19795-1. Bounds are 95 % bootstrap intervals over subjects (``app.evaluation.bootstrap``).
Every threshold applies to adjusted distances: squared distances plus the crowding of both faces (``app.crowding``).
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
"""Thresholds for one template and for several are compared at this false match rate and below."""


class CalibrationError(TesseraError):
    """There is no valid calibration for the encoder."""

    code = "calibration_invalid"


class GalleryPoint(Table):
    """The FPIR measured at a threshold, and the FPIR predicted by ``1 - (1 - FMR) ** N``."""

    false_match_rate: Rate
    false_positive_identification_rate: Estimate
    predicted: Rate


class GallerySize(Table):
    """Non-mated searches in random galleries of one size, one template per subject; all of ``group`` if named."""

    group: str | None
    subjects: PositiveInt
    galleries: PositiveInt
    points: tuple[GalleryPoint, ...] = Field(min_length=1)

    @property
    def agrees(self) -> bool:
        """Whether the prediction is nowhere below what the middle 95 % of single galleries show.

        A coarse check: the mean over the galleries may still be somewhat above the prediction.
        """
        return all(p.predicted >= p.false_positive_identification_rate.low for p in self.points)


class Stratum(Table):
    """Rates at the default operating point for comparisons of one kind."""

    name: str
    subjects: int
    mated: int
    non_mated: int
    false_match_rate: Estimate | None
    false_non_match_rate: Estimate | None


class QualityBand(Table):
    """Rates at the default operating point where the smaller of the two norms is in this band."""

    shortest: float = Field(ge=0)
    longest: float = Field(ge=0)
    mated: int
    non_mated: int
    false_match_rate: Estimate
    false_non_match_rate: Estimate


class QualityLimit(Table):
    """The norm below which a face is too weak for its distances to be reliable.

    bands: by norm, smallest first. limit: faces with smaller norms have a false non-match rate of ``missed`` or more,
    far above that of others. inflation: the false match rate of comparisons with such a face, divided by that of all.
    """

    bands: tuple[QualityBand, ...]
    missed: Rate
    limit: float = Field(ge=0)
    inflation: float = Field(ge=1)


class MarginBand(Table):
    """Searches in which two subjects matched, by margin: how much farther the second was (squared distance)."""

    shortest: float = Field(ge=0)
    longest: float = Field(ge=0)
    searches: int
    wrong: Rate


class MarginLimit(Table):
    """The margin between two matching subjects below which the nearer one is too often the wrong one.

    bands: by margin, smallest first. limit: at smaller margins, a share of ``wrong`` or more of the searches was wrong.
    """

    bands: tuple[MarginBand, ...]
    wrong: Rate
    limit: float = Field(ge=0)


class PrecisionCheck(Table):
    """Rates at the default operating point with another runtime or precision."""

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
    """All measurements of one encoder. ``curves`` are for one template, two templates, and so on.

    cohort_sha256: digest of the cohort that distances were adjusted by; None if they were not.
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
        """The largest threshold that keeps a claim for subjects with this many templates; None if it cannot be shown.

        Where a group is too small to show the rate, the larger group that it is part of stands in. Groups were measured
        with one template; no claim allows more than what all pairs show with this many.
        """
        return self.threshold_finder(claim, fmr, templates)

    @cached_property
    def threshold_finder(self) -> Callable[[Claim, float, int], ClaimedThreshold | None]:
        """Cached search behind ``bound``: successive candidates need the same few thresholds."""
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
        shifted, curve = strictest.threshold + self.shift(templates), self.curve(templates)
        most = curve.at_rate(max(fmr, curve.smallest_supported))
        if most is not None and most.threshold < shifted:
            return ClaimedThreshold(most.threshold, None)
        return ClaimedThreshold(shifted, strictest.group)

    def default_point(self, templates: int) -> OperatingPoint:
        """The point over all pairs at the default rate, for subjects with this many templates or the most measured."""
        point = self.curve(min(templates, self.most_templates)).at_rate(self.default_fmr)
        assert point is not None  # checked when the table was read
        return point

    def shift(self, templates: int) -> float:
        """How much larger the threshold for this many templates may be than that for one: 0 or less, mostly.

        Groups were measured with one template. With several, the threshold shifts as it does over all pairs at the same
        measured rate; where the shift differs between rates, the safest is used.
        """
        return self._shifts[self.curve(templates).templates - 1]

    @cached_property
    def _shifts(self) -> tuple[float, ...]:
        strictest = self.curves[0].strictest.threshold
        # Points beyond it repeat its rate: a shift from their thresholds would be too large.
        one = [p for p in self.curves[0].operating_points if p.threshold >= strictest]

        def shift(curve: TemplateCurve) -> float:
            rates = {p.false_match_rate.value for p in curve.operating_points}
            compared = sorted(rate for rate in rates if rate <= LOOSEST_COMPARED) or [min(rates)]
            # The strictest one-template point with no lower a rate, so that the shift is never too large.
            alone = {rate: [p for p in one if p.false_match_rate.value >= rate] or [one[0]] for rate in compared}
            return min(curve.showing(rate).threshold - alone[rate][-1].threshold for rate in compared)

        return tuple(0.0 if curve.templates == 1 else shift(curve) for curve in self.curves)

    def worst_group(self, distance: float, templates: int) -> tuple[Group, GroupPoint] | None:
        """The claimed group in which different people are most often within an adjusted distance, and how often.

        None without groups, or beyond the most permissive threshold of every group.
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
        """The group itself, or the larger one that it is part of where the distance is smaller than it can measure."""
        larger = self._larger(group)
        return larger if larger is not None and distance < group.strictest.threshold else group

    def _larger(self, group: Group) -> Group | None:
        return None if group.part_of is None else self._by_name[group.part_of]

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    @cached_property
    def claimed_groups(self) -> tuple[Group, ...]:
        """The groups covered by a claim for every group."""
        return tuple(group for group in self.groups if group.claimed)

    def smallest_supported(self, claim: Claim, templates: int) -> float:
        """The lowest false match rate that can be claimed for subjects with up to this many templates."""
        pooled = max(curve.smallest_supported for curve in self.curves[: max(templates, 1)])
        if claim is Claim.POOLED or not self.claimed_groups:
            return pooled
        return self._smallest_group_claim

    @cached_property
    def _smallest_group_claim(self) -> float:
        return smallest_supported_by_groups(self.groups)

    @property
    def most_templates(self) -> int:
        """The largest number of templates per subject that was measured."""
        return self.curves[-1].templates

    @cached_property
    def largest_gallery(self) -> float:
        """The largest number of subjects for which the FPIR may be predicted from the FMR.

        Infinity if the prediction ``agrees`` at all measured sizes, including the galleries of every group.
        """
        agreed = 1
        for subjects in sorted({size.subjects for size in self.identification}):
            if not all(size.agrees for size in self.identification if size.subjects == subjects):
                return agreed
            agreed = subjects
        return float("inf") if self.identification else 1

    def curve(self, templates: int) -> TemplateCurve:
        """The rates for subjects with this many templates. Raises ValueError if they were not measured."""
        if not 1 <= templates <= len(self.curves):
            raise ValueError(f"rates of {templates} templates of one subject were not measured")
        return self.curves[templates - 1]

    @property
    def default(self) -> OperatingPoint:
        """The operating point at ``default_fmr`` over all pairs, for one template."""
        point = self.curves[0].at_rate(self.default_fmr)
        assert point is not None
        return point


def _reason(error: OSError | ValidationError) -> str:
    """The cause, in one line."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    first, *others = error.errors(include_url=False)
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(others)} more)" if others else ""
    return f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}"


def load_calibration(directory: Path, encoder_sha256: str) -> Calibration:
    """Reads the table beside an encoder; see ``read_calibration``."""
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
