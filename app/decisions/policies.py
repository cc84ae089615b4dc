"""Criterion -> threshold: the largest distance that matches, from a target rate or given directly.

A criterion says what a decision is based on and who set it. A policy is a criterion ready for comparisons: it knows the
calibration and, for a search, the number of subjects. Nothing is guessed: a target that the calibration cannot support
is refused, and the error names the lowest supported one.

Thresholds of a calibration apply to adjusted distances (``app.crowding``): two faces match if their squared distance
is at most the threshold minus the crowding of both. A distance given directly is used without adjustment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from enum import StrEnum

from app.decisions.calibration import Calibration
from app.decisions.curves import Claim, ClaimedThreshold, Estimate, OperatingPoint
from app.decisions.outcomes import Decision, Outcome, Reason, decide
from app.errors import TesseraError


class CriterionKind(StrEnum):
    """What a decision is based on."""

    TARGET_FMR = "target_fmr"
    """The highest acceptable false match rate of one comparison."""
    TARGET_FPIR = "target_fpir"
    """The highest acceptable false positive identification rate of a search."""
    MAX_DISTANCE = "max_distance"
    """The largest squared distance that matches."""


class CriterionSource(StrEnum):
    """Who set the criterion."""

    REQUEST = "request"
    COLLECTION = "collection"
    SERVER = "server"


class TargetUnsupported(TesseraError):
    """The calibration cannot support so low a rate; ``details`` holds the lowest that it can."""

    code = "target_unsupported"


WHOM = {Claim.EVERY_GROUP: "in every measured group", Claim.POOLED: "over all pairs"}


@dataclass(frozen=True, slots=True)
class Criterion:
    """What a decision is based on, its value (a rate 0..1 or a squared distance 0..4), and who set it.

    claim: for whom the rate is claimed.
    """

    kind: CriterionKind
    value: float
    set_by: CriterionSource
    claim: Claim = Claim.EVERY_GROUP


@dataclass(frozen=True, slots=True)
class RequestedCriterion:
    """A request's own criterion: a target rate or a largest distance, and for whom a rate is claimed.

    None leaves the choice to the collection and the service.
    """

    target: float | None = None
    max_distance: float | None = None
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class RateAtDistance:
    """The false match rate at a distance; ``at_most``: the distance is smaller than any that could be measured.

    group: the group it was measured in; None: all pairs.
    """

    estimate: Estimate
    at_most: bool
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A probe and a reference: squared distance, number of templates in the reference, and both norms.

    The norms are those of ``app.encoding.Encodings``; a subject's is the largest among its templates. crowding: the sum
    over both faces.
    """

    distance: float
    templates: int
    probe_norm: float
    reference_norm: float
    crowding: float = 0.0

    @property
    def adjusted(self) -> float:
        """The squared distance plus the crowding of both faces."""
        return self.distance + self.crowding


