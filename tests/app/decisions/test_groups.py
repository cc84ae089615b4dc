"""For whom a rate is promised, and what the crowding of two faces does to a threshold."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.decisions import (
    Calibration,
    Claim,
    ClaimedThreshold,
    Comparison,
    Criterion,
    CriterionKind,
    CriterionSource,
    Decision,
    DecisionPolicy,
    Outcome,
    Reason,
    TargetUnsupported,
    identification_policy,
    rate_at,
    verification_policy,
    worst_rate_at,
)
from tests.app.decisions.support import curve, group, point, sized, table

TWO = curve(2, [point(1.2, 0.01), point(1.05, 0.001), point(0.9, 0.0007)])
WOMEN = group("women", [point(1.25, 0.01), point(0.95, 0.001), point(0.85, 0.0005)])
MEN = group("men", [point(1.15, 0.01), point(1.0, 0.001), point(0.8, 0.0004)])
# Too few to show 0.001: the women answer for it.
YOUNG = group("young women", [point(1.05, 0.02), point(0.99, 0.008)], part_of="women")
TOLD = group("children", [point(0.7, 0.05), point(0.2, 0.009)], claimed=False)


def made(*groups: dict[str, Any], **members: Any) -> Calibration:
    return Calibration.model_validate(table(curves=[curve(), TWO], groups=list(groups), **members))


CALIBRATION = made(WOMEN, MEN, YOUNG, TOLD, identification=[sized(100)])


def criterion(kind: CriterionKind, value: float, claim: Claim = Claim.EVERY_GROUP) -> Criterion:
    return Criterion(kind, value, CriterionSource.REQUEST, claim)


def at_fmr(value: float, claim: Claim = Claim.EVERY_GROUP) -> DecisionPolicy:
    return verification_policy(CALIBRATION, criterion(CriterionKind.TARGET_FMR, value, claim), 1)


def seen(distance: float, crowding: float = 0.0, *, templates: int = 1, probe: float = 12.0) -> Comparison:
    return Comparison(distance, templates, probe, 12.0, crowding)


# --- the threshold of a claim


@pytest.mark.parametrize(
    ("fmr", "bound"),
    [
        (0.02, ClaimedThreshold(1.05, "young women")),
        (0.01, ClaimedThreshold(0.99, "young women")),
        # The young women are too few to show less, and the women answer for them.
        (0.005, ClaimedThreshold(0.95, "women")),
        (0.001, ClaimedThreshold(0.95, "women")),
        (0.0005, ClaimedThreshold(0.8, "men")),
        # The men show less, but the women do not.
        (0.0004, None),
    ],
)
def test_every_group_is_kept_by_the_strictest_claimed_group(fmr: float, bound: ClaimedThreshold | None) -> None:
    assert CALIBRATION.bound(Claim.EVERY_GROUP, fmr, 1) == bound


def test_a_lower_target_is_never_met_by_a_looser_threshold() -> None:
    # The larger group shows less, but at a looser threshold than the one that the small group keeps its own lowest by.
    large = group("large", [point(1.2, 0.01), point(1.1, 0.001), point(1.05, 0.0005)])
    small = group("small", [point(1.1, 0.02), point(0.95, 0.008)], part_of="large")
    found = made(large, small)
    assert found.bound(Claim.EVERY_GROUP, 0.008, 1) == ClaimedThreshold(0.95, "small")
    assert found.bound(Claim.EVERY_GROUP, 0.001, 1) == ClaimedThreshold(0.95, "small")
    thresholds = [found.bound(Claim.EVERY_GROUP, 0.02 / 1.1**i, 1) for i in range(38)]
    shown = [bound.threshold for bound in thresholds if bound is not None]
    assert len(shown) > 30
    assert shown == sorted(shown, reverse=True)


def test_a_pooled_claim_knows_no_groups() -> None:
    for templates, threshold in ((1, 1.1), (2, 1.05)):
        assert CALIBRATION.bound(Claim.POOLED, 0.001, templates) == ClaimedThreshold(threshold, None)
    assert CALIBRATION.bound(Claim.POOLED, 0.0005, 1) is None
    for templates in (1, 2):
        assert made().bound(Claim.EVERY_GROUP, 0.001, templates) == made().bound(Claim.POOLED, 0.001, templates)


def test_a_group_that_is_only_told_of_binds_nobody() -> None:
    without = made(WOMEN, MEN, YOUNG)
    for fmr in (0.02, 0.01, 0.001, 0.0005, 0.0004):
        for templates in (1, 2):
            assert CALIBRATION.bound(Claim.EVERY_GROUP, fmr, templates) == without.bound(
                Claim.EVERY_GROUP, fmr, templates
            )
    assert made(TOLD).bound(Claim.EVERY_GROUP, 0.001, 1) == ClaimedThreshold(1.1, None)


def test_a_group_that_is_only_told_of_may_answer_for_a_smaller_one() -> None:
    everybody = group("everybody", [point(0.9, 0.004), point(0.6, 0.0003)], claimed=False)
    found = made(group("few", [point(1.0, 0.02)], part_of="everybody"), everybody)
    assert found.bound(Claim.EVERY_GROUP, 0.001, 1) == ClaimedThreshold(0.6, "few")
    assert found.smallest_supported(Claim.EVERY_GROUP, 1) == 0.0003


@st.composite
def groups(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Up to four groups with thresholds of their own; who does not show 0.0001 is part of the first, which does."""
    found = []
    for number in range(draw(st.integers(1, 4))):
        rates, small = draw(st.sets(st.floats(0.0002, 0.5), min_size=1, max_size=6)), number and draw(st.booleans())
        top = draw(st.floats(0.5, 1.5))
        points = [
            point(top - 0.05 * place, rate)
            for place, rate in enumerate(sorted(rates if small else rates | {0.0001}, reverse=True))
        ]
        found.append(group(str(number), points, claimed=draw(st.booleans()), part_of="0" if small else None))
    return found


