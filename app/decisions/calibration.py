"""The calibration table: thresholds with the error rates that were measured at them, bound to one encoder.

Rates are those of ISO/IEC 19795-1. Bounds are 95 % intervals over draws of subjects (see ``model.calibrate``).
"""

from __future__ import annotations

import json
from bisect import bisect_left
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from app.errors import TesseraError

CALIBRATION_FILE = "calibration.json"
SCHEMA_FILE = Path(__file__).with_name("calibration-2.schema.json")
"""JSON schema of the tables, for whoever reads them without this package; the number is ``schema_version``."""

Rate = Annotated[float, Field(ge=0, le=1)]


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


class OperatingPoint(_Table):
    """A threshold (squared distance, 0..4) and the rates of one comparison measured at it."""

    threshold: float = Field(ge=0, le=4)
    false_match_rate: Estimate
    false_non_match_rate: Estimate

    @property
    def claimed_fmr(self) -> float:
        """The false match rate that may be promised of the threshold: the upper bound of what was measured.

        The value itself would be exceeded in half of all populations like the one that was measured.
        """
        return self.false_match_rate.high


class TemplateCurve(_Table):
    """Rates of probes against subjects of so many templates, from the most permissive threshold to the strictest.

    ``smallest_supported_fmr`` is the lowest false match rate that the subjects can show (rule of three over pairs of
    subjects: no error among n independent trials supports a rate below 3/n at 95 %).
    """

    templates: PositiveInt
    subjects: int = Field(gt=1)
    mated: PositiveInt
    non_mated: PositiveInt
    smallest_supported_fmr: Rate
    operating_points: tuple[OperatingPoint, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _falling(self) -> Self:
        for loose, strict in pairwise(self.operating_points):
            if strict.threshold >= loose.threshold or strict.false_match_rate.value >= loose.false_match_rate.value:
                raise ValueError("operating points must run from the most permissive to the strictest")
        return self

    def at_rate(self, false_match_rate: float) -> OperatingPoint | None:
        """The most permissive point that promises a false match rate of at most this; None if there is none."""
        allowed = false_match_rate * (1 + 1e-9)
        return next((p for p in self.operating_points if p.claimed_fmr <= allowed), None)

    @property
    def strictest(self) -> OperatingPoint:
        """The measured point of the smallest threshold."""
        return self.operating_points[-1]

    @property
    def smallest_claim(self) -> float:
        """The lowest false match rate that any measured point promises."""
        return min(p.claimed_fmr for p in self.operating_points)

    def at_distance(self, distance: float) -> OperatingPoint | None:
        """The strictest measured point that a distance lies within: its rates are no better than the distance's own.

        None where the distance is beyond the most permissive point.
        """
        thresholds = [-p.threshold for p in self.operating_points]
        place = bisect_left(thresholds, -distance)
        if place < len(thresholds) and thresholds[place] == -distance:
            return self.operating_points[place]
        return self.operating_points[place - 1] if place else None


class GalleryPoint(_Table):
    """How often a stranger's search finds somebody at a threshold, and what ``1 - (1 - FMR) ** N`` says of it."""

    false_match_rate: Rate
    false_positive_identification_rate: Estimate
    predicted: Rate


class GallerySize(_Table):
    """Searches of strangers in random galleries of so many subjects, one template each."""

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
    """Everything that was measured of one encoder. ``curves`` are those of one template, of two, and so on."""

    schema_version: Literal[2]
    version: str
    encoder_sha256: str
    data: CalibrationData
    default_fmr: Rate
    default_fpir: Rate
    curves: tuple[TemplateCurve, ...] = Field(min_length=1)
    identification: tuple[GallerySize, ...]
    strata: tuple[Stratum, ...]
    quality: QualityLimit
    margin: MarginLimit
    precisions: tuple[PrecisionCheck, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if [curve.templates for curve in self.curves] != list(range(1, len(self.curves) + 1)):
            raise ValueError("curves must be of one template, two, three and so on")
        for curve in self.curves:
            if self.default_fmr < curve.smallest_supported_fmr or curve.at_rate(self.default_fmr) is None:
                raise ValueError(f"default_fmr is below what the curve of {curve.templates} templates supports")
        return self

    @property
    def smallest_supported_fmr(self) -> float:
        """The lowest rate that can be claimed of every number of templates."""
        return self.smallest_supported(self.most_templates)

    def smallest_supported(self, templates: int) -> float:
        """The lowest rate that can be claimed of subjects of so many templates and of those of fewer."""
        return max(curve.smallest_claim for curve in self.curves[: max(templates, 1)])

    @property
    def most_templates(self) -> int:
        """So many templates of a subject were measured at most."""
        return self.curves[-1].templates

    @property
    def largest_gallery(self) -> float:
        """Up to so many subjects rates of identification may be derived from those of one comparison.

        Infinity where the prediction held at all sizes that were measured.
        """
        agreed = 1
        for size in sorted(self.identification, key=lambda s: s.subjects):
            if not size.agrees:
                return agreed
            agreed = size.subjects
        return float("inf") if self.identification else 1

    def curve(self, templates: int) -> TemplateCurve:
        """The rates for a subject of so many templates. Raises ValueError if they were not measured."""
        if not 1 <= templates <= len(self.curves):
            raise ValueError(f"rates of {templates} templates of one subject were not measured")
        return self.curves[templates - 1]

    @property
    def default(self) -> OperatingPoint:
        """The point of ``default_fmr`` for one template."""
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