@dataclass(frozen=True, slots=True)
class DecisionPolicy:
    """A criterion ready for comparisons.

    fmr: the false match rate that one comparison may have; None if the distance was given directly. subjects: the
    number of subjects to search; None for one comparison. met: False if a default of the server or the collection asks
    for more than the calibration supports, and the strictest supported point is used instead. most_templates: that a
    subject has, as far as is known.
    """

    criterion: Criterion
    calibration: Calibration
    fmr: float | None
    subjects: int | None
    met: bool = True
    most_templates: int = 1

    def bound(self, templates: int) -> ClaimedThreshold:
        """The largest adjusted distance that matches a subject with this many templates, and the group requiring it.

        A distance given directly is returned as it is.
        """
        if self.fmr is None:
            return ClaimedThreshold(self.criterion.value, None)
        # The subject may have gained a template since, and that curve may support less: then use the strictest point.
        smallest = self.calibration.smallest_supported(self.criterion.claim, templates)
        bound = self.calibration.bound(self.criterion.claim, max(self.fmr, smallest), templates)
        assert bound is not None
        return bound

    def threshold(self, compared: Comparison) -> float:
        """The largest squared distance at which these two faces match."""
        bound = self.bound(compared.templates).threshold
        return bound if self.fmr is None else bound - compared.crowding

    def ranking_distance(self, compared: Comparison) -> float:
        """Ranking key, smallest first: distance plus crowding, or the distance alone if one was given directly."""
        return compared.distance if self.fmr is None else compared.adjusted

    def excess(self, compared: Comparison) -> float:
        """How much farther than its threshold this pair is; 0 or less within it.

        Subjects of many templates have stricter thresholds, so the nearest subject need not be the best match.
        """
        # As ``ranking_distance`` is rounded, which this is held against.
        return self.ranking_distance(compared) - self.bound(compared.templates).threshold

    def search_key(self, compared: Comparison) -> tuple[bool, float]:
        """Orders the candidates of a search: those within their thresholds, the farthest within first; then by
        ``ranking_distance``.
        """
        excess = self.excess(compared)
        return (False, excess) if excess <= 0 else (True, self.ranking_distance(compared))

    def none_better(self, last: Comparison, farthest: Comparison) -> bool:
        """Whether no candidate that is ranked after ``farthest`` can come before ``last``, by ``search_key``."""
        loosest = max(self.bound(templates).threshold for templates in range(1, self.most_templates + 1))
        least = self.ranking_distance(farthest) - loosest
        return least > 0 or self.excess(last) <= least

    def margin(self, best: Comparison, second: Comparison) -> float:
        """How much better the best candidate of a search is than the second, by ``search_key``, as squared distance."""
        if self.excess(best) <= 0:
            return self.excess(second) - self.excess(best)
        return self.ranking_distance(second) - self.ranking_distance(best)

    def weakness(self, compared: Comparison) -> Reason | None:
        """Which of the two faces is too weak, if any."""
        limit = self.calibration.quality.limit
        if compared.probe_norm < limit:
            return Reason.WEAK_PROBE
        return Reason.WEAK_REFERENCE if compared.reference_norm < limit else None

    def threshold_decision(self, compared: Comparison) -> Decision:
        """Whether the distance is within the threshold, however weak the faces are."""
        return decide(compared.distance, self.threshold(compared))

    def outcome(self, compared: Comparison) -> Outcome:
        """The decision on one comparison.

        A weak face is never a non-match, because its false non-match rate is far higher. If its false match rate is
        higher as well, it matches only at a threshold that is stricter by that factor, if there is one.
        """
        reason = self.weakness(compared)
        if reason is None:
            return Outcome(self.threshold_decision(compared))
        limit = self._weak_threshold(compared)
        if limit is not None and compared.distance <= limit:
            return Outcome(Decision.MATCH)
        return Outcome(Decision.INCONCLUSIVE, reason)

    def _weak_threshold(self, compared: Comparison) -> float | None:
        if self.fmr is None:
            return self.criterion.value
        rate = self.fmr / self.calibration.quality.inflation
        bound = self.calibration.bound(self.criterion.claim, rate, compared.templates)
        return None if bound is None else bound.threshold - compared.crowding

    def search_outcome(self, ranked: Sequence[Comparison]) -> Outcome:
        """The decision on a search, given its candidates, by ``search_key``.

        Neither is named if two match with so small a margin that the nearer one is often the wrong one.
        """
        if not ranked:
            return Outcome(Decision.NO_MATCH)
        first = self.outcome(ranked[0])
        if first.decision is Decision.MATCH and len(ranked) > 1:
            near = self.margin(ranked[0], ranked[1]) < self.calibration.margin.limit
            if near and self.outcome(ranked[1]).decision is Decision.MATCH:
                return Outcome(Decision.INCONCLUSIVE, Reason.AMBIGUOUS_SUBJECTS)
        return first

    def operating_point(self, templates: int) -> OperatingPoint | None:
        """The rates over all pairs at the threshold, or at the next more permissive measured one.

        None beyond the measured range.
        """
        return self.calibration.curve(templates).at_distance(self.bound(templates).threshold)

    def rate(self, templates: int) -> RateAtDistance | None:
        """The false match rate over all pairs at the threshold; None beyond the measured range."""
        return rate_at(self.calibration, self.bound(templates).threshold, templates)

    def worst_rate(self, templates: int) -> RateAtDistance | None:
        """The rate at the threshold in the group where it is highest; None without groups or beyond the range."""
        return worst_rate_at(self.calibration, self.bound(templates).threshold, templates)

    def false_positive_identification_rate(self) -> float | None:
        """The FPIR of a search, from the false match rate of one comparison and the number of subjects.

        If the claim is for every group, in galleries of the group where it is highest. None for one comparison, if no
        rate was measured at the threshold, and beyond ``largest_gallery``.
        """
        rate = self._searched_rate()
        return None if rate is None or self.subjects is None else fpir_of(rate.estimate.value, self.subjects)

    def identification_rate_at_most(self) -> bool | None:
        """Whether that rate is only an upper bound; None where there is none."""
        rate = self._searched_rate()
        return None if rate is None else rate.at_most

    def _searched_rate(self) -> RateAtDistance | None:
        rate = self.rate(1)
        if self.subjects is None or rate is None or self.subjects > self.calibration.largest_gallery:
            return None
        pooled = self.criterion.claim is Claim.POOLED or not self.calibration.claimed_groups
        return rate if pooled else self.worst_rate(1)


def fpir_of(fmr: float, subjects: int) -> float:
    """``1 - (1 - fmr) ** subjects``: the rate of searches with at least one false match."""
    return -math.expm1(subjects * math.log1p(-fmr)) if fmr < 1 else 1.0


def fmr_of(fpir: float, subjects: int) -> float:
    """The inverse of ``fpir_of``: the FMR of one comparison at which a search has this FPIR."""
    return -math.expm1(math.log1p(-fpir) / subjects) if fpir < 1 else 1.0


