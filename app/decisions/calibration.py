"""The calibration table: thresholds with the error rates that were measured at them, bound to one encoder."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.errors import TesseraError

CALIBRATION_FILE = "calibration.json"

Rate = Annotated[float, Field(ge=0, le=1)]


class CalibrationError(TesseraError):
    """There is no calibration that fits the encoder."""

    code = "calibration_invalid"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OperatingPoint(_Table):
    """A threshold (squared distance, 0..4) and the rates of one comparison measured at it (ISO/IEC 19795-1)."""

    threshold: float = Field(ge=0, le=4)
    false_match_rate: Rate
    false_non_match_rate: Rate
    false_match_rate_without_relatives: Rate


class CalibrationData(_Table):
    """What the rates were measured on."""

    description: str
    subjects: int = Field(gt=1)
    faces: int = Field(gt=1)
    mated_pairs: int = Field(gt=0)
    non_mated_pairs: int = Field(gt=0)
    runtime: str
    precision: str


class Calibration(_Table):
    """Operating points from the most permissive to the strictest.

    ``smallest_supported_fmr`` is the lowest false match rate that so many subjects can show (rule of three over pairs
    of subjects: no error among n independent trials supports a rate below 3/n at 95 %).
    """

    schema_version: Literal[1]
    version: str
    encoder_sha256: str
    data: CalibrationData
    smallest_supported_fmr: Rate
    default_fmr: Rate
    operating_points: tuple[OperatingPoint, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        points = self.operating_points
        for loose, strict in pairwise(points):
            if strict.threshold > loose.threshold or strict.false_match_rate >= loose.false_match_rate:
                raise ValueError("operating points must run from the most permissive to the strictest")
        if self.default_fmr < self.smallest_supported_fmr:
            raise ValueError("default_fmr is below smallest_supported_fmr")
        if not any(p.false_match_rate <= self.default_fmr for p in points):
            raise ValueError("no operating point has the default false match rate")
        return self

    @property
    def default(self) -> OperatingPoint:
        """The most permissive point whose false match rate is at most ``default_fmr``."""
        return next(p for p in self.operating_points if p.false_match_rate <= self.default_fmr)


def _reason(error: OSError | ValidationError) -> str:
    """What is wrong, in one line."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    first, *others = error.errors(include_url=False)
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(others)} more)" if others else ""
    return f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}"


def load_calibration(directory: Path, encoder_sha256: str) -> Calibration:
    """Reads the table of an encoder.

    Raises CalibrationError if it is missing, malformed, or was measured on another encoder.
    """
    path = directory / CALIBRATION_FILE
    try:
        calibration = Calibration.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CalibrationError(
            f"no usable calibration in {path}: {_reason(error)}; "
            "restore it or measure it with `python -m model.calibrate`"
        ) from error
    if calibration.encoder_sha256 != encoder_sha256:
        raise CalibrationError(
            f"{path} was measured on encoder {calibration.encoder_sha256[:12]}, but {encoder_sha256[:12]} is loaded: "
            "thresholds do not carry over; measure it anew with `python -m model.calibrate`"
        )
    return calibration