@given(groups(), st.floats(0.00005, 0.9))
def test_no_claimed_group_has_more_than_was_claimed(made_up: list[dict[str, Any]], fmr: float) -> None:
    found = made(*made_up, default_fmr=0.01)
    bound = found.bound(Claim.EVERY_GROUP, fmr, 1)
    if not found.claimed_groups:
        assert bound == found.bound(Claim.POOLED, fmr, 1)
        return
    assert (bound is not None) is (fmr >= found.smallest_supported(Claim.EVERY_GROUP, 1))
    if bound is None:
        assert fmr < 0.0001
        return
    for each in found.claimed_groups:
        # What the group shows at the threshold, or the larger one where it is too small to show the target.
        shown = each if each.at_rate(fmr) else next(g for g in found.groups if g.name == each.part_of)
        at_threshold = shown.at_distance(bound.threshold)
        assert at_threshold is not None
        assert at_threshold.claimed_fmr <= fmr * (1 + 1e-9)
    # And no threshold is stricter than the group that it is named after needs, or all pairs do.
    if bound.group is None:
        pooled = found.curve(1).at_rate(max(fmr, found.curve(1).smallest_supported))
        assert pooled is not None
        assert bound.threshold == pooled.threshold
        return
    [binding] = [g for g in found.claimed_groups if g.name == bound.group]
    shown = binding if binding.at_rate(fmr) else next(g for g in found.groups if g.name == binding.part_of)
    needed = max(p.threshold for p in shown.operating_points if p.claimed_fmr <= fmr * (1 + 1e-9))
    own = binding.at_rate(max(fmr, binding.smallest_supported))
    assert own is not None
    assert bound.threshold == min(needed, own.threshold)


