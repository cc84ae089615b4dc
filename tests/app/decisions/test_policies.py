from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.decisions import (
    Calibration,
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
)
from app.decisions.policies import fmr_of, fpir_of
from tests.app.decisions.support import curve, point, sized, table

TWO = curve(2, [point(1.2, 0.01), point(1.05, 0.001), point(0.9, 0.0007)])
RATES = st.floats(1e-9, 0.999)


CALIBRATION = Calibration.model_validate(table(curves=[curve(), TWO], identification=[sized(100)]))


def limit(policy: DecisionPolicy, templates: int) -> float:
    """The threshold for two faces that are as crowded as is usual."""
    return policy.threshold(Comparison(0.0, templates, 12.0, 12.0))


def wanted(kind: CriterionKind, value: float, set_by: CriterionSource = CriterionSource.REQUEST) -> Criterion:
    return Criterion(kind, value, set_by)


# --- one comparison


def test_a_target_gives_each_number_of_templates_its_own_threshold() -> None:
    policy = verification_policy(CALIBRATION, wanted(CriterionKind.TARGET_FMR, 0.005), 1)
    assert (limit(policy, 1), limit(policy, 2)) == (1.1, 1.05)
    found = policy.operating_point(2)
    assert found is not None
    assert found.false_match_rate.value == 0.001
    assert policy.false_positive_identification_rate() is None


def test_a_target_below_what_the_subjects_show_is_refused_with_the_smallest_supported() -> None:
    with pytest.raises(TargetUnsupported) as refused:
        verification_policy(CALIBRATION, wanted(CriterionKind.TARGET_FMR, 0.00065), 2)
    assert refused.value.code == "target_unsupported"
    assert refused.value.details == {"target_fmr": 0.00065, "claim": "every_group", "smallest_supported": 0.0007}
    assert "0.0007" in refused.value.message
    # One template supports what two do not.
    assert limit(verification_policy(CALIBRATION, wanted(CriterionKind.TARGET_FMR, 0.00065), 1), 1) == 1.0


@pytest.mark.parametrize(("distance", "rate"), [(1.3, 0.01), (1.05, 0.001), (0.2, 0.0006), (1.4, None)])
def test_a_distance_given_outright_is_the_threshold_and_its_rate_is_told(distance: float, rate: float | None) -> None:
    policy = verification_policy(CALIBRATION, wanted(CriterionKind.MAX_DISTANCE, distance), 1)
    assert limit(policy, 1) == limit(policy, 2) == distance
    found = policy.operating_point(1)
    assert (found and found.false_match_rate.value) == rate


def test_a_rate_of_identification_is_nothing_for_one_comparison() -> None:
    with pytest.raises(ValueError, match="needs a search"):
        verification_policy(CALIBRATION, wanted(CriterionKind.TARGET_FPIR, 0.1), 1)


@pytest.mark.parametrize(
    ("distance", "rate", "at_most"),
    [(0.5, 0.0006, True), (1.0, 0.0006, False), (1.01, 0.001, False), (1.3, 0.01, False)],
)
def test_the_rate_at_a_distance_says_where_it_is_only_a_bound(distance: float, rate: float, at_most: bool) -> None:
    found = rate_at(CALIBRATION, distance, 1)
    assert found is not None
    assert (found.estimate.value, found.at_most) == (rate, at_most)
    assert rate_at(CALIBRATION, 1.31, 1) is None


def test_beyond_the_strictest_point_that_was_measured_the_rate_is_a_bound() -> None:
    points = [point(1.3, 0.01), point(1.1, 0.001), point(1.0, 0.001, 0.3)]
    found = Calibration.model_validate(table(curves=[curve(1, points)]))
    for distance, at_most in ((1.1, False), (1.09, True), (1.0, True), (0.5, True)):
        rate = rate_at(found, distance, 1)
        assert rate is not None
        assert (rate.estimate.value, rate.at_most) == (0.001, at_most)


# --- searches


@given(RATES, st.integers(1, 10**6))
def test_a_rate_of_identification_and_its_rate_of_comparison_are_inverse(rate: float, subjects: int) -> None:
    assert fpir_of(fmr_of(rate, subjects), subjects) == pytest.approx(rate, rel=1e-6)
    assert fmr_of(rate, subjects) <= rate * (1 + 1e-12)


