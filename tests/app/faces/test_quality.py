from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.faces import TEMPLATE, Box, DetectedFace, QualityIssue, QualityLimits, YunetDetector, align, assess
from app.types import Pixels
from tests.app.faces.conftest import photograph

LIMITS = QualityLimits()
FACE = DetectedFace(box=Box(20, 20, 70, 90), landmarks=TEMPLATE, confidence=0.9)


@pytest.fixture(scope="module")
def found(astronaut: Pixels, detector: YunetDetector) -> tuple[Pixels, DetectedFace]:
    (face,) = detector.detect(photograph(astronaut))
    return align(astronaut, face.landmarks), face


def test_a_good_photograph_has_no_issue(found: tuple[Pixels, DetectedFace]) -> None:
    quality = assess(*found, 1.0, LIMITS)
    assert quality.issues == ()
    assert quality.eye_distance == pytest.approx(46, abs=4)
    assert abs(quality.yaw) < 0.2
    assert abs(quality.roll) < 5
    assert quality.confidence > 0.9


def test_eye_distance_is_in_original_pixels(found: tuple[Pixels, DetectedFace]) -> None:
    assert assess(*found, 0.25, LIMITS).eye_distance == pytest.approx(4 * assess(*found, 1.0, LIMITS).eye_distance)


def test_blurring_lowers_sharpness(found: tuple[Pixels, DetectedFace]) -> None:
    chip, face = found
    blurred = [chip] + [cv2.GaussianBlur(chip, (0, 0), sigma) for sigma in (0.5, 1, 2, 4)]
    measured = [assess(np.asarray(each, dtype=np.uint8), face, 1.0, LIMITS) for each in blurred]
    assert all(sharp.sharpness > soft.sharpness for sharp, soft in pairwise(measured))
    assert measured[-1].issues == (QualityIssue.BLURRED,)


def test_light_and_contrast(found: tuple[Pixels, DetectedFace]) -> None:
    chip, face = found
    measured = [assess((chip * gain).astype(np.uint8), face, 1.0, LIMITS) for gain in (1, 0.7, 0.4, 0.1)]
    assert all(a.brightness > b.brightness and a.contrast > b.contrast for a, b in pairwise(measured))
    assert QualityIssue.TOO_DARK in measured[-1].issues
    pale = assess((chip * 0.05 + 240).astype(np.uint8), face, 1.0, LIMITS)
    assert {QualityIssue.TOO_BRIGHT, QualityIssue.LOW_CONTRAST} <= set(pale.issues)


def test_flat_chip_by_hand() -> None:
    quality = assess(np.full((112, 112, 3), 100, dtype=np.uint8), FACE, 1.0, LIMITS)
    assert (quality.brightness, quality.contrast, quality.sharpness) == (100, 0, 0)


@given(st.floats(-170, 170), st.floats(-2, 2))
def test_yaw_and_roll_by_construction(roll: float, yaw: float) -> None:
    radians = np.radians(roll)
    along, down = np.array([np.cos(radians), np.sin(radians)]), np.array([-np.sin(radians), np.cos(radians)])
    middle = np.array([200.0, 300.0])
    nose = middle + 40 * yaw * along + 25 * down
    points = [middle - 20 * along, middle + 20 * along, nose, middle + 50 * down, middle + 50 * down]
    face = replace(FACE, landmarks=np.array(points, dtype=np.float32))
    quality = assess(np.zeros((112, 112, 3), dtype=np.uint8), face, 1.0, LIMITS)
    assert quality.eye_distance == pytest.approx(40, abs=1e-3)
    assert quality.roll == pytest.approx(roll, abs=1e-2)
    assert quality.yaw == pytest.approx(yaw, abs=1e-3)
    if abs(abs(yaw) - LIMITS.max_yaw) > 1e-3:
        assert (QualityIssue.EXTREME_POSE in quality.issues) == (abs(yaw) > LIMITS.max_yaw)


def test_small_faces_are_named_and_doubtful_ones_are_not(found: tuple[Pixels, DetectedFace]) -> None:
    chip, face = found
    quality = assess(
        chip, replace(face, landmarks=(face.landmarks / 4).astype(np.float32), confidence=0.5), 1.0, LIMITS
    )
    assert quality.issues == (QualityIssue.FACE_TOO_SMALL,)
    assert all(type(issue) is str for issue in quality.issues)


def test_coinciding_eyes_are_too_small_and_not_a_crash() -> None:
    face = replace(FACE, landmarks=np.zeros((5, 2), dtype=np.float32))
    assert QualityIssue.FACE_TOO_SMALL in assess(np.zeros((112, 112, 3), dtype=np.uint8), face, 1.0, LIMITS).issues


def test_the_names_are_stable() -> None:
    assert [issue.value for issue in QualityIssue] == [
        "face_too_small",
        "blurred",
        "too_dark",
        "too_bright",
        "low_contrast",
        "extreme_pose",
    ]