def _rounded_up(rate: float) -> float:
    """Three significant digits, for a message: to the nearest, a rate could fall below what is accepted."""
    return float(Context(prec=3, rounding=ROUND_CEILING).create_decimal(repr(rate)))


def rate_at(calibration: Calibration, distance: float, templates: int) -> RateAtDistance | None:
    """The false match rate over all pairs at an adjusted distance, from the next no stricter measured threshold.

    None if the distance is beyond the most permissive threshold.
    """
    curve = calibration.curve(templates)
    point = curve.at_distance(distance)
    if point is None:
        return None
    return RateAtDistance(point.false_match_rate, distance < curve.strictest.threshold)


def worst_rate_at(calibration: Calibration, distance: float, templates: int) -> RateAtDistance | None:
    """The same rate in the group where it is highest; None without groups."""
    found = calibration.worst_group(distance, templates)
    if found is None:
        return None
    group, point = found
    single = distance - calibration.shift(templates)
    at_most = single < calibration.responsible_group(group, single).strictest.threshold
    return RateAtDistance(point.false_match_rate, at_most, group.name)


def verification_policy(
    calibration: Calibration, criterion: Criterion, templates: int, comparisons: int = 1
) -> DecisionPolicy:
    """The policy for comparing with subjects of this many templates.

    comparisons: of which the nearest decides; each may have a target divided by them, so that all together keep it
    (Bonferroni). A default that is not supported then is met only as far as it can be, as in a search.

    Raises TargetUnsupported; ValueError for FPIR.
    """
    if criterion.kind is CriterionKind.MAX_DISTANCE:
        return DecisionPolicy(criterion, calibration, None, None)
    if criterion.kind is CriterionKind.TARGET_FPIR:
        raise ValueError("a rate of identification needs a search")
    rate = criterion.value / comparisons
    if calibration.bound(criterion.claim, rate, templates) is not None:
        return DecisionPolicy(criterion, calibration, rate, None)
    smallest = calibration.smallest_supported(criterion.claim, templates)
    if comparisons > 1 and criterion.set_by is not CriterionSource.REQUEST:
        return DecisionPolicy(criterion, calibration, smallest, None, met=False)
    among = f" with {comparisons} pairs of faces" if comparisons > 1 else ""
    lowest = min(smallest * comparisons, 1.0)
    raise TargetUnsupported(
        f"The calibration cannot show a false match rate of {criterion.value:g} {WHOM[criterion.claim]}{among}; the "
        f"smallest it supports is {_rounded_up(lowest):g}. Ask for that or more, or give max_distance.",
        target_fmr=criterion.value,
        claim=criterion.claim.value,
        smallest_supported=lowest,
    )


def identification_policy(
    calibration: Calibration, criterion: Criterion, subjects: int, most_templates: int | None = None
) -> DecisionPolicy:
    """The policy for a search among ``subjects`` subjects with at most ``most_templates`` templates (None: any number).

    Raises TargetUnsupported if a request asks for too low a rate. A default of the server or the collection is met only
    as far as the calibration supports it, so that a growing collection does not stop answering.
    """
    count = max(subjects, 1)
    if criterion.kind is CriterionKind.MAX_DISTANCE:
        return DecisionPolicy(criterion, calibration, None, subjects)
    most = calibration.most_templates if most_templates is None else max(most_templates, 1)
    smallest = calibration.smallest_supported(criterion.claim, most)
    of_comparison = criterion.kind is CriterionKind.TARGET_FMR
    # Rates are compared as they are asked for: there and back, a rate may lose its last digit and fall short of itself.
    lowest = smallest if of_comparison else fpir_of(smallest, count)
    wanted = max(criterion.value if of_comparison else fmr_of(criterion.value, count), smallest)
    known = count <= calibration.largest_gallery or of_comparison
    if criterion.value >= lowest and known:
        return DecisionPolicy(criterion, calibration, wanted, subjects, most_templates=most)
    if criterion.set_by is not CriterionSource.REQUEST:
        return DecisionPolicy(criterion, calibration, wanted, subjects, met=False, most_templates=most)
    if not known:
        raise TargetUnsupported(
            f"The calibration was found to hold for searches among up to {calibration.largest_gallery:g} subjects, and "
            f"there are {subjects}. Search a smaller collection, or give max_distance.",
            target_fpir=criterion.value,
            subjects=subjects,
        )
    advised = _rounded_up(lowest)
    ask = f"the smallest it supports is {advised:g}. Ask for that or more," if advised < 1 else "nor any below 1:"
    raise TargetUnsupported(
        f"Among {subjects} subjects the calibration cannot show a false positive identification rate of "
        f"{criterion.value:g} {WHOM[criterion.claim]}; {ask} search a smaller collection, or give max_distance.",
        target_fpir=criterion.value,
        smallest_supported=lowest,
        subjects=subjects,
    )
