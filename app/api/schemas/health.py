"""Schemas of the state of the service."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from app.api import examples
from app.api.schemas import numbers
from app.api.schemas.common import AttributesModel
from app.api.schemas.decisions import GroupOut, OperatingPointOut, OperatingPointWithGroup
from app.decisions import Claim
from app.encoding import Precision, RuntimeName


class Health(BaseModel):
    """Whether the service, or each part of it, works."""

    model_config = examples.config(examples.HEALTH)

    status: Literal["ok"] = "ok"
    checks: dict[str, Literal["ok"]] = {}


class EncoderOut(AttributesModel):
    """The encoder in use."""

    name: str
    version: str
    sha256: str
    runtime: RuntimeName
    precision: Precision
    device: str


class ModelResponse(BaseModel):
    """Encoder, calibration and the operating points in force."""

    model_config = examples.config(examples.MODEL)

    encoder: EncoderOut
    calibration_version: str
    target_fmr: float = Field(description="of /verify, unless the request or the collection sets one")
    target_fpir: float = Field(description="of /identify, unless the request or the collection sets one")
    claim: Claim = Field(description="for whom these rates are promised, unless the request or the collection says")
    smallest_supported_fmr: numbers.LowestRate = Field(description="with that claim")
    weak_below: numbers.NormLimit = Field(description="a face with a smaller embedding norm is weak")
    ambiguous_below: numbers.MarginLimit = Field(
        description="the order of two matching subjects with a smaller margin is unreliable"
    )
    most_templates: int = Field(description="at most this many templates of a subject are compared, the newest ones")
    operating_point: OperatingPointWithGroup
    operating_points: list[OperatingPointOut] = Field(description="over all pairs, for subjects with one template")
    groups: list[GroupOut] = Field(description="groups of people, each compared within itself")
    cohort_sha256: str | None = Field(description="what crowding is measured against; null: nothing")
