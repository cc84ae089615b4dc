from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app.decisions import Decision, decide, similarity

DISTANCES = st.floats(0, 4)


@given(distance=DISTANCES, threshold=DISTANCES)
def test_a_distance_up_to_the_threshold_matches(distance: float, threshold: float) -> None:
    assert (decide(distance, threshold) is Decision.MATCH) is (distance <= threshold)


@given(threshold=DISTANCES)
def test_the_threshold_itself_matches_and_the_next_number_does_not(threshold: float) -> None:
    assert decide(threshold, threshold) is Decision.MATCH
    assert decide(float(np.nextafter(threshold, 5)), threshold) is Decision.NO_MATCH


@given(near=DISTANCES, far=DISTANCES, threshold=DISTANCES)
def test_what_is_nearer_never_does_worse(near: float, far: float, threshold: float) -> None:
    near, far = sorted((near, far))
    if decide(far, threshold) is Decision.MATCH:
        assert decide(near, threshold) is Decision.MATCH


@given(distance=DISTANCES, strict=DISTANCES, loose=DISTANCES)
def test_a_looser_threshold_never_takes_a_match_away(distance: float, strict: float, loose: float) -> None:
    strict, loose = sorted((strict, loose))
    if decide(distance, strict) is Decision.MATCH:
        assert decide(distance, loose) is Decision.MATCH


@pytest.mark.parametrize(
    ("distance", "threshold"), [(float("nan"), 4), (0, float("nan")), (float("nan"), float("inf"))]
)
def test_what_is_no_number_never_matches(distance: float, threshold: float) -> None:
    assert decide(distance, threshold) is Decision.NO_MATCH


@given(pair=arrays.arrays(np.float64, (2, 8), elements=st.floats(-1, 1)))
def test_similarity_is_the_cosine_of_unit_vectors(pair: np.ndarray) -> None:
    norms = np.linalg.norm(pair, axis=1, keepdims=True)
    if norms.min() < 1e-3:
        return
    a, b = pair / norms
    assert similarity(float(np.square(a - b).sum())) == pytest.approx(float(a @ b), abs=1e-9)


@pytest.mark.parametrize(("distance", "cosine"), [(0.0, 1.0), (2.0, 0.0), (4.0, -1.0), (1.0, 0.5)])
def test_similarity_of_known_distances(distance: float, cosine: float) -> None:
    assert similarity(distance) == cosine