@pytest.mark.parametrize(
    ("claim", "templates", "smallest"),
    [
        # 0.0005 of the women, which the young ones are part of; the men show 0.0004.
        (Claim.EVERY_GROUP, 1, 0.0005),
        (Claim.EVERY_GROUP, 2, 0.0005),
        (Claim.POOLED, 1, 0.0006),
        (Claim.POOLED, 2, 0.0007),
    ],
)
def test_the_smallest_supported_rate_is_the_worst_of_those_who_must_show_it(
    claim: Claim, templates: int, smallest: float
) -> None:
    assert CALIBRATION.smallest_supported(claim, templates) == smallest
    assert CALIBRATION.bound(claim, smallest, templates) is not None
    assert CALIBRATION.bound(claim, smallest * 0.999, templates) is None


# --- several templates, of which groups were not measured


def test_a_threshold_of_two_templates_moves_as_that_of_all_pairs_does_where_that_is_safest() -> None:
    # All pairs have 0.01 at 1.3 with one template and at 1.2 with two, 0.001 at 1.1 and at 1.05; two show 0.0007 at
    # 0.9, where one that shows no less is at 1.1.
    assert CALIBRATION.shift(2) == pytest.approx(0.9 - 1.1)
    assert CALIBRATION.shift(1) == 0


def test_a_threshold_does_not_move_from_where_no_rate_was_measured() -> None:
    # One template shows 0.001 at 1.1, and repeats it at stricter thresholds; two show less at 1.05.
    one = curve(1, [point(1.3, 0.02), point(1.1, 0.001), point(0.7, 0.001), point(0.3, 0.001)])
    two = curve(2, [point(1.25, 0.02), point(1.05, 0.0009)])
    found = Calibration.model_validate(table(curves=[one, two], groups=[WOMEN]))
    assert found.shift(2) == pytest.approx(1.05 - 1.1)
    bound = found.bound(Claim.EVERY_GROUP, 0.001, 2)
    assert bound is not None
    assert (bound.threshold, bound.group) == (pytest.approx(0.9), "women")


def test_no_group_allows_more_than_all_pairs_show_with_as_many_templates() -> None:
    # Two templates have the rates of one at the same thresholds, but show 0.001 less surely.
    unsure = point(1.1, 0.001) | {"false_match_rate": {"value": 0.001, "low": 0.0005, "high": 0.004}}
    two = curve(2, [point(1.3, 0.01), unsure, point(1.0, 0.0008)])
    isolated = group("isolated", [point(1.3, 0.01), point(1.25, 0.0004)])
    found = Calibration.model_validate(
        table(curves=[curve(1, [*curve()["operating_points"][:2], point(1.0, 0.0008)]), two], groups=[isolated])
    )
    assert found.shift(2) == 0
    assert found.bound(Claim.EVERY_GROUP, 0.001, 1) == ClaimedThreshold(1.1, None)
    assert found.bound(Claim.EVERY_GROUP, 0.001, 2) == ClaimedThreshold(1.0, None)
    # No lower target is met by a looser threshold, whether or not all pairs can show it.
    for templates in (1, 2):
        assert found.bound(Claim.EVERY_GROUP, 0.0004, templates) == ClaimedThreshold(1.0, None)


def test_thresholds_move_by_the_rates_as_measured_and_not_by_what_may_be_promised() -> None:
    def wide(threshold: float, rate: float) -> dict[str, Any]:
        return point(threshold, rate) | {"false_match_rate": {"value": rate, "low": rate / 3, "high": 3 * rate}}

    one = curve(1, [wide(1.3, 0.01), wide(1.2, 0.003), wide(1.1, 0.001), wide(1.0, 0.0003)])
    # With two templates the bounds are narrower, which is no reason for a larger threshold.
    two = curve(2, [point(1.25, 0.01), point(1.1, 0.003), point(0.95, 0.001), point(0.85, 0.0003)])
    found = Calibration.model_validate(table(curves=[one, two], groups=[WOMEN]))
    assert found.shift(2) == pytest.approx(-0.15)


def test_looser_rates_than_anybody_asks_for_do_not_move_a_threshold() -> None:
    one = curve(1, [point(1.9, 0.1), point(1.3, 0.01), point(1.0, 0.001)])
    two = curve(2, [point(1.2, 0.1), point(1.2 - 1e-9, 0.01), point(0.9, 0.001)])
    found = Calibration.model_validate(table(curves=[one, two], groups=[WOMEN]))
    assert found.shift(2) == pytest.approx(-0.1)


