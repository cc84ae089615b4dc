from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from app.evaluation import groups
from app.evaluation.bootstrap import Interval, bootstrap_weights, by_rule_of_three
from app.evaluation.groups import GROUP_TARGETS, GroupFaces, GroupRates, Part, measure_group

Floats = npt.NDArray[np.float32]


class Pair(NamedTuple):
    """Two faces of one part: their distance with the crowding of both, and who they are, over all parts."""

    distance: np.float32
    first: int
    second: int


def part(people: int, seed: int, *, most_faces: int = 4, spread: float = 0.6) -> Part:
    """People with one face or more each, of made-up crowding."""
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(people), rng.integers(1, most_faces + 1, people))
    vectors = rng.normal(size=(people, 12))[subject] + spread * rng.normal(size=(len(subject), 12))
    order = rng.permutation(len(subject))
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    crowding = rng.uniform(-0.2, 0.2, len(subject)).astype(np.float32)
    return Part(unit[order], crowding, subject[order].astype(np.int64))


WOMEN, MEN = part(40, 1), part(30, 2)
BOTH = (WOMEN, MEN)


def naive_pairs(parts: Sequence[Part]) -> list[Pair]:
    """Every face with every later one of its part, one after the other; people are counted on from part to part."""
    pairs, start = [], 0
    for each in parts:
        for i in range(len(each.subject)):
            for j in range(i + 1, len(each.subject)):
                distance = np.square(each.embeddings[i].astype(np.float64) - each.embeddings[j]).sum()
                distance += float(each.crowding[i]) + float(each.crowding[j])
                pairs.append(Pair(np.float32(distance), int(each.subject[i]) + start, int(each.subject[j]) + start))
        start += int(each.subject.max()) + 1
    return pairs


PAIRS = naive_pairs(BOTH)
non_mated_pairs = np.array(sorted(p.distance for p in PAIRS if p.first != p.second))
mated_pairs = np.array(sorted(p.distance for p in PAIRS if p.first == p.second))


def made(*parts: Part, **members: object) -> GroupFaces:
    return GroupFaces("a", "people of a", parts, **members)  # type: ignore[arg-type]


def test_all_pairs_within_the_parts_are_compared_and_nothing_else() -> None:
    rates = GroupRates(BOTH, loosest=1.0)
    assert (rates.total, len(rates.mated)) == (len(non_mated_pairs), len(mated_pairs))
    np.testing.assert_allclose(rates.non_mated, non_mated_pairs, atol=1e-5)
    np.testing.assert_allclose(np.sort(rates.mated), mated_pairs, atol=1e-5)
    assert (rates.subjects, rates.faces) == (70, len(WOMEN.subject) + len(MEN.subject))
    assert rates.pairs_of_subjects == 40 * 39 // 2 + 30 * 29 // 2
    assert rates.rule_of_three_fmr == 3 / rates.pairs_of_subjects


def test_faces_of_different_parts_are_not_compared() -> None:
    # The same faces twice: as two parts they are as far apart as in one of them, as one part they are all doubles.
    apart, alone = GroupRates([WOMEN, WOMEN], loosest=1.0), GroupRates([WOMEN], loosest=1.0)
    np.testing.assert_array_equal(apart.non_mated, np.repeat(alone.non_mated, 2))
    doubled = Part(
        np.concatenate([WOMEN.embeddings] * 2),
        np.concatenate([WOMEN.crowding] * 2),
        np.concatenate([WOMEN.subject, WOMEN.subject + 40]),
    )
    assert GroupRates([doubled], loosest=1.0).total > apart.total == 2 * alone.total
    strict = np.array([apart.threshold(0.01)])
    assert apart.false_match_rates(strict)[0].value == alone.false_match_rates(strict)[0].value
    assert (
        GroupRates([doubled], loosest=1.0).false_match_rates(strict)[0].value > apart.false_match_rates(strict)[0].value
    )


