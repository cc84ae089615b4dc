"""How well a face can be compared: measures with units, limits with named issues."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import cv2
import numpy as np

from app.faces.types import DetectedFace, Quality
from app.types import Pixels


class QualityIssue(StrEnum):
    """Why a face is too poor to be compared; the values are stable."""

    FACE_TOO_SMALL = "face_too_small"
    BLURRED = "blurred"
    TOO_DARK = "too_dark"
    TOO_BRIGHT = "too_bright"
    LOW_CONTRAST = "low_contrast"
    EXTREME_POSE = "extreme_pose"


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """Where each measure of `app.faces.types.Quality` becomes an issue.

    The defaults are lenient: they reject faces that can hardly be recognised and leave the rest to the measured error
    rates. The sharpness limit is the value that 99 % of sharp faces of the smallest accepted size still reach: faces
    held out of training, reduced to 16 pixels between the eyes and enlarged again. Roll has no limit, because alignment
    removes it.

    Attributes:
        min_eye_distance: original pixels.
        min_sharpness: variance of the Laplacian of the grey chip.
        min_brightness: mean grey level, 0..255.
        max_brightness: mean grey level, 0..255.
        min_contrast: standard deviation of the grey levels.
        max_yaw: magnitude, share of the eye distance.
    """

    min_eye_distance: float = 16.0
    min_sharpness: float = 17.0
    min_brightness: float = 30.0
    max_brightness: float = 235.0
    min_contrast: float = 12.0
    max_yaw: float = 0.75


def assess(chip: Pixels, detected: DetectedFace, scale: float, limits: QualityLimits) -> Quality:
    """Measure a face and name the measures outside the limits.

    Yaw is measured along the line through the eyes, so that a tilted head does not look like a turned one.

    Args:
        chip: the aligned face, uint8 [112, 112, 3], RGB.
        detected: the same face as detected.
        scale: pixels of ``detected``'s coordinates per original pixel: ``Photograph.scale`` if they are those of
            ``Photograph.pixels``, 1 if they are the original's.
        limits: where a measure becomes an issue.

    Returns:
        The measures; ``issues`` are values of `QualityIssue`, in its order.
    """
    grey = cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY)
    left, right, nose = detected.landmarks[:3].astype(np.float64)
    along = right - left
    eye_distance = float(np.hypot(*along))
    offset = float((nose - (left + right) / 2) @ along)
    measured = Quality(
        eye_distance=eye_distance / scale,
        sharpness=float(cv2.Laplacian(grey, cv2.CV_64F).var()),
        brightness=float(grey.mean()),
        contrast=float(grey.std()),
        yaw=offset / eye_distance**2 if eye_distance else 0.0,
        roll=float(np.degrees(np.arctan2(along[1], along[0]))),
        confidence=detected.confidence,
    )
    return with_issues(measured, limits)


def with_issues(measured: Quality, limits: QualityLimits) -> Quality:
    """The measures with every issue named that the limits make of them."""
    outside = {
        QualityIssue.FACE_TOO_SMALL: measured.eye_distance < limits.min_eye_distance,
        QualityIssue.BLURRED: measured.sharpness < limits.min_sharpness,
        QualityIssue.TOO_DARK: measured.brightness < limits.min_brightness,
        QualityIssue.TOO_BRIGHT: measured.brightness > limits.max_brightness,
        QualityIssue.LOW_CONTRAST: measured.contrast < limits.min_contrast,
        QualityIssue.EXTREME_POSE: abs(measured.yaw) > limits.max_yaw,
    }
    return replace(measured, issues=tuple(issue.value for issue, is_outside in outside.items() if is_outside))
