"""Schemas of criteria, thresholds and measured rates."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.api.schemas import numbers
from app.api.schemas.common import AttributesModel, Number
from app.decisions import Claim, CriterionKind, CriterionSource, RequestedCriterion

Rate = Annotated[float, Field(gt=0, lt=1)]


class ThresholdChoice(BaseModel):
    """A request's own criterion for a match; at most one may be given."""

    max_distance: Number | None = Field(
        default=None, ge=0, le=4, description="largest squared distance that matches, in place of a target"
    )
    min_similarity: Number | None = Field(
        default=None, ge=-1, le=1, description="smallest cosine similarity that matches, in place of a target"
    )

    claim: Claim | None = Field(
        default=None,
        description="for whom the target holds: every_group (each group of people that was measured) or pooled (the "
        "average over all pairs); the collection's or the service's if left out",
    )

    @model_validator(mode="after")
    def _one_criterion(self) -> Self:
        given = [name for name in CRITERIA if getattr(self, name, None) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of these, not several: {', '.join(given)}")
        if self.claim is not None and (self.max_distance is not None or self.min_similarity is not None):
            raise ValueError("a claim is about a rate: give it with a target, not with a distance or a similarity")
        return self

    def requested(self) -> RequestedCriterion:
        """What the request asks for."""
        # 2 - 2 * 0.55 is 0.8999999999999999: without this, a similarity that is shown as 0.55 would not match.
        distance = self.max_distance if self.min_similarity is None else round(2 - 2 * self.min_similarity, 12)
        target = getattr(self, "target_fmr", None) or getattr(self, "target_fpir", None)
        return RequestedCriterion(target, distance, self.claim)


CRITERIA = (*(kind.value for kind in CriterionKind), "min_similarity")


class EstimateOut(AttributesModel):
    """A measured rate, 0..1, and the bounds of its 95 % bootstrap interval over subjects."""

    value: numbers.Rate
    low: numbers.Rate
    high: numbers.Rate


class RateOut(BaseModel):
    """The false match rate at a distance or a threshold."""

    value: numbers.Rate
    low: numbers.Rate
    high: numbers.Rate
    at_most: bool = Field(description="it is smaller than any that could be measured: the rate is this or lower")


class WorstGroupOut(RateOut):
    """The false match rate in the measured group of people where it is highest."""

    group: str


class GroupPointOut(AttributesModel):
    """A threshold and the rates of one comparison within a group; FNMR is null if nobody in it has two faces."""

    threshold: numbers.Threshold
    false_match_rate: RateOut
    false_non_match_rate: EstimateOut | None


class OperatingPointOut(GroupPointOut):
    """A threshold and the error rates of one comparison measured at it, or at the next more permissive one measured."""

    threshold: numbers.Threshold = Field(description="as measured, for two faces of usual crowding")
    false_match_rate: RateOut = Field(description="over all pairs")
    false_non_match_rate: EstimateOut


class GroupOut(AttributesModel):
    """Rates among people of one kind, compared only with each other."""

    model_config = ConfigDict(from_attributes=True, populate_by_name=True)

    name: str
    definition: str
    claimed: bool = Field(description="whether a target with the claim every_group holds for it")
    part_of: str | None = Field(
        description="the larger group whose rates are used where this one is too small to show them"
    )
    subjects: int
    faces: int
    smallest_supported_fmr: numbers.LowestRate = Field(
        validation_alias="smallest_supported", description="the lowest false match rate that can be claimed within it"
    )
    operating_points: list[GroupPointOut]


class CriterionOut(BaseModel):
    """What the threshold follows from."""

    kind: CriterionKind
    value: float = Field(description="a rate, 0..1, or a squared distance, 0..4")
    set_by: CriterionSource
    claim: Claim | None = Field(description="for whom the rate is promised; null for a distance")
    bound_by: str | None = Field(
        description="the group that needs the strictest threshold; null if all pairs together do"
    )
    met: bool = Field(
        description="false where a default, the service's or the collection's, asks for more than the calibration "
        "supports for this number of subjects; the strictest supported threshold is used instead"
    )


class OperatingPointWithGroup(OperatingPointOut):
    """A threshold, its error rates, and the false match rate in the group of people where it is highest."""

    worst_group: WorstGroupOut | None = Field(description="null where no groups were measured")


CROWDING = (
    "how much lower than usual the threshold is, because many faces look like these two; negative where it is higher"
)
RATE_HERE = "at this distance, or at the next larger one that was measured, over all pairs; null beyond 50 %"
WORST_HERE = "the same in the group of people where it is highest; null beyond 10 % in one of them, or without groups"
