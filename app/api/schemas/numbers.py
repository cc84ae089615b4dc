"""Numbers of answers, rounded to what they mean, so that no decision contradicts them.

A distance is reproducible to about three digits, a rate is known to two. Rounded to the nearest value, a distance just
beyond its threshold could look as if it were within: then the distance is rounded away from the threshold instead.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, ROUND_UP, Context, Decimal
from typing import Annotated

from pydantic import AfterValidator

DISTANCE_DIGITS = 4
"""Decimals of distances, thresholds, crowding and margins; similarities have one more, being half as large."""
NORM_DIGITS = 2
"""Decimals of embedding norms."""

NEAREST, DOWN, UP, AWAY = ROUND_HALF_EVEN, ROUND_FLOOR, ROUND_CEILING, ROUND_UP
"""Ways to round; ``AWAY`` is away from zero."""


def decimals(value: float, digits: int, rounding: str = NEAREST) -> float:
    """A finite number with so many decimals. Monotonic, and ``DOWN`` and ``UP`` never pass the value."""
    return float(Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), rounding=rounding)) + 0.0


def significant(value: float, digits: int = 3, rounding: str = NEAREST) -> float:
    """A finite number with so many significant digits."""
    return float(Context(prec=digits, rounding=rounding).create_decimal(repr(float(value)))) + 0.0


def distance_shown(distance: float, threshold: float) -> float:
    """A distance, nearest but on its side of the threshold, which is itself shown rounded down.

    So ``distance <= threshold`` holds for the numbers shown exactly if it does for these.
    """
    shown = decimals(distance, DISTANCE_DIGITS)
    if (shown <= threshold) == (distance <= threshold):
        return shown
    return decimals(distance, DISTANCE_DIGITS, DOWN if distance <= threshold else UP)


def similarity_shown(shown: float) -> float:
    """The cosine that belongs to a distance as shown."""
    return decimals(1 - shown / 2, DISTANCE_DIGITS + 1)


def shown_beside(value: float, limit: float, digits: int) -> float:
    """A value, nearest but on its side of a limit that is shown rounded up: below it, or not."""
    shown, highest = decimals(value, digits), decimals(limit, digits, UP)
    if (shown < highest) == (value < limit):
        return shown
    return decimals(value, digits, DOWN if value < limit else UP)


Tenth = Annotated[float, AfterValidator(lambda value: decimals(value, 1))]
"""Pixels or degrees."""
Distance = Annotated[float, AfterValidator(lambda value: decimals(value, DISTANCE_DIGITS))]
Threshold = Annotated[float, AfterValidator(lambda value: decimals(value, DISTANCE_DIGITS, DOWN))]
BeyondThreshold = Annotated[float, AfterValidator(lambda value: decimals(value, DISTANCE_DIGITS, UP))]
"""A distance that is above its threshold."""
Norm = Annotated[float, AfterValidator(lambda value: decimals(value, NORM_DIGITS))]
WeakNorm = Annotated[float, AfterValidator(lambda value: decimals(value, NORM_DIGITS, DOWN))]
"""A norm that is below its limit."""
NormLimit = Annotated[float, AfterValidator(lambda value: decimals(value, NORM_DIGITS, UP))]
MarginLimit = Annotated[float, AfterValidator(lambda value: decimals(value, DISTANCE_DIGITS, UP))]
Rate = Annotated[float, AfterValidator(significant)]
"""A measured rate."""
LowestRate = Annotated[float, AfterValidator(lambda value: significant(value, 3, UP))]
"""A rate that a request may ask for."""