def test_a_search_among_more_subjects_is_stricter() -> None:
    few = identification_policy(CALIBRATION, wanted(CriterionKind.TARGET_FPIR, 0.1), 10)
    many = identification_policy(CALIBRATION, wanted(CriterionKind.TARGET_FPIR, 0.1), 100)
    assert few.fmr == pytest.approx(1 - 0.9**0.1)
    assert many.fmr == pytest.approx(1 - 0.9**0.01)
    assert (limit(few, 1), limit(many, 1)) == (1.3, 1.1)
    assert many.false_positive_identification_rate() == pytest.approx(1 - 0.999**100)


def test_an_empty_collection_is_searched_as_one_subject_would_be() -> None:
    assert limit(identification_policy(CALIBRATION, wanted(CriterionKind.TARGET_FPIR, 0.01), 0), 1) == 1.3


def advised(refused: TargetUnsupported) -> float:
    """The rate that a refusal says to ask for."""
    found = re.search(r"supports is (\S+)\. Ask for that or more", refused.message)
    assert found is not None, refused.message
    return float(found[1])


@pytest.mark.parametrize("smallest", [0.0007, 0.00070049, 0.000999999, 2.5142e-05, 1 / 3000, 1.0000001e-05])
@pytest.mark.parametrize("subjects", [1, 7, 100, 2000])
def test_who_asks_for_what_a_refusal_advises_is_not_refused_again(smallest: float, subjects: int) -> None:
    points = [point(1.3, 0.01), point(1.1, 0.002), point(0.9, smallest)]
    tables = [curve(n, points) | {"rule_of_three_fmr": smallest} for n in (1, 2)]
    calibration = Calibration.model_validate(table(curves=tables, identification=[sized(100)]))
    with pytest.raises(TargetUnsupported) as refused:
        verification_policy(calibration, wanted(CriterionKind.TARGET_FMR, 1e-9), 2)
    for rate in (advised(refused.value), refused.value.details["smallest_supported"]):
        assert smallest <= rate <= 1.01 * smallest
        verification_policy(calibration, wanted(CriterionKind.TARGET_FMR, rate), 2)
    with pytest.raises(TargetUnsupported) as refused:
        identification_policy(calibration, wanted(CriterionKind.TARGET_FPIR, 1e-9), subjects)
    for rate in (advised(refused.value), refused.value.details["smallest_supported"]):
        assert fpir_of(smallest, subjects) <= rate <= 1.01 * fpir_of(smallest, subjects)
        assert identification_policy(calibration, wanted(CriterionKind.TARGET_FPIR, rate), subjects).met


def test_a_rate_that_no_one_may_ask_for_is_not_advised() -> None:
    calibration = Calibration.model_validate(table(curves=[curve()], identification=[sized(100)]))
    with pytest.raises(TargetUnsupported, match="nor any below 1: search a smaller collection") as refused:
        identification_policy(calibration, wanted(CriterionKind.TARGET_FPIR, 0.01), 1_000_000)
    assert "Ask for" not in refused.value.message


def test_a_rate_of_identification_beyond_the_data_is_refused_or_met_as_far_as_it_goes() -> None:
    target = wanted(CriterionKind.TARGET_FPIR, 0.01)
    with pytest.raises(TargetUnsupported) as refused:
        identification_policy(CALIBRATION, target, 1000)
    # 0.0007 is what is supported of one template and of two.
    assert refused.value.details["smallest_supported"] == pytest.approx(1 - (1 - 0.0007) ** 1000)
    assert refused.value.details["subjects"] == 1000
    for set_by in (CriterionSource.SERVER, CriterionSource.COLLECTION):
        policy = identification_policy(CALIBRATION, wanted(CriterionKind.TARGET_FPIR, 0.01, set_by), 1000)
        assert not policy.met
        assert (limit(policy, 1), limit(policy, 2)) == (1.0, 0.9)
    assert identification_policy(CALIBRATION, wanted(CriterionKind.TARGET_FPIR, 0.6), 1000).met


def test_a_search_is_held_to_what_the_most_templates_of_a_subject_support() -> None:
    # One template supports 0.0006, two support 0.0007.
    target = wanted(CriterionKind.TARGET_FPIR, 1 - (1 - 0.00065) ** 1000)
    assert identification_policy(CALIBRATION, target, 1000, 1).met
    with pytest.raises(TargetUnsupported):
        identification_policy(CALIBRATION, target, 1000, 2)


