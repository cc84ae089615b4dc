"""Distance -> decision: the calibration table and the policies that take thresholds from it."""

from app.decisions.calibration import Calibration, CalibrationError, load_calibration, read_calibration
from app.decisions.curves import Claim, ClaimedThreshold, Estimate, Group, GroupPoint, OperatingPoint, TemplateCurve
from app.decisions.outcomes import Decision, Outcome, Reason, decide, for_ambiguous_face, similarity
from app.decisions.policies import (
    Comparison,
    Criterion,
    CriterionKind,
    CriterionSource,
    DecisionPolicy,
    RateAtDistance,
    RequestedCriterion,
    TargetUnsupported,
    identification_policy,
    rate_at,
    verification_policy,
    worst_rate_at,
)

__all__ = [
    "Calibration",
    "CalibrationError",
    "Claim",
    "ClaimedThreshold",
    "Comparison",
    "Criterion",
    "CriterionKind",
    "CriterionSource",
    "Decision",
    "DecisionPolicy",
    "Estimate",
    "Group",
    "GroupPoint",
    "OperatingPoint",
    "Outcome",
    "RateAtDistance",
    "Reason",
    "RequestedCriterion",
    "TargetUnsupported",
    "TemplateCurve",
    "decide",
    "for_ambiguous_face",
    "identification_policy",
    "load_calibration",
    "rate_at",
    "read_calibration",
    "similarity",
    "verification_policy",
    "worst_rate_at",
]
