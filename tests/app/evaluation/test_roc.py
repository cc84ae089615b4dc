from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.evaluation.bootstrap import REPLICATES, Interval, bootstrap_weights, interval
from app.evaluation.pairs import PairDistances, all_pair_distances, can_show, tar_at_far
from app.evaluation.roc import Comparisons, all_comparisons, bootstrap_tar
from tests.model.support import unit_vectors

Floats = npt.NDArray[np.float32]
Mated = tuple[float, int]
NonMated = tuple[float, int, int]

FARS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.25, 0.5, 0.75, 0.9)


def ascending(*values: float) -> Floats:
    return np.sort(np.array(values, dtype=np.float32))


def make_comparisons(mated: Sequence[Mated], non_mated: Sequence[NonMated], subjects: int) -> Comparisons:
    """From (distance, subject) and (distance, subject, another subject), in any order."""
    mated, non_mated = sorted(mated), sorted(non_mated)
    return Comparisons(
        mated=np.array([pair[0] for pair in mated], dtype=np.float32),
        mated_subject=np.array([pair[1] for pair in mated], dtype=np.int64),
        non_mated=np.array([pair[0] for pair in non_mated], dtype=np.float32),
        non_mated_subjects=np.array([pair[1:] for pair in non_mated], dtype=np.int64).reshape(-1, 2),
        subjects=subjects,
    )


def replicated(comparisons: Comparisons, weights: Sequence[float]) -> PairDistances:
    """Every pair written out as often as its subjects were drawn."""
    mated, non_mated = [], []
    for distance, subject in zip(comparisons.mated, comparisons.mated_subject, strict=True):
        mated += [distance] * int(weights[subject])
    for distance, (a, b) in zip(comparisons.non_mated, comparisons.non_mated_subjects, strict=True):
        non_mated += [distance] * int(weights[a] * weights[b])
    return PairDistances(ascending(*mated), ascending(*non_mated))


def counted_tar(pairs: PairDistances, far: float) -> float:
    if can_show(pairs.non_mated, far):
        return tar_at_far(pairs, far)
    # Where no false accept is allowed, what is nearer than every non-mated pair is accepted.
    return float((pairs.mated < pairs.non_mated[0]).mean())


# Sixteenths, so that ties are common.
LEVELS = st.integers(0, 12).map(lambda n: n / 16)
PAIRS = st.integers(2, 5).flatmap(
    lambda subjects: st.tuples(
        st.lists(st.tuples(LEVELS, st.integers(0, subjects - 1)), min_size=1, max_size=15),
        st.lists(
            st.tuples(LEVELS, st.integers(0, subjects - 1), st.integers(1, subjects - 1)).map(
                lambda pair: (pair[0], pair[1], (pair[1] + pair[2]) % subjects)
            ),
            min_size=1,
            max_size=25,
        ),
        st.lists(st.integers(0, 3), min_size=subjects, max_size=subjects),
    )
)
RATES = st.one_of(st.sampled_from(FARS), st.floats(1e-3, 0.999))


# --- rates of weighted pairs


@given(pairs=PAIRS, far=RATES)
def test_with_every_subject_once_the_rate_is_that_of_the_metrics(
    pairs: tuple[list[Mated], list[NonMated], list[int]], far: float
) -> None:
    mated, non_mated, weights = pairs
    comparisons = make_comparisons(mated, non_mated, len(weights))
    expected = counted_tar(PairDistances(comparisons.mated, comparisons.non_mated), far)
    assert comparisons.tar_at_far((far,)) == [expected]
    assert comparisons.tar_at_far((far,), np.ones(len(weights))) == [expected]


@given(pairs=PAIRS, far=RATES)
def test_a_subject_drawn_twice_counts_as_two(pairs: tuple[list[Mated], list[NonMated], list[int]], far: float) -> None:
    mated, non_mated, weights = pairs
    comparisons = make_comparisons(mated, non_mated, len(weights))
    written_out = replicated(comparisons, weights)
    if not len(written_out.mated) or not len(written_out.non_mated):
        return
    rates = comparisons.tar_at_far((far,), np.array(weights, dtype=np.float64))
    assert rates == pytest.approx([counted_tar(written_out, far)])
    assert comparisons.non_mated_total(np.array(weights, dtype=np.float64)) == len(written_out.non_mated)


