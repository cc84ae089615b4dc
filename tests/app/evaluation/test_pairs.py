from __future__ import annotations

import numpy as np
import pytest

from app.evaluation.calibration import measure_curve
from app.evaluation.pairs import adjusted_distances, pair_blocks, threshold_at_fmr
from app.evaluation.rates import single_templates
from tests.model.support import unit_vectors


@pytest.mark.parametrize("block", [1, 3, 100])
def test_every_pair_comes_once_with_the_crowding_of_both(block: int) -> None:
    embeddings, identity = unit_vectors(10, 6), np.array([0, 0, 1, 2, 2, 2, 3, 3, 4, 0])
    crowding = np.random.default_rng(0).uniform(-1, 1, 10).astype(np.float32)
    for crowded in (None, crowding):
        seen = dict[tuple[int, int], float]()
        for start, distances, same, other in pair_blocks(embeddings, identity, block, crowded):
            assert not (same & other).any()
            for row, column in np.argwhere(same | other).tolist():
                pair = (row + start, column + start)
                assert pair not in seen
                assert same[row, column] == (identity[pair[0]] == identity[pair[1]])
                seen[pair] = float(distances[row, column])
        assert sorted(seen) == [(i, j) for i in range(10) for j in range(i + 1, 10)]
        for (i, j), distance in seen.items():
            both = 0.0 if crowded is None else float(crowded[i]) + float(crowded[j])
            assert distance == pytest.approx(np.square(embeddings[i] - embeddings[j]).sum() + both, abs=1e-5)


def test_a_distance_is_never_below_zero_and_what_it_is_adjusted_to_may_be() -> None:
    # Rounding makes the product of a vector with itself a little more than 1.
    vectors, none = unit_vectors(200, 128), np.zeros(200, dtype=np.float32)
    assert adjusted_distances(vectors, vectors, none, none).min() == 0
    crowding = np.full(200, -0.25, dtype=np.float32)
    assert np.diagonal(adjusted_distances(vectors, vectors, crowding, crowding)).max() == pytest.approx(-0.5, abs=1e-5)


@pytest.mark.parametrize("least", [-1.5, -0.2, 0.0, 0.3])
def test_a_threshold_lies_just_below_what_must_be_refused_whatever_its_sign(least: float) -> None:
    non_mated = np.array([least + 0.1 * place for place in range(10)], dtype=np.float32)
    for allowed in range(1, 10):
        threshold = threshold_at_fmr(non_mated, allowed / 10)
        assert (non_mated <= threshold).sum() == allowed
        assert threshold == pytest.approx(float(non_mated[allowed]), abs=1e-6)
        assert np.float32(threshold) < non_mated[allowed]
    assert threshold_at_fmr(non_mated, 1.0) == non_mated[-1]


def test_the_points_of_faces_that_stand_alone_may_lie_below_zero() -> None:
    embeddings, subject = np.repeat(unit_vectors(60, 3), 2, axis=0), np.repeat(np.arange(60), 2)
    plain = measure_curve(single_templates(embeddings, subject, np.zeros(120, dtype=np.float32)), 60, 1)
    alone = measure_curve(single_templates(embeddings, subject, np.full(120, -0.5, dtype=np.float32)), 60, 1)
    assert alone.strictest.threshold < 0 < alone.operating_points[0].threshold
    for target in (0.1, 0.05, 0.02):
        one, other = plain.at_rate(target), alone.at_rate(target)
        assert one is not None
        assert other is not None
        assert other.threshold == pytest.approx(one.threshold - 1, abs=1e-5)
