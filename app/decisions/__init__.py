"""Distance -> decision: the calibration table, and the rules that thresholds are taken from it by."""

from app.decisions.calibration import (
    Calibration,
    CalibrationError,
    Estimate,
    OperatingPoint,
    load_calibration,
    read_calibration,
)
from app.decisions.decide import Decision, Outcome, Reason, decide, similarity
from app.decisions.rules import (
    Compared,
    Criterion,
    CriterionKind,
    Origin,
    RateAtDistance,
    Rule,
    TargetUnsupported,
    rate_at,
    rule_for_comparison,
    rule_for_search,
)

__all__ = [
    "Calibration",
    "CalibrationError",
    "Compared",
    "Criterion",
    "CriterionKind",
    "Decision",
    "Estimate",
    "OperatingPoint",
    "Origin",
    "Outcome",
    "RateAtDistance",
    "Reason",
    "Rule",
    "TargetUnsupported",
    "decide",
    "load_calibration",
    "rate_at",
    "read_calibration",
    "rule_for_comparison",
    "rule_for_search",
    "similarity",
]
