from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.api import presenters
from app.api.schemas import numbers
from app.api.schemas.recognition import VerifyRequest
from app.decisions import Decision, decide
from app.faces import Quality, QualityLimits
from app.faces.quality import with_issues

DISTANCES = st.floats(0, 4)
NEAR = st.tuples(DISTANCES, st.floats(-2e-4, 2e-4)).map(lambda pair: (pair[0], pair[0] + pair[1]))
"""A threshold and a distance so near to it that rounding could swap them."""


@given(NEAR | st.tuples(DISTANCES, DISTANCES))
@example((0.8, 0.80003))
@example((0.80007, 0.80006))
@example((0.29, math.nextafter(0.29, 1)))
def test_a_distance_is_shown_within_its_threshold_exactly_if_it_is(pair: tuple[float, float]) -> None:
    threshold, distance = pair
    matches = decide(distance, threshold) is Decision.MATCH
    shown = numbers.distance_shown(distance, threshold)
    bound = numbers.decimals(threshold, numbers.DISTANCE_DIGITS, numbers.DOWN)
    # By the numbers shown, and by the threshold that a request gave, however many digits it has.
    assert (shown <= bound) is (shown <= threshold) is matches
    assert abs(shown - distance) <= 1e-4 + 1e-12
    assert bound <= threshold < bound + 1e-4 + 1e-12
    assert (numbers.similarity_shown(shown) >= numbers.similarity_shown(bound)) is matches


@given(st.integers(-100, 100).map(lambda hundredths: hundredths / 100), st.floats(-2e-4, 2e-4))
@example(0.55, 3e-5)
def test_a_similarity_that_is_asked_for_is_not_contradicted(asked: float, change: float) -> None:
    request = VerifyRequest(image=b"x", reference=b"x", min_similarity=asked)
    threshold = request.requested().max_distance
    assert threshold is not None
    distance = 2 - 2 * asked + change
    matches = decide(distance, threshold) is Decision.MATCH
    assert (numbers.similarity_shown(numbers.distance_shown(distance, threshold)) >= asked) is matches


@given(st.floats(0, 30), st.floats(-0.02, 0.02), st.sampled_from([2, 4]))
def test_a_value_is_shown_below_its_limit_exactly_if_it_is(limit: float, change: float, digits: int) -> None:
    value = limit + change
    shown = numbers.shown_beside(value, limit, digits)
    assert (shown < numbers.decimals(limit, digits, numbers.UP)) is (value < limit)
    assert abs(shown - value) <= 10**-digits + 1e-12


@given(st.floats(1e-9, 1), st.integers(2, 4))
def test_a_rate_that_may_be_asked_for_is_never_below_the_lowest(rate: float, digits: int) -> None:
    up = numbers.significant(rate, digits, numbers.UP)
    assert rate <= up <= rate * (1 + 10 ** (1 - digits)) + 1e-15
    assert numbers.significant(rate, digits) == pytest.approx(rate, rel=0.51 * 10 ** (1 - digits))


@given(st.floats(0, 300), st.floats(0, 3000), st.floats(0, 255), st.floats(0, 128), st.floats(-2, 2))
@example(15.96, 16.96, 29.96, 11.96, 0.754)
@example(16.0, 17.0, 235.4, 12.0, -0.754)
def test_measures_are_shown_outside_their_limits_exactly_if_an_issue_says_so(
    eye_distance: float, sharpness: float, brightness: float, contrast: float, yaw: float
) -> None:
    limits = QualityLimits()
    measured = with_issues(Quality(eye_distance, sharpness, brightness, contrast, yaw, 0.0, 0.9), limits)
    shown = presenters.quality(measured)
    again = Quality(shown.eye_distance, shown.sharpness, shown.brightness, shown.contrast, shown.yaw, 0.0, 0.9)
    assert with_issues(again, limits).issues == measured.issues == tuple(shown.issues)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0000251234, 0.0000251), (0.23678, 0.237), (0.0, 0.0), (688.35, 688.0), (47.07, 47.1)]
)
def test_three_digits_of_a_rate_or_a_measure(value: float, shown: float) -> None:
    assert numbers.significant(value) == shown


def test_nothing_is_shown_as_minus_zero() -> None:
    assert math.copysign(1, numbers.decimals(-0.0000001, 4)) == 1
    assert math.copysign(1, numbers.significant(-0.0)) == 1
