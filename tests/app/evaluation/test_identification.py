from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from app.decisions.curves import Estimate, GroupPoint
from app.evaluation import identification
from app.evaluation.identification import gallery_sizes, margin_limit

Floats = npt.NDArray[np.float32]

SUBJECT = np.repeat(np.arange(12), [3, 1, 2, 4, 2, 3, 1, 2, 2, 3, 1, 2])
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(12, 6))[SUBJECT] + 0.5 * RNG.normal(size=(len(SUBJECT), 6))
EMBEDDINGS: Floats = (VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)).astype(np.float32)
CROWDING: Floats = RNG.uniform(-0.4, 0.4, len(SUBJECT)).astype(np.float32)


def measured(threshold: float, rate: float) -> GroupPoint:
    estimate = Estimate(value=rate, low=rate, high=rate)
    return GroupPoint(threshold=threshold, false_match_rate=estimate, false_non_match_rate=None)


POINTS = [measured(1.2, 0.02), measured(0.8, 0.01), measured(0.5, 0.001)]


def naive_rate(size: int, draw: int, threshold: float) -> float:
    """The share of strangers' faces that find somebody, one comparison after the other."""
    rng = np.random.default_rng([size, draw])
    order = rng.permutation(12)
    gallery = [int(rng.choice(np.flatnonzero(s == SUBJECT))) for s in order[:size]]
    found = []
    for face in range(len(SUBJECT)):
        if SUBJECT[face] not in order[:size]:
            distances = [
                float(np.square(EMBEDDINGS[face] - EMBEDDINGS[g]).sum() + CROWDING[face] + CROWDING[g]) for g in gallery
            ]
            found.append(min(distances) <= threshold)
    return float(np.mean(found))


@pytest.mark.parametrize("group", [None, "women"])
def test_strangers_find_somebody_as_often_as_counting_gives(monkeypatch: pytest.MonkeyPatch, group: str | None) -> None:
    monkeypatch.setattr(identification, "SIZES", (3, 8, 11))
    monkeypatch.setattr(identification, "GALLERIES", 6)
    # Of 12 people 11 leave too few to search as strangers, and the loosest point says nothing of galleries.
    small, large = gallery_sizes(EMBEDDINGS, SUBJECT, CROWDING, POINTS, group)
    assert (small.subjects, large.subjects, small.group, large.group) == (3, 8, group, group)
    for size in (small, large):
        assert [p.false_match_rate for p in size.points] == [0.01, 0.001]
        for found, threshold in zip(size.points, (0.8, 0.5), strict=True):
            rates = [naive_rate(size.subjects, draw, threshold) for draw in range(6)]
            estimate = found.false_positive_identification_rate
            assert estimate.value == pytest.approx(np.mean(rates))
            assert (estimate.low, estimate.high) == pytest.approx(np.quantile(rates, [0.025, 0.975]))
            assert found.predicted == pytest.approx(1 - (1 - found.false_match_rate) ** size.subjects)
    assert large.points[0].false_positive_identification_rate.value > 0


def test_without_a_strict_point_or_enough_people_there_is_nothing_to_search() -> None:
    assert list(gallery_sizes(EMBEDDINGS, SUBJECT, CROWDING, POINTS[:1])) == []
    few = SUBJECT < 8
    assert list(gallery_sizes(EMBEDDINGS[few], SUBJECT[few], CROWDING[few], POINTS)) == []


def test_margins_are_those_of_adjusted_distances() -> None:
    plain = margin_limit(EMBEDDINGS, SUBJECT, np.zeros_like(CROWDING), 1.2)
    assert sum(band.searches for band in plain.bands) > 20
    # As much for everybody moves the threshold and changes no margin.
    shifted = margin_limit(EMBEDDINGS, SUBJECT, np.full_like(CROWDING, 0.25), 1.7)
    assert [b.searches for b in shifted.bands] == [b.searches for b in plain.bands]
    assert [b.longest for b in shifted.bands] == pytest.approx([b.longest for b in plain.bands], abs=1e-5)
    uneven = margin_limit(EMBEDDINGS, SUBJECT, CROWDING, 1.2)
    assert [b.longest for b in uneven.bands] != pytest.approx([b.longest for b in plain.bands], abs=1e-2)