def test_beyond_what_one_template_shows_nothing_moves_the_threshold_up() -> None:
    one = curve(1, [point(1.3, 0.01), point(1.0, 0.001)])
    two = curve(2, [point(1.2, 0.01), point(0.8, 0.001), point(0.7, 0.0002)])
    found = Calibration.model_validate(table(curves=[one, two], groups=[WOMEN]))
    assert found.shift(2) == pytest.approx(0.7 - 1.0)


def test_the_bound_of_two_templates_is_that_of_one_moved() -> None:
    for fmr, threshold, name in ((0.02, 0.85, "young women"), (0.001, 0.75, "women"), (0.0005, 0.6, "men")):
        bound = CALIBRATION.bound(Claim.EVERY_GROUP, fmr, 2)
        assert bound is not None
        assert (bound.threshold, bound.group) == (pytest.approx(threshold), name)
    with pytest.raises(ValueError, match="3 templates"):
        CALIBRATION.bound(Claim.EVERY_GROUP, 0.001, 3)


# --- the rate in the worst group


@pytest.mark.parametrize(
    ("distance", "name", "rate", "at_most"),
    [
        (1.05, "young women", 0.02, False),
        (1.0, "young women", 0.02, False),
        (0.99, "women", 0.01, False),
        # Nearer than the young women show: the women answer for them.
        (0.95, "women", 0.001, False),
        (0.9, "women", 0.001, False),
        (0.85, "men", 0.001, False),
        (0.84, "men", 0.001, False),
        (0.8, "women", 0.0005, True),
        (0.1, "women", 0.0005, True),
        (-0.5, "women", 0.0005, True),
    ],
)
def test_the_worst_group_is_the_claimed_one_whose_people_are_most_often_so_near(
    distance: float, name: str, rate: float, at_most: bool
) -> None:
    found = worst_rate_at(CALIBRATION, distance, 1)
    assert found is not None
    assert (found.group, found.estimate.value, found.at_most) == (name, rate, at_most)


def test_beyond_what_any_group_shows_and_without_groups_there_is_no_worst_one() -> None:
    assert worst_rate_at(CALIBRATION, 1.06, 1) is None
    assert worst_rate_at(made(), 1.0, 1) is None
    assert worst_rate_at(made(TOLD), 0.5, 1) is None


def test_the_rate_of_a_larger_group_is_a_bound_too_where_even_that_shows_no_less() -> None:
    everybody = group("everybody", [point(0.9, 0.004), point(0.6, 0.0003)], claimed=False)
    found = made(group("few", [point(1.0, 0.02)], part_of="everybody"), everybody)
    for distance, rate, at_most in ((1.0, 0.02, False), (0.7, 0.004, False), (0.6, 0.0003, False), (0.5, 0.0003, True)):
        worst = worst_rate_at(found, distance, 1)
        assert worst is not None
        assert (worst.group, worst.estimate.value, worst.at_most) == ("few", rate, at_most), distance


def test_the_worst_group_of_two_templates_is_that_of_the_distance_moved_back() -> None:
    # 0.749 with two templates is 0.949 with one.
    found = worst_rate_at(CALIBRATION, 0.749, 2)
    assert found is not None
    assert (found.group, found.estimate.value) == ("women", 0.001)
    assert worst_rate_at(CALIBRATION, 0.86, 2) is None


def test_the_worst_rate_at_a_threshold_of_one_template_is_within_the_target() -> None:
    for fmr in (0.02, 0.01, 0.004, 0.001, 0.0005):
        worst = at_fmr(fmr).worst_rate(1)
        assert worst is not None
        assert worst.estimate.high <= fmr