def test_weighted_rates_of_a_hand_computed_case() -> None:
    comparisons = make_comparisons(
        mated=[(0.1, 0), (0.2, 1), (0.3, 2), (0.5, 0)],
        non_mated=[(0.25, 0, 1), (0.4, 0, 2), (0.6, 1, 2), (0.7, 2, 0)],
        subjects=3,
    )
    # Subject 1 is not drawn: mated pairs are left twice at 0.1, once at 0.3 and twice at 0.5, non-mated ones twice at
    # 0.4 and twice at 0.7.
    weights = np.array([2.0, 0.0, 1.0])
    assert comparisons.non_mated_total(weights) == 4
    assert comparisons.tar_at_far((0.4, 0.5, 0.9, 1.0), weights) == [3 / 5, 1, 1, 1]
    assert comparisons.tar_at_far((0.2, 0.25, 0.5), np.ones(3)) == [2 / 4, 3 / 4, 1]


@given(pairs=PAIRS, far=RATES)
def test_below_the_threshold_lies_at_most_the_share_asked_for(
    pairs: tuple[list[Mated], list[NonMated], list[int]], far: float
) -> None:
    comparisons = make_comparisons(*pairs[:2], subjects=len(pairs[2]))
    threshold = comparisons.threshold_at_far(far)
    assert (comparisons.non_mated < threshold).mean() <= far + 1e-9
    assert (comparisons.non_mated <= threshold).mean() > far
    accepted = float((comparisons.mated < threshold).mean())
    assert comparisons.tar_at_far((far,)) == [accepted]


# --- the nearest of all pairs


def nearest_of_a_hundred(kept: int) -> Comparisons:
    """Ten subjects of one face and two of five, which gives 2 x 10 mated and 45 + 100 + 25 non-mated pairs."""
    return Comparisons(
        mated=np.linspace(0.1, 0.9, 20, dtype=np.float32),
        mated_subject=np.repeat([10, 11], 10),
        non_mated=np.linspace(0.3, 0.3 + 0.01 * (kept - 1), kept, dtype=np.float32),
        non_mated_subjects=np.stack([np.arange(kept) % 10, np.full(kept, 10)], axis=1),
        subjects=12,
        faces=np.array([1] * 10 + [5] * 2),
    )


def test_pairs_that_are_not_listed_count_in_the_total() -> None:
    comparisons = nearest_of_a_hundred(5)
    assert comparisons.non_mated_total(np.ones(12)) == 170
    # Of the one subject of five faces drawn twice, the other not at all, and one of the single faces: 2 * 5 pairs.
    weights = np.zeros(12)
    weights[[0, 10]] = 1, 2
    assert comparisons.non_mated_total(weights) == 10


def test_rates_beyond_the_nearest_pairs_are_an_error_that_counts_them() -> None:
    comparisons = nearest_of_a_hundred(3)
    assert comparisons.threshold_at_far(2 / 170) == pytest.approx(0.32)
    for beyond in (3 / 170, 0.5):
        with pytest.raises(ValueError, match="nearest 3 non-mated pairs are fewer than a share of"):
            comparisons.threshold_at_far(beyond)
        with pytest.raises(ValueError, match=f"fewer than a share of {beyond:g}"):
            comparisons.tar_at_far((1e-3, beyond))


def test_where_all_pairs_are_listed_every_rate_is_within_reach() -> None:
    comparisons = make_comparisons([(0.1, 0), (2.0, 1)], [(0.5, 0, 1)], subjects=2)
    assert comparisons.tar_at_far((0.5, 1.0)) == [0.5, 1.0]
    assert comparisons.threshold_at_far(1.0) == np.inf


