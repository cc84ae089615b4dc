"""Distance -> decision: the calibration table and the threshold taken from it."""

from app.decisions.calibration import Calibration, CalibrationError, OperatingPoint, load_calibration
from app.decisions.decide import Decision, decide, similarity

__all__ = [
    "Calibration",
    "CalibrationError",
    "Decision",
    "OperatingPoint",
    "decide",
    "load_calibration",
    "similarity",
]
