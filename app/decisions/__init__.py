"""Distance -> decision: the calibration table, and the rules that thresholds are taken from it by."""

from app.decisions.calibration import Calibration, CalibrationError, load_calibration, read_calibration
from app.decisions.curves import Bound, Claim, Estimate, Group, GroupPoint, OperatingPoint
from app.decisions.decide import Decision, Outcome, Reason, decide, similarity
from app.decisions.rules import (
    Compared,
    Criterion,
    CriterionKind,
    Origin,
    RateAtDistance,
    Rule,
    TargetUnsupported,
    Wish,
    rate_at,
    rule_for_comparison,
    rule_for_search,
    worst_rate_at,
)

__all__ = [
    "Bound",
    "Calibration",
    "CalibrationError",
    "Claim",
    "Compared",
    "Criterion",
    "CriterionKind",
    "Decision",
    "Estimate",
    "Group",
    "GroupPoint",
    "OperatingPoint",
    "Origin",
    "Outcome",
    "RateAtDistance",
    "Reason",
    "Rule",
    "TargetUnsupported",
    "Wish",
    "decide",
    "load_calibration",
    "rate_at",
    "read_calibration",
    "rule_for_comparison",
    "rule_for_search",
    "similarity",
    "worst_rate_at",
]