@pytest.mark.parametrize("target", [0.1, 0.05, 0.01, 0.003, 0.001])
def test_a_threshold_is_the_largest_that_accepts_no_more_than_was_asked_for(target: float) -> None:
    threshold = GroupRates(BOTH).threshold(target)
    assert threshold is not None
    every = GroupRates(BOTH, loosest=1.0).non_mated
    assert (every <= threshold).sum() == int(target * len(every) + 1e-9)
    # Naive distances differ from those of a product of matrices by rounding, so the count is taken a little inside.
    assert np.mean(non_mated_pairs <= threshold - 1e-5) <= target
    following = non_mated_pairs[int(np.floor(target * len(non_mated_pairs)))]
    assert threshold == pytest.approx(following, abs=1e-5)
    assert np.mean(non_mated_pairs <= following + 1e-5) > target


def test_so_few_that_they_cannot_show_a_rate_have_no_threshold() -> None:
    rates = GroupRates(BOTH)
    assert rates.threshold(0.99 / rates.total) is None
    assert rates.threshold(1.01 / rates.total) is not None
    # Looser than what was kept.
    assert rates.threshold(0.9) is None


def naive_rates(threshold: float, weights: npt.NDArray[np.float64]) -> tuple[float, float]:
    """FMR and FNMR, a person counting as often as it was drawn."""
    found = np.zeros(4)
    for distance, first, second in PAIRS:
        weight = weights[first] * (1 if first == second else weights[second])
        kind = 0 if first == second else 2
        found[kind] += weight * (distance <= threshold)
        found[kind + 1] += weight
    return found[2] / found[3], 1 - found[0] / found[1]


def test_rates_and_their_intervals_are_those_of_drawing_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "bootstrap_weights", lambda subjects: bootstrap_weights(subjects, replicates=25))
    rates = GroupRates(BOTH)
    # From the rates that were kept down to a handful of pairs.
    thresholds = np.array([1.15, 0.9, 0.7])
    false_matches, false_non_matches = rates.false_match_rates(thresholds), rates.false_non_match_rates(thresholds)
    assert false_non_matches is not None
    for number, threshold in enumerate(thresholds.tolist()):
        drawn = np.array([naive_rates(threshold, weights) for weights in bootstrap_weights(70, replicates=25)])
        expected = naive_rates(threshold, np.ones(70))
        for kind, found in enumerate((false_matches[number], false_non_matches[number])):
            low, high = np.quantile(drawn[:, kind], [0.025, 0.975])
            assert found.value == pytest.approx(expected[kind], abs=1e-9)
            assert (found.low, found.high) == (
                pytest.approx(min(low, found.value), abs=1e-6),
                pytest.approx(max(high, found.value), abs=1e-6),
            )
            assert found.low < found.high