def scattered(subjects: int = 20, count: int = 70, size: int = 16) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Faces around the centres of their subjects, whose numbers have gaps; some subjects have more faces."""
    rng = np.random.default_rng(5)
    identity = np.concatenate([np.arange(subjects), rng.integers(0, subjects // 2, count - subjects)])
    vectors = unit_vectors(subjects, size)[identity] + 0.2 * rng.normal(size=(count, size))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = rng.permutation(count)
    return vectors.astype(np.float32)[order], (3 * identity + 7)[order]


@pytest.mark.parametrize("block", [1, 7, 69, 70, 1000])
def test_all_comparisons_are_those_of_the_naive_loop(block: int) -> None:
    embeddings, identity = scattered()
    labels = sorted(set(identity.tolist()))
    mated, non_mated = [], []
    for i in range(len(identity)):
        for j in range(i + 1, len(identity)):
            distance = float(np.square(embeddings[i] - embeddings[j]).sum())
            a, b = sorted((labels.index(identity[i]), labels.index(identity[j])))
            if a == b:
                mated.append((distance, a))
            else:
                non_mated.append((distance, a, b))
    expected = make_comparisons(mated, non_mated, len(labels))
    found = all_comparisons(embeddings, identity, block=block)
    assert found.mated.dtype == np.float32
    assert found.non_mated.dtype == np.float32
    assert found.subjects == 20
    np.testing.assert_allclose(found.mated, expected.mated, atol=2e-6)
    np.testing.assert_allclose(found.non_mated, expected.non_mated, atol=2e-6)
    np.testing.assert_array_equal(found.mated_subject, expected.mated_subject)
    np.testing.assert_array_equal(np.sort(found.non_mated_subjects, axis=1), expected.non_mated_subjects)


def test_all_comparisons_are_the_pairs_of_the_metrics() -> None:
    embeddings, identity = scattered()
    found, pairs = all_comparisons(embeddings, identity), all_pair_distances(embeddings, identity)
    np.testing.assert_allclose(found.mated, pairs.mated, atol=1e-6)
    np.testing.assert_allclose(found.non_mated, pairs.non_mated, atol=1e-6)
    assert found.tar_at_far(FARS) == [counted_tar(pairs, far) for far in FARS]


@pytest.mark.parametrize("at_least", [0, 100_000])
@pytest.mark.parametrize("seed", range(3))
def test_the_total_is_that_of_the_naive_loop_over_subjects(at_least: int, seed: int) -> None:
    embeddings, identity = scattered()
    weights = np.random.default_rng(seed).integers(0, 4, 20).astype(np.float64)
    faces = [int((identity == label).sum()) for label in sorted(set(identity.tolist()))]
    total = sum(weights[a] * faces[a] * weights[b] * faces[b] for a in range(20) for b in range(a))
    assert all_comparisons(embeddings, identity, at_least=at_least).non_mated_total(weights) == pytest.approx(total)


def test_the_nearest_pairs_alone_give_the_same_rates() -> None:
    embeddings, identity = scattered()
    every = all_comparisons(embeddings, identity)
    nearest = all_comparisons(embeddings, identity, deepest=0.05, at_least=0)
    total = every.non_mated_total(np.ones(20))
    assert len(every.non_mated) == total
    assert 0.1 * total < len(nearest.non_mated) < 0.2 * total
    fars = (0.001, 0.01, 0.02, 0.05)
    rates = every.tar_at_far(fars)
    assert nearest.tar_at_far(fars) == rates
    assert 0 < rates[0] < rates[-1] < 1
    np.testing.assert_array_equal(
        bootstrap_tar(nearest, fars, replicates=100), bootstrap_tar(every, fars, replicates=100)
    )


@pytest.mark.parametrize("at_least", [200, 1000])
def test_about_so_many_pairs_are_kept_at_least(at_least: int) -> None:
    embeddings, identity = scattered()
    nearest = all_comparisons(embeddings, identity, at_least=at_least)
    assert len(nearest.non_mated) == pytest.approx(at_least, abs=2)
    np.testing.assert_array_equal(
        nearest.non_mated, all_comparisons(embeddings, identity).non_mated[: len(nearest.non_mated)]
    )


def test_two_people_who_look_alike_do_not_use_up_the_nearest_pairs() -> None:
    identity = np.arange(30).repeat(6)
    centres = unit_vectors(30, 64)
    centres[1] = centres[0]
    vectors = centres[identity] + np.random.default_rng(0).normal(0, 0.05, (180, 64))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    few = all_comparisons(vectors, identity, at_least=0)
    # Most of the nearest pairs are of these two, and gone from all draws that leave out one of them.
    with pytest.raises(ValueError, match="are fewer than a share"):
        bootstrap_tar(few, (1e-3,))
    assert bootstrap_tar(all_comparisons(vectors, identity), (1e-3,)).shape == (REPLICATES, 1)


def test_one_subject_alone_has_no_non_mated_pairs() -> None:
    found = all_comparisons(unit_vectors(4), np.zeros(4, dtype=np.int64))
    assert (len(found.mated), len(found.non_mated), found.subjects) == (6, 0, 1)
    assert found.non_mated_total(np.ones(1)) == 0


# --- draws and intervals


@pytest.mark.parametrize("subjects", [1, 2, 50])
def test_a_draw_has_as_many_subjects_as_there_are(subjects: int) -> None:
    drawn = bootstrap_weights(subjects, replicates=200)
    assert len(drawn) == 200
    for weights in drawn:
        assert weights.shape == (subjects,)
        assert weights.sum() == subjects
        assert (weights >= 0).all()
    # Each is drawn once in the mean, and not always: with replacement.
    np.testing.assert_allclose(np.mean(drawn, axis=0), 1, atol=0.35)
    assert (np.max(drawn) > 1) == (subjects > 1)


def test_draws_are_the_same_for_the_same_number_of_subjects() -> None:
    np.testing.assert_array_equal(bootstrap_weights(30), bootstrap_weights(30))
    assert len(bootstrap_weights(30)) == REPLICATES
    assert not np.array_equal(bootstrap_weights(30), bootstrap_weights(30, seed=1))
    # More replicates are the same ones and others.
    np.testing.assert_array_equal(bootstrap_weights(30, replicates=10), bootstrap_weights(30, replicates=20)[:10])


def test_replicates_are_the_rates_of_the_draws() -> None:
    embeddings, identity = scattered()
    comparisons = all_comparisons(embeddings, identity)
    rates = bootstrap_tar(comparisons, (0.02, 0.2), replicates=25)
    assert rates.dtype == np.float32
    expected = []
    for weights in bootstrap_weights(20, replicates=25):
        pairs = replicated(comparisons, weights.tolist())
        expected.append([counted_tar(pairs, far) for far in (0.02, 0.2)])
    np.testing.assert_allclose(rates, expected, atol=1e-6)


def test_without_rates_there_are_replicates_of_nothing() -> None:
    embeddings, identity = scattered()
    assert bootstrap_tar(all_comparisons(embeddings, identity), (), replicates=3).shape == (3, 0)


def test_the_interval_of_a_constant_is_that_constant() -> None:
    assert interval(0.5, np.full(100, 0.5, dtype=np.float32)) == Interval(0.5, 0.5, 0.5)


def test_the_interval_holds_the_middle_95_percent() -> None:
    spread = np.random.default_rng(0).permutation(np.linspace(0, 1, 1001)).astype(np.float32)
    found = interval(0.4, spread)
    assert found.value == 0.4
    assert (found.low, found.high) == pytest.approx((0.025, 0.975), abs=1e-6)


def test_the_interval_of_a_normal_distribution_is_two_deviations_wide() -> None:
    normal = np.random.default_rng(0).normal(10, 3, 200_000).astype(np.float32)
    found = interval(10, normal)
    assert found.low == pytest.approx(10 - 1.96 * 3, abs=0.05)
    assert found.high == pytest.approx(10 + 1.96 * 3, abs=0.05)


SUBJECTS, PAIRS_EACH = 40, 10
EASY = 0.7
"""Share of people of whom every mated pair is accepted; of the others none is."""


def alike_within_a_subject(seed: int) -> tuple[Comparisons, Comparisons]:
    """The same distances, first with the subjects behind them, then as if each mated pair were of another subject."""
    accepted = np.random.default_rng(seed).random(SUBJECTS) < EASY
    ring = [(1.0, i, (i + 1) % SUBJECTS) for i in range(SUBJECTS)]
    mated = [(0.5 if accepted[i // PAIRS_EACH] else 1.5, i) for i in range(SUBJECTS * PAIRS_EACH)]
    by_subject = make_comparisons([(d, i // PAIRS_EACH) for d, i in mated], ring, SUBJECTS)
    return by_subject, make_comparisons(mated, ring, SUBJECTS * PAIRS_EACH)


def test_pairs_of_a_subject_that_rise_and_fall_together_widen_the_interval() -> None:
    by_subject, by_pair = (interval(EASY, bootstrap_tar(c, (0.01,))[:, 0]) for c in alike_within_a_subject(0))
    # What 40 and 400 throws of a coin give (binomial).
    deviation = np.sqrt(EASY * (1 - EASY) / SUBJECTS)
    assert by_subject.high - by_subject.low == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    assert by_pair.high - by_pair.low == pytest.approx(2 * 1.96 * deviation / np.sqrt(PAIRS_EACH), rel=0.15)


def test_intervals_over_subjects_hold_the_truth_as_often_as_they_say() -> None:
    held = np.zeros(2)
    for seed in range(100):
        for kind, comparisons in enumerate(alike_within_a_subject(seed)):
            found = interval(0, bootstrap_tar(comparisons, (0.01,), replicates=200)[:, 0])
            held[kind] += found.low <= EASY <= found.high
    by_subject, by_pair = held / 100
    assert 0.9 <= by_subject <= 0.98
    assert by_pair < 0.6


def test_a_difference_on_the_same_subjects_is_surer_than_either_rate() -> None:
    rng = np.random.default_rng(0)
    good = (rng.random(SUBJECTS) < EASY).repeat(PAIRS_EACH)
    ring = [(1.0, i, (i + 1) % SUBJECTS) for i in range(SUBJECTS)]
    replicates = []
    # The second encoder refuses a few pairs more, of whomever.
    for accepted in (good, good & (rng.random(len(good)) < 0.97)):
        mated = [(0.5 if a else 1.5, i // PAIRS_EACH) for i, a in enumerate(accepted)]
        replicates.append(bootstrap_tar(make_comparisons(mated, ring, SUBJECTS), (0.01,))[:, 0])
    first, difference = interval(0, replicates[0]), interval(0, replicates[0] - replicates[1])
    assert difference.high - difference.low < (first.high - first.low) / 4
    assert difference.low > 0
