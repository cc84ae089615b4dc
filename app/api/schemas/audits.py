"""Audits over the wire."""

from __future__ import annotations

from datetime import datetime

from pydantic import ConfigDict, Field

from app.api import examples
from app.api.schemas.common import AttributesModel
from app.api.schemas.decisions import EstimateOut
from app.audits.jobs import AuditStatus
from app.audits.report import Population


class SubjectPairOut(AttributesModel):
    """Two subjects and the squared distance between them."""

    first: str
    second: str
    distance: float
    false_match_rate: float | None = Field(description="how often different people are as near; null beyond 50 %")


class OutlierOut(AttributesModel):
    """A template that the rest of its subject does not match."""

    subject_id: str
    template_id: str
    distance: float = Field(description="squared, to what the others are fused to")
    threshold: float


class WeakTemplateOut(AttributesModel):
    """A template in which the encoder found little."""

    subject_id: str
    template_id: str
    norm: float


class RateCheckOut(AttributesModel):
    """The false match rate as calibrated, and the share of the collection's own pairs, at one threshold."""

    threshold: float
    calibrated: EstimateOut
    observed: EstimateOut
    pairs: int


class AuditReportOut(AttributesModel):
    """What was found. Lists hold the most telling ones, counts all of them."""

    created_at: datetime
    subjects: int
    templates: int
    population: Population = Field(description="whether these people are as far apart as those that were measured")
    duplicate_count: int
    duplicates: list[SubjectPairOut] = Field(description="within the default threshold: possibly enrolled twice")
    confusable: list[SubjectPairOut] = Field(description="the subjects most alike")
    outlier_count: int
    outliers: list[OutlierOut]
    weak_count: int
    weak: list[WeakTemplateOut]
    compared_subjects: int = Field(description="how many subjects were compared with each other for `rates`")
    rates: list[RateCheckOut]


class AuditOut(AttributesModel):
    """The last audit of a collection."""

    model_config = ConfigDict(from_attributes=True, **examples.config(examples.AUDIT))

    collection: str
    status: AuditStatus
    started_at: datetime
    progress: float = Field(description="share of the work that is done, 0..1")
    report: AuditReportOut | None
    error: str | None
