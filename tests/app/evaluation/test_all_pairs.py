from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.evaluation.pairs import (
    PairDistances,
    accepted_share,
    all_pair_distances,
    can_show,
    tar_at_far,
    threshold_at_fmr,
)
from tests.model.support import unit_vectors

Floats = npt.NDArray[np.float32]


def ascending(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


TENTHS = ascending(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@pytest.mark.parametrize(("fmr", "accepted"), [(0.1, 1), (0.19, 1), (0.2, 2), (0.3, 3), (0.7, 7), (0.99, 9), (1.0, 10)])
def test_threshold_accepts_what_was_asked_for(fmr: float, accepted: int) -> None:
    threshold = threshold_at_fmr(TENTHS, fmr)
    assert int((threshold >= TENTHS).sum()) == accepted
    # The largest such threshold: the next float accepts one more.
    if accepted < len(TENTHS):
        assert np.nextafter(np.float32(threshold), np.float32(5)) == TENTHS[accepted]


def test_threshold_refuses_all_of_several_equal_distances_at_the_boundary() -> None:
    distances = ascending(0.1, 0.2, 0.2, 0.2, 0.5)
    assert accepted_share(distances, threshold_at_fmr(distances, 0.4)) == 0.2
    assert accepted_share(distances, threshold_at_fmr(distances, 0.8)) == 0.8


def test_threshold_accepts_nothing_where_too_many_pairs_are_equal() -> None:
    for lowest in (0.0, 0.2):
        distances = ascending(lowest, lowest, 0.5, 0.6)
        assert accepted_share(distances, threshold_at_fmr(distances, 0.25)) == 0


@given(
    distances=st.lists(st.floats(0, 4, width=32), min_size=1, max_size=40),
    fmr=st.floats(1e-3, 1),
    double=st.booleans(),
)
def test_threshold_never_accepts_more_than_asked(distances: list[float], fmr: float, double: bool) -> None:
    values = np.sort(np.array(distances, dtype=np.float64 if double else np.float32)) * (1 / 3 if double else 1)
    if not can_show(values, fmr):
        with pytest.raises(ValueError, match="cannot show"):
            threshold_at_fmr(values, fmr)
        return
    threshold = threshold_at_fmr(values, fmr)
    accepted = int((values <= threshold).sum())
    assert accepted <= fmr * len(values) + 1e-6
    # Nor less than it must: one distance higher would be too many.
    if accepted < len(values):
        assert (values <= values[accepted]).sum() > fmr * len(values) - 1e-6


@pytest.mark.parametrize(("pairs", "fmr", "shown"), [(10, 0.1, True), (9, 0.1, False), (0, 0.5, False), (3, 1.0, True)])
def test_one_false_match_must_fit_in_the_rate(pairs: int, fmr: float, shown: bool) -> None:
    assert can_show(np.zeros(pairs, dtype=np.float32), fmr) is shown


def test_too_few_pairs_are_an_error_that_names_them() -> None:
    with pytest.raises(ValueError, match=r"10 non-mated pairs cannot show a false match rate of 0\.01"):
        threshold_at_fmr(TENTHS, 0.01)


def test_accepted_share_of_hand_computed_distances() -> None:
    distances = ascending(0.25, 0.5, 0.5, 1.0)
    shares = {t: accepted_share(distances, t) for t in (0.0, 0.25, 0.4, 0.5, 0.99, 1.0, 4.0)}
    assert shares == {0.0: 0, 0.25: 0.25, 0.4: 0.25, 0.5: 0.75, 0.99: 0.75, 1.0: 1, 4.0: 1}


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no distances"):
        accepted_share(ascending(), 1.0)


def test_tar_at_far_of_hand_computed_distances() -> None:
    pairs = PairDistances(mated=ascending(0.1, 0.45, 0.5, 0.9), non_mated=TENTHS + np.float32(0.3))
    # One of ten may pass: all mated pairs nearer than the second non-mated one, at 0.5.
    assert tar_at_far(pairs, 0.1) == 0.5
    assert tar_at_far(pairs, 0.2) == 0.75
    assert tar_at_far(pairs, 1.0) == 1


def naive_pairs(
    embeddings: Floats, identity: npt.NDArray[np.int64], family: npt.NDArray[np.int64] | None
) -> tuple[list[float], list[float]]:
    mated, non_mated = [], []
    for i in range(len(embeddings)):
        for j in range(i + 1, len(embeddings)):
            distance = float(np.square(embeddings[i] - embeddings[j]).sum())
            related = family is not None and family[i] == family[j] and family[i] >= 0
            if identity[i] == identity[j]:
                mated.append(distance)
            elif not related:
                non_mated.append(distance)
    return sorted(mated), sorted(non_mated)


@pytest.mark.parametrize("block", [1, 2, 7, 23, 24, 1000])
@pytest.mark.parametrize("with_family", [False, True])
def test_all_pairs_are_those_of_the_naive_loop(block: int, with_family: bool) -> None:
    rng = np.random.default_rng(3)
    embeddings, identity = unit_vectors(23, seed=1), rng.integers(0, 6, 23)
    # Identities 0 and 1 are relatives, 2 and 3 too, of 4 and 5 no family is known.
    family = np.array([0, 0, 1, 1, -1, -1])[identity] if with_family else None
    mated, non_mated = naive_pairs(embeddings, identity, family)
    pairs = all_pair_distances(embeddings, identity, family, block=block)
    np.testing.assert_allclose(pairs.mated, mated, atol=2e-6)
    np.testing.assert_allclose(pairs.non_mated, non_mated, atol=2e-6)


def test_relatives_are_left_out_of_non_mated_pairs_only() -> None:
    embeddings, identity = unit_vectors(6), np.array([0, 0, 1, 1, 2, 2])
    every = all_pair_distances(embeddings, identity)
    unrelated = all_pair_distances(embeddings, identity, np.array([0, 0, 0, 0, -1, -1]))
    assert (len(every.mated), len(every.non_mated)) == (3, 12)
    assert (len(unrelated.mated), len(unrelated.non_mated)) == (3, 8)


def test_equal_faces_are_at_distance_zero_and_opposite_ones_at_four() -> None:
    one = unit_vectors(1, 128)
    pairs = all_pair_distances(np.concatenate([one, one, -one]), np.array([0, 0, 1]))
    assert pairs.mated.tolist() == pytest.approx([0], abs=1e-6)
    assert pairs.mated.min() >= 0
    assert pairs.non_mated.tolist() == pytest.approx([4, 4], abs=1e-5)
