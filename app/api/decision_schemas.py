"""How decisions are asked for and answered: criteria, thresholds and measured rates over the wire."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.decisions import Criterion, CriterionKind, Origin

Rate = Annotated[float, Field(gt=0, lt=1)]


class ThresholdChoice(BaseModel):
    """What a match is, where a request says it itself: at most one of its members is given."""

    max_distance: float | None = Field(
        default=None, ge=0, le=4, description="largest squared distance that matches, in place of a target"
    )
    min_similarity: float | None = Field(
        default=None, ge=-1, le=1, description="smallest cosine similarity that matches, in place of a target"
    )

    @model_validator(mode="after")
    def _one_criterion(self) -> Self:
        given = [name for name in CRITERIA if getattr(self, name, None) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of these, not several: {', '.join(given)}")
        return self

    def criterion(self) -> Criterion | None:
        """What the request asks for; None where it leaves that to the service."""
        if self.min_similarity is not None:
            return Criterion(CriterionKind.MAX_DISTANCE, 2 - 2 * self.min_similarity, Origin.REQUEST)
        for kind in CriterionKind:
            value = getattr(self, kind.value, None)
            if value is not None:
                return Criterion(kind, value, Origin.REQUEST)
        return None


CRITERIA = (*(kind.value for kind in CriterionKind), "min_similarity")


class _FromAttributes(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class EstimateOut(_FromAttributes):
    """A measured rate, 0..1, and the bounds of its 95 % interval over draws of subjects."""

    value: float
    low: float
    high: float


class RateOut(BaseModel):
    """The false match rate at a distance."""

    value: float
    low: float
    high: float
    at_most: bool = Field(description="the distance is nearer than what could be measured: the rate is this or lower")


class OperatingPointOut(_FromAttributes):
    """A threshold and the error rates of one comparison measured at it, or at the next more permissive one measured."""

    threshold: float = Field(description="the measured one")
    false_match_rate: EstimateOut
    false_non_match_rate: EstimateOut


class CriterionOut(BaseModel):
    """Where the threshold comes from."""

    kind: CriterionKind
    value: float = Field(description="a rate, 0..1, or a squared distance, 0..4")
    set_by: Origin
    met: bool = Field(
        description="false where a default, the service's or the collection's, asks for more than the calibration "
        "supports for so many subjects; the strictest supported threshold then stands in"
    )