def test_a_subject_that_gained_a_template_since_has_the_strictest_threshold_of_its_curve() -> None:
    target = wanted(CriterionKind.TARGET_FPIR, 1 - (1 - 0.00065) ** 1000)
    assert limit(identification_policy(CALIBRATION, target, 1000, 1), 2) == 0.9


def test_where_the_prediction_failed_no_rate_of_identification_is_claimed() -> None:
    doubtful = Calibration.model_validate(table(identification=[sized(10), sized(100, low=0.045)]))
    assert doubtful.largest_gallery == 10
    target = wanted(CriterionKind.TARGET_FPIR, 0.5)
    assert identification_policy(doubtful, target, 10).met
    with pytest.raises(TargetUnsupported, match="up to 10 subjects, and there are 11"):
        identification_policy(doubtful, target, 11)
    distance = identification_policy(doubtful, wanted(CriterionKind.MAX_DISTANCE, 1.1), 11)
    assert distance.false_positive_identification_rate() is None
    assert identification_policy(
        doubtful, wanted(CriterionKind.MAX_DISTANCE, 1.1), 10
    ).false_positive_identification_rate()


def test_a_target_of_one_comparison_holds_for_a_search_of_any_size() -> None:
    policy = identification_policy(CALIBRATION, wanted(CriterionKind.TARGET_FMR, 0.001), 10**6)
    assert (limit(policy, 1), policy.met) == (1.1, True)
    rate = policy.false_positive_identification_rate()
    assert rate is not None
    assert math.isclose(rate, 1.0, abs_tol=1e-9)


@pytest.mark.parametrize(("distance", "at_most"), [(1.2, False), (1.0, False), (0.99, True), (0.1, True), (1.4, None)])
def test_a_rate_of_identification_beyond_what_was_measured_is_a_bound(distance: float, at_most: bool | None) -> None:
    policy = identification_policy(CALIBRATION, wanted(CriterionKind.MAX_DISTANCE, distance), 100)
    assert policy.identification_rate_at_most() is at_most
    rate = policy.rate(1)
    assert (None if rate is None else rate.at_most) is at_most


# --- three outcomes: faces shorter than 9 are weak and twice as often false matches; margins below 0.1 are too small

TARGET = wanted(CriterionKind.TARGET_FMR, 0.002)


def seen(distance: float, probe: float = 12.0, reference: float = 12.0) -> Comparison:
    return Comparison(distance, 1, probe, reference)


def several(distance: float) -> Comparison:
    return Comparison(distance, 2, 12.0, 12.0)


@pytest.mark.parametrize(
    ("compared", "outcome"),
    [
        (seen(1.1), Outcome(Decision.MATCH)),
        (seen(1.11), Outcome(Decision.NO_MATCH)),
        (seen(1.11, probe=9.0, reference=9.0), Outcome(Decision.NO_MATCH)),
        (seen(1.11, probe=8.9), Outcome(Decision.INCONCLUSIVE, Reason.WEAK_PROBE)),
        (seen(1.11, reference=8.9), Outcome(Decision.INCONCLUSIVE, Reason.WEAK_REFERENCE)),
        (seen(1.11, probe=8.9, reference=8.9), Outcome(Decision.INCONCLUSIVE, Reason.WEAK_PROBE)),
        # 0.002 among all is 0.001 where false matches are twice as frequent: the threshold stays at 1.1.
        (seen(1.1, probe=8.9), Outcome(Decision.MATCH)),
    ],
)
def test_a_weak_face_cannot_say_no(compared: Comparison, outcome: Outcome) -> None:
    assert verification_policy(CALIBRATION, TARGET, 1).outcome(compared) == outcome


@pytest.mark.parametrize(
    ("distance", "decision"), [(1.0, Decision.MATCH), (1.05, Decision.INCONCLUSIVE), (1.3, Decision.INCONCLUSIVE)]
)
def test_a_weak_face_says_yes_at_a_stricter_threshold_only(distance: float, decision: Decision) -> None:
    policy = verification_policy(CALIBRATION, wanted(CriterionKind.TARGET_FMR, 0.0013), 1)
    assert policy.outcome(seen(distance)).decision is (Decision.MATCH if distance <= 1.1 else Decision.NO_MATCH)
    assert policy.outcome(seen(distance, probe=1.0)).decision is decision


def test_a_weak_face_says_nothing_where_no_threshold_is_strict_enough() -> None:
    policy = verification_policy(CALIBRATION, wanted(CriterionKind.TARGET_FMR, 0.001), 1)
    assert policy.outcome(seen(0.0)).decision is Decision.MATCH
    assert policy.outcome(seen(0.0, probe=1.0)) == Outcome(Decision.INCONCLUSIVE, Reason.WEAK_PROBE)


