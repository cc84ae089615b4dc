from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.faces import TEMPLATE, DegenerateLandmarksError, YunetDetector, align, similarity
from app.types import OUTSIDE_COLOUR, Pixels
from tests.app.faces.conftest import photograph

COORDINATES = st.floats(-50, 50)


def transform(angle: float, scale: float, x: float, y: float) -> np.ndarray:
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, x], [sin, cos, y]])


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


@given(st.floats(-np.pi, np.pi), st.floats(0.1, 40), st.floats(-3000, 3000), st.floats(-3000, 3000))
def test_similarity_undoes_similarity(angle: float, scale: float, x: float, y: float) -> None:
    moved = apply(transform(angle, scale, x, y), TEMPLATE.astype(np.float64))
    back = similarity(moved, TEMPLATE)
    np.testing.assert_allclose(apply(back, moved), TEMPLATE, atol=1e-5)


@given(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=5, max_size=5))
def test_never_a_reflection_and_always_uniform(points: list[tuple[float, float]]) -> None:
    try:
        linear = similarity(points, TEMPLATE)[:, :2]
    except DegenerateLandmarksError:
        return
    determinant = np.linalg.det(linear)
    assert determinant > 0
    np.testing.assert_allclose(linear @ linear.T, determinant * np.eye(2), atol=1e-6 * determinant)


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=5, max_size=5),
    st.floats(-0.02, 0.02),
    st.floats(0.98, 1.02),
)
def test_least_squares(noise: list[tuple[float, float]], angle: float, scale: float) -> None:
    source = TEMPLATE.astype(np.float64) + np.array(noise)
    best = similarity(source, TEMPLATE)
    centre = TEMPLATE.mean(axis=0)
    turn = transform(angle, scale, 0, 0)
    turn[:, 2] = centre - turn[:, :2] @ centre
    fitted = apply(best, source)
    other = apply(turn, fitted)
    assert np.square(fitted - TEMPLATE).sum() <= np.square(other - TEMPLATE).sum() + 1e-6


def test_mirrored_landmarks_are_not_mirrored_back() -> None:
    mirrored = TEMPLATE.astype(np.float64) * [-1, 1]
    assert np.linalg.det(similarity(mirrored, TEMPLATE)[:, :2]) > 0


def dots(scale: float, angle: float, side: int) -> tuple[Pixels, np.ndarray]:
    """White discs on black where the landmarks of a turned and enlarged template lie."""
    matrix = transform(angle, scale, 0, 0)
    matrix[:, 2] = side / 2 - matrix[:, :2] @ TEMPLATE.mean(axis=0)
    points = apply(matrix, TEMPLATE.astype(np.float64))
    y, x = np.mgrid[0:side, 0:side]
    pixels: Pixels = np.zeros((side, side, 3), dtype=np.uint8)
    for px, py in points:
        coverage = np.clip(3 * scale + 0.5 - np.hypot(x - px, y - py), 0, 1)
        pixels = np.maximum(pixels, np.round(255 * coverage[..., None]).astype(np.uint8))
    return pixels, points.astype(np.float32)


@pytest.mark.parametrize("angle", [0, 0.5, -2.0, np.pi])
@pytest.mark.parametrize("scale", [1.0, 1.7, 2.0, 2.01, 2.9, 6.3, 11.0])
def test_the_chips_landmarks_lie_on_the_template(scale: float, angle: float) -> None:
    pixels, points = dots(scale, angle, round(150 * scale) + 7)
    chip = align(pixels, points)
    assert chip.shape == (112, 112, 3)
    assert chip.dtype == np.uint8
    weights = chip[..., 0].astype(np.float64)
    y, x = np.mgrid[0:112, 0:112]
    for px, py in TEMPLATE:
        near = weights * (np.hypot(x - px, y - py) < 6)
        centre = np.array([(near * x).sum(), (near * y).sum()]) / near.sum()
        np.testing.assert_allclose(centre, [px, py], atol=0.1)


def test_the_template_itself_is_the_identity() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    np.testing.assert_array_equal(align(pixels, TEMPLATE), pixels)


def test_moderate_scale_is_the_plain_warp(astronaut: Pixels, detector: YunetDetector) -> None:
    (face,) = detector.detect(photograph(astronaut))
    plain = cv2.warpAffine(astronaut, similarity(face.landmarks, TEMPLATE), (112, 112), flags=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(align(astronaut, face.landmarks), plain)


def test_a_large_face_does_not_alias() -> None:
    side = 1120
    stripes = np.zeros((side, side, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    inner = align(stripes, TEMPLATE * 10)[10:-10, 10:-10]
    assert np.abs(inner.astype(int) - 128).max() <= 2
    assert np.ptp(cv2.warpAffine(stripes, similarity(TEMPLATE * 9.7, TEMPLATE), (112, 112))) > 200


def test_outside_of_the_picture_is_grey() -> None:
    for scale in (1, 4):
        bright = np.full((112 * scale, 112 * scale, 3), 200, dtype=np.uint8)
        chip = align(bright, TEMPLATE * scale + np.float32(56 * scale))
        assert (chip[:50, :50] == 200).all()
        assert (chip[62:] == OUTSIDE_COLOUR).all()
        assert (chip[:, 62:] == OUTSIDE_COLOUR).all()


@given(st.floats(-np.pi, np.pi), st.floats(0.3, 1.9), st.floats(-30, 30), st.floats(-30, 30))
def test_a_chip_is_the_picture_inside_and_exactly_grey_outside(angle: float, scale: float, x: float, y: float) -> None:
    height, width = 90, 70
    landmarks = apply(transform(angle, scale, width / 2 + x, height / 2 + y), TEMPLATE - 56.0)
    chip = align(np.full((height, width, 3), 200, dtype=np.uint8), landmarks.astype(np.float32))
    rows, columns = np.mgrid[0:112, 0:112]
    back = similarity(TEMPLATE, landmarks)
    points = apply(back, np.stack([columns, rows], axis=-1).reshape(-1, 2)).reshape(112, 112, 2)
    # How far inside of the centres of the outermost pixels; between them and the next ones beyond, the two are mixed.
    inside = np.minimum(points, [width - 1, height - 1] - points).min(axis=-1)
    assert (chip[inside > 0.1] == 200).all()
    assert (chip[inside < -1.1] == OUTSIDE_COLOUR).all()


@pytest.mark.parametrize(
    "landmarks",
    [
        np.full((5, 2), 30.0),
        np.full((5, 2), np.nan),
        np.where(np.arange(10).reshape(5, 2) == 3, np.inf, TEMPLATE),
        TEMPLATE * 1e30,
        TEMPLATE * 1e-6,
        TEMPLATE[:4],
        TEMPLATE + 5000,
        TEMPLATE * 5 - 5000,
    ],
    ids=["equal", "nan", "inf", "huge", "tiny", "four", "outside", "outside and large"],
)
def test_degenerate_landmarks(landmarks: np.ndarray) -> None:
    with pytest.raises(DegenerateLandmarksError) as caught:
        align(np.zeros((200, 200, 3), dtype=np.uint8), landmarks.astype(np.float32))
    assert caught.value.code == "degenerate_landmarks"