def test_no_more_is_promised_at_a_point_than_was_observed() -> None:
    measured = measure_group(made(*BOTH, part_of="b"))
    assert (measured.name, measured.definition, measured.claimed, measured.part_of) == ("a", "people of a", True, "b")
    assert (measured.subjects, measured.faces) == (70, len(WOMEN.subject) + len(MEN.subject))
    assert (measured.mated, measured.non_mated) == (len(mated_pairs), len(non_mated_pairs))
    floor = 3 / (40 * 39 // 2 + 30 * 29 // 2)
    assert measured.rule_of_three_fmr == floor
    points = measured.operating_points
    assert len(points) > 10
    for target in (t for t in GROUP_TARGETS if t >= floor):
        promised = measured.at_rate(target)
        if promised is not None:
            assert np.mean(non_mated_pairs <= promised.threshold - 1e-5) <= target
    for each in points:
        observed, missed = each.false_match_rate, each.false_non_match_rate
        counted = float(np.mean(non_mated_pairs <= each.threshold - 1e-6))
        assert missed is not None
        if each.threshold >= measured.strictest.threshold:
            assert observed.value == pytest.approx(counted, abs=1.5 / len(non_mated_pairs))
        else:
            # So many people cannot show the rate there: it is at most the last that they could.
            assert counted <= observed.value == measured.strictest.false_match_rate.value
        assert observed.low <= observed.value <= observed.high == each.claimed_fmr
        assert observed.value >= floor
        assert missed.value == pytest.approx(np.mean(mated_pairs > each.threshold), abs=1.5 / len(mated_pairs))
        assert missed.low <= missed.value <= missed.high
    assert points[0].false_match_rate.value == pytest.approx(0.1, abs=2 / len(non_mated_pairs))
    assert points[-1].false_match_rate.value < 1.3 * floor
    assert [p.threshold for p in points] == sorted((p.threshold for p in points), reverse=True)


@pytest.mark.parametrize("sampled", [30, 2000])
def test_of_a_large_group_the_far_pairs_are_sampled_and_the_near_ones_are_all_there(
    monkeypatch: pytest.MonkeyPatch, sampled: int
) -> None:
    whole = measure_group(made(*BOTH))
    monkeypatch.setattr(groups, "MOST_KEPT", 300)
    monkeypatch.setattr(groups, "SAMPLED", sampled)
    monkeypatch.setattr(groups, "BLOCK", 32)
    limited, rates = measure_group(made(*BOTH)), GroupRates(BOTH)
    assert 300 < len(rates.non_mated) < rates.total / 2
    near = [p for p in whole.operating_points if p.false_match_rate.value * rates.total < 100]
    assert len(near) > 5
    for few, many in zip(reversed(limited.operating_points), reversed(near), strict=False):
        # Sums of products run in another order where blocks are smaller.
        assert few.threshold == pytest.approx(many.threshold, abs=1e-6)
        assert few.false_match_rate == many.false_match_rate
        assert few.false_non_match_rate == many.false_non_match_rate
    # Loose rates are estimated from the sample, and are still there.
    for target in (0.1, 0.03):
        few_, many_ = (
            min(g.operating_points, key=lambda p: abs(p.false_match_rate.value - target)) for g in (limited, whole)
        )
        assert few_.threshold == pytest.approx(many_.threshold, abs=0.05)
        assert few_.false_match_rate.value == pytest.approx(target, rel=0.1)
        assert few_.false_match_rate.high == pytest.approx(many_.false_match_rate.high, rel=0.3)
    assert (limited.non_mated, limited.mated) == (whole.non_mated, whole.mated)


def test_people_of_one_face_each_have_no_false_non_match_rate() -> None:
    measured = measure_group(made(part(40, 3, most_faces=1), claimed=False))
    assert (measured.mated, measured.faces, measured.claimed) == (0, 40, False)
    assert all(p.false_non_match_rate is None for p in measured.operating_points)
    # 780 pairs of people are 780 comparisons.
    assert measured.non_mated == 780
    assert measured.rule_of_three_fmr == 3 / 780


@pytest.mark.parametrize("people", [1, 2, 5])
def test_so_few_people_show_nothing(people: int) -> None:
    with pytest.raises(ValueError, match=f"{people} people of the group 'a' cannot show"):
        measure_group(made(part(people, 4)))


@pytest.mark.parametrize(
    ("value", "bounds"), [(0.0, (0.0, 0.03)), (1.0, (0.97, 1.0)), (0.5, (0.5, 0.5))], ids=["none", "all", "some"]
)
def test_without_spread_an_interval_is_as_wide_as_the_rule_of_three(value: float, bounds: tuple[float, float]) -> None:
    found = by_rule_of_three(Interval(value, value, value), 100)
    assert (found.low, found.high) == pytest.approx(bounds)


def test_where_no_error_was_observed_the_interval_goes_up_to_the_rule_of_three() -> None:
    rates, none, all_ = GroupRates(BOTH), -1.0, 8.0
    [found] = rates.false_match_rates(np.array([none]))
    assert (found.value, found.low, found.high) == (0, 0, rates.rule_of_three_fmr)
    missed = rates.false_non_match_rates(np.array([none, all_]))
    assert missed is not None
    people = len({pair.first for pair in PAIRS if pair.first == pair.second})
    assert missed[0].value == 1
    assert (missed[1].value, missed[1].low, missed[1].high) == (0, 0, 3 / people)