def test_a_distance_given_outright_holds_for_weak_faces_too() -> None:
    policy = verification_policy(CALIBRATION, wanted(CriterionKind.MAX_DISTANCE, 0.7), 1)
    assert policy.outcome(seen(0.7, probe=1.0)) == Outcome(Decision.MATCH)
    assert policy.outcome(seen(0.71, probe=1.0)) == Outcome(Decision.INCONCLUSIVE, Reason.WEAK_PROBE)


@pytest.mark.parametrize(
    ("distances", "outcome"),
    [
        ([], Outcome(Decision.NO_MATCH)),
        ([0.5], Outcome(Decision.MATCH)),
        ([0.5, 0.61], Outcome(Decision.MATCH)),
        ([0.5, 0.59], Outcome(Decision.INCONCLUSIVE, Reason.AMBIGUOUS_SUBJECTS)),
        ([1.05, 1.12], Outcome(Decision.MATCH)),
        ([1.2, 1.21], Outcome(Decision.NO_MATCH)),
    ],
)
def test_of_two_matches_too_close_to_each_other_neither_is_named(distances: list[float], outcome: Outcome) -> None:
    assert identification_policy(CALIBRATION, TARGET, 10).search_outcome([seen(d) for d in distances]) == outcome


def test_a_subject_within_its_threshold_comes_before_a_nearer_one_beyond_its_own() -> None:
    policy = identification_policy(CALIBRATION, TARGET, 10)
    assert (limit(policy, 1), limit(policy, 2)) == (1.1, 1.05)
    beyond, within, farther = several(1.07), seen(1.09), seen(1.2)
    ranked = sorted([beyond, within, farther], key=policy.search_key)
    assert ranked == [within, beyond, farther]
    assert policy.search_outcome(ranked) == Outcome(Decision.MATCH)
    # By how much each is within its own threshold: 0.01 and -0.02.
    assert policy.margin(within, beyond) == pytest.approx(0.03)
    assert policy.margin(beyond, farther) == pytest.approx(0.13)


def test_further_candidates_are_needed_while_one_of_fewer_templates_may_match_better() -> None:
    policy = identification_policy(CALIBRATION, TARGET, 10)
    # Beyond 1.09 somebody of one template may lie within 1.1, and beyond 1.11 nobody.
    assert not policy.none_better(several(1.07), several(1.09))
    assert policy.none_better(several(1.07), several(1.11))
    # 0.15 within: nobody beyond 0.96 is farther within than that.
    assert not policy.none_better(several(0.9), several(0.94))
    assert policy.none_better(several(0.9), several(0.96))
    single = identification_policy(CALIBRATION, TARGET, 10, 1)
    assert single.none_better(seen(0.9), seen(0.9))
    given = identification_policy(CALIBRATION, wanted(CriterionKind.MAX_DISTANCE, 2.0), 10)
    assert given.none_better(several(0.9), several(0.9))


def test_the_nearest_of_several_pairs_is_held_to_its_share_of_the_target() -> None:
    policy = verification_policy(CALIBRATION, wanted(CriterionKind.TARGET_FMR, 0.01), 1, 10)
    assert (policy.fmr, policy.met, policy.criterion.value) == (0.001, True, 0.01)
    assert limit(policy, 1) == limit(verification_policy(CALIBRATION, wanted(CriterionKind.TARGET_FMR, 0.001), 1), 1)
    given = wanted(CriterionKind.MAX_DISTANCE, 0.7)
    assert limit(verification_policy(CALIBRATION, given, 1, 10), 1) == 0.7


def test_a_share_that_is_not_supported_is_refused_to_a_request_and_said_of_a_default() -> None:
    said = r"with 10 pairs of faces; the smallest it supports is 0\.007"
    with pytest.raises(TargetUnsupported, match=said) as refused:
        verification_policy(CALIBRATION, wanted(CriterionKind.TARGET_FMR, 0.005), 2, 10)
    assert refused.value.details["smallest_supported"] == pytest.approx(0.007)
    default = wanted(CriterionKind.TARGET_FMR, 0.005, CriterionSource.SERVER)
    policy = verification_policy(CALIBRATION, default, 2, 10)
    assert (policy.fmr, policy.met) == (0.0007, False)
