"""Schemas of audits."""

from __future__ import annotations

from datetime import datetime

from pydantic import ConfigDict, Field

from app.api import examples
from app.api.schemas import numbers
from app.api.schemas.common import AttributesModel
from app.api.schemas.decisions import EstimateOut
from app.audits.jobs import AuditStatus
from app.audits.report import Population


class SubjectPairOut(AttributesModel):
    """Two subjects and how far apart they are."""

    first: str
    second: str
    distance: numbers.Distance = Field(
        description="squared, from the newest template of the one with fewer to the fused templates of the other"
    )
    false_match_rate: numbers.Rate | None = Field(
        description="how often at most two different people are as near; null beyond 50 %"
    )


class OutlierOut(AttributesModel):
    """A template that does not match the rest of its subject."""

    subject_id: str
    template_id: str
    distance: numbers.BeyondThreshold = Field(description="squared, to the fused template of the others")
    threshold: numbers.Threshold


class WeakTemplateOut(AttributesModel):
    """A template whose embedding has a small norm."""

    subject_id: str
    template_id: str
    norm: numbers.WeakNorm


class RateCheckOut(AttributesModel):
    """At one threshold: the calibrated false match rate and the share of the collection's own pairs within it."""

    threshold: numbers.Threshold
    calibrated: EstimateOut
    observed: EstimateOut
    pairs: int


class AuditReportOut(AttributesModel):
    """The findings. Lists hold the most notable ones; counts cover all."""

    created_at: datetime
    subjects: int
    templates: int
    population: Population = Field(description="whether these people are as far apart as those of the calibration")
    duplicate_count: int
    duplicates: list[SubjectPairOut] = Field(
        description="within the default threshold for as many templates: possibly enrolled twice"
    )
    confusable: list[SubjectPairOut] = Field(description="the most similar subjects")
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
    progress: float = Field(description="share of the work done, 0..1")
    report: AuditReportOut | None
    error: str | None