def test_the_worst_rate_at_a_threshold_of_two_templates_is_within_the_target() -> None:
    # A group whose threshold lies where the curves of one and two templates begin to part.
    found = made(group("few", [point(1.25, 0.02), point(1.15, 0.01), point(1.05, 0.001), point(0.95, 0.0005)]))
    for fmr in (0.02, 0.01, 0.004, 0.001, 0.0005):
        worst = verification_policy(found, criterion(CriterionKind.TARGET_FMR, fmr), 2).worst_rate(2)
        assert worst is not None
        assert worst.estimate.high <= fmr


# --- rules


def test_a_rule_knows_for_whom_it_is_so_strict() -> None:
    policy, pooled = at_fmr(0.001), at_fmr(0.001, Claim.POOLED)
    assert policy.bound(1) == ClaimedThreshold(0.95, "women")
    assert pooled.bound(1) == ClaimedThreshold(1.1, None)
    given = verification_policy(CALIBRATION, criterion(CriterionKind.MAX_DISTANCE, 0.7), 1)
    assert given.bound(1) == given.bound(2) == ClaimedThreshold(0.7, None)
    point_ = policy.operating_point(1)
    assert point_ is not None
    # Over all pairs, the threshold of the women has the rate of the next more permissive one that was measured.
    assert (point_.threshold, point_.false_match_rate.value) == (1.0, 0.0006)


@pytest.mark.parametrize(
    ("claim", "whom", "smallest"),
    [(Claim.EVERY_GROUP, "in every measured group", 0.0005), (Claim.POOLED, "over all pairs", 0.0006)],
)
def test_a_refusal_says_for_whom_the_rate_cannot_be_shown(claim: Claim, whom: str, smallest: float) -> None:
    with pytest.raises(TargetUnsupported, match=whom) as refused:
        verification_policy(CALIBRATION, criterion(CriterionKind.TARGET_FMR, 0.0001, claim), 1)
    assert refused.value.details == {"target_fmr": 0.0001, "claim": claim.value, "smallest_supported": smallest}
    with pytest.raises(TargetUnsupported, match=whom) as refused:
        identification_policy(CALIBRATION, criterion(CriterionKind.TARGET_FPIR, 0.001, claim), 100, 1)
    assert refused.value.details["smallest_supported"] == pytest.approx(1 - (1 - smallest) ** 100)


@pytest.mark.parametrize(("claim", "rate"), [(Claim.EVERY_GROUP, 0.001), (Claim.POOLED, 0.0006)])
def test_a_search_tells_the_rate_of_the_worst_group_where_that_is_claimed(claim: Claim, rate: float) -> None:
    # Per comparison 0.001: the women at 0.95, and all pairs at 1.1, where a stricter target has 1.0.
    target = 1 - (1 - (0.001 if claim is Claim.EVERY_GROUP else 0.0006)) ** 100
    policy = identification_policy(CALIBRATION, criterion(CriterionKind.TARGET_FPIR, target * 1.0001, claim), 100, 1)
    assert policy.false_positive_identification_rate() == pytest.approx(1 - (1 - rate) ** 100)
    assert identification_policy(CALIBRATION, criterion(CriterionKind.MAX_DISTANCE, 4.0), 100).worst_rate(1) is None


def test_a_default_beyond_the_groups_is_met_as_far_as_they_go() -> None:
    target = Criterion(CriterionKind.TARGET_FPIR, 0.001, CriterionSource.SERVER)
    policy = identification_policy(CALIBRATION, target, 100)
    assert (policy.met, policy.fmr, policy.bound(1).group) == (False, 0.0005, "men")
    assert policy.bound(1).threshold == 0.8


# --- crowding


@given(st.floats(0, 4), st.floats(-1, 1), st.integers(1, 2))
def test_two_faces_match_where_their_distance_and_crowding_are_within_the_bound(
    distance: float, crowding: float, templates: int
) -> None:
    policy, pair = at_fmr(0.001), seen(distance, crowding, templates=templates)
    bound = policy.bound(templates).threshold
    assert pair.adjusted == distance + crowding
    assert policy.threshold(pair) == pytest.approx(bound - crowding)
    if abs(pair.adjusted - bound) > 1e-9:
        assert (policy.threshold_decision(pair) is Decision.MATCH) is (pair.adjusted <= bound)
        assert policy.outcome(pair).decision is policy.threshold_decision(pair)


@given(st.floats(0, 4), st.floats(-1, 1), st.sampled_from([1.0, 12.0]))
def test_a_distance_given_outright_is_compared_without_crowding(distance: float, crowding: float, probe: float) -> None:
    policy = verification_policy(CALIBRATION, criterion(CriterionKind.MAX_DISTANCE, 0.7), 1)
    pair = seen(distance, crowding, probe=probe)
    assert policy.threshold(pair) == 0.7
    assert (policy.outcome(pair).decision is Decision.MATCH) is (distance <= 0.7)


@pytest.mark.parametrize(
    ("crowding", "distance", "decision"),
    [
        # 0.002 is 0.001 where false matches are twice as frequent: 0.95, less the crowding.
        (0.2, 0.75, Decision.MATCH),
        (0.2, 0.76, Decision.INCONCLUSIVE),
        (-0.2, 1.14, Decision.MATCH),
        (-0.2, 1.16, Decision.INCONCLUSIVE),
    ],
)
def test_crowding_counts_for_weak_faces_too(crowding: float, distance: float, decision: Decision) -> None:
    assert at_fmr(0.002).outcome(seen(distance, crowding, probe=1.0)).decision is decision


def test_a_weak_face_is_held_to_the_strictest_group() -> None:
    # 0.01 is 0.005 where false matches are twice as frequent: 0.95 for the women, 1.1 over all pairs.
    weak = seen(1.0, probe=1.0)
    assert at_fmr(0.01).outcome(weak) == Outcome(Decision.INCONCLUSIVE, Reason.WEAK_PROBE)
    assert at_fmr(0.01, Claim.POOLED).outcome(weak) == Outcome(Decision.MATCH)


def test_comparisons_are_ranked_with_their_crowding_unless_a_distance_was_given_outright() -> None:
    pair = seen(0.4, 0.2)
    given = identification_policy(CALIBRATION, criterion(CriterionKind.MAX_DISTANCE, 0.7), 10)
    assert (at_fmr(0.001).ranking_distance(pair), given.ranking_distance(pair)) == (pytest.approx(0.6), 0.4)
    # Margins likewise: 0.05 without crowding, which is less than the limit of 0.1, and 0.15 with it.
    ranked = [seen(0.5, 0.0), seen(0.55, 0.1)]
    assert given.search_outcome(ranked) == Outcome(Decision.INCONCLUSIVE, Reason.AMBIGUOUS_SUBJECTS)


@pytest.mark.parametrize(
    ("ranked", "outcome"),
    [
        # As far from each other as the limit of 0.1 asks only with their crowding, and only without it.
        ([seen(0.50, 0.0), seen(0.55, 0.1)], Outcome(Decision.MATCH)),
        ([seen(0.50, 0.1), seen(0.65, 0.0)], Outcome(Decision.INCONCLUSIVE, Reason.AMBIGUOUS_SUBJECTS)),
        # The second is nearer, and no match where it is so crowded.
        ([seen(0.90, 0.0), seen(0.80, 0.16)], Outcome(Decision.MATCH)),
        ([seen(0.90, 0.06), seen(0.80, 0.17)], Outcome(Decision.NO_MATCH)),
    ],
)
def test_two_subjects_are_told_apart_by_distance_and_crowding(ranked: list[Comparison], outcome: Outcome) -> None:
    policy = identification_policy(CALIBRATION, criterion(CriterionKind.TARGET_FMR, 0.001), 10)
    assert policy.search_outcome(ranked) == outcome


def test_rates_are_told_of_distances_with_their_crowding() -> None:
    pair = seen(0.9, 0.2)
    found = rate_at(CALIBRATION, pair.adjusted, 1)
    assert found is not None
    assert (found.estimate.value, found.group) == (0.001, None)
    plain = rate_at(CALIBRATION, pair.distance, 1)
    assert plain is not None
    assert plain.estimate.value == 0.0006
