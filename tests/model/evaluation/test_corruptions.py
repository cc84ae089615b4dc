from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
from PIL import Image

from app.faces import TEMPLATE, FaceFinder, FacePolicy, YunetDetector
from tests.model.support import make_chips

pytest.importorskip("pyarrow")

from model.evaluation.corruptions import (
    CORRUPTIONS,
    MASK_LEVEL,
    brightness,
    corrupt,
    landmarks,
    mask,
    rotation,
    sunglasses,
)

Chip = npt.NDArray[np.uint8]

RANDOM = ("rotation", "landmarks")
ALL_DOSES = [(name, strength) for name, corruption in CORRUPTIONS.items() for strength in corruption.strengths]


@pytest.fixture(scope="module")
def faces() -> Chip:
    """An aligned face and its mirror image, eight times: made-up chips have no edges to blur and no eyes to cover."""
    out = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()[:300, 80:380]).save(out, "PNG")
    chip = FaceFinder(YunetDetector()).find(out.getvalue(), FacePolicy.LARGEST).faces[0].chip
    return np.stack([chip, chip[:, ::-1]] * 8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def harm(changed: Chip, chips: Chip) -> float:
    """Mean absolute difference, grey levels."""
    return float(np.abs(changed.astype(np.float64) - chips).mean())


# --- every corruption


@pytest.mark.parametrize(("name", "strength"), ALL_DOSES)
def test_changed_chips_are_chips_and_the_others_stay_as_they_were(name: str, strength: float) -> None:
    chips = make_chips([0, 1, 2])
    before = chips.copy()
    changed = corrupt(chips, name, strength)
    assert changed.shape == chips.shape
    assert changed.dtype == np.uint8
    np.testing.assert_array_equal(chips, before)
    assert not np.shares_memory(changed, chips)
    assert (changed != chips).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_packed_chips_that_cannot_be_written_are_changed_all_the_same(name: str) -> None:
    chips = make_chips([0, 1])
    packed = chips.copy()
    packed.flags.writeable = False
    strength = CORRUPTIONS[name].strengths[-1]
    np.testing.assert_array_equal(corrupt(packed, name, strength), corrupt(chips, name, strength))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_gives_the_same_pixels(name: str) -> None:
    chips, strength = make_chips([0] * 6), CORRUPTIONS[name].strengths[-1]
    first = corrupt(chips, name, strength, seed=3)
    np.testing.assert_array_equal(corrupt(chips, name, strength, seed=3), first)
    assert np.array_equal(corrupt(chips, name, strength, seed=4), first) == (name not in RANDOM)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "brightness"])
def test_each_dose_harms_more_than_the_one_before(name: str, faces: Chip) -> None:
    harms = [harm(corrupt(faces, name, strength), faces) for strength in CORRUPTIONS[name].strengths]
    assert harms[0] > 0
    assert harms == sorted(set(harms))


def test_brightness_harms_more_the_further_it_is_from_one(faces: Chip) -> None:
    strengths = CORRUPTIONS["brightness"].strengths
    assert list(strengths) == sorted(strengths)
    darker, brighter = [s for s in strengths if s < 1], [s for s in strengths if s > 1]
    for doses in (darker[::-1], brighter):
        harms = [harm(corrupt(faces, "brightness", factor), faces) for factor in doses]
        assert harms == sorted(set(harms))


@pytest.mark.parametrize(
    ("name", "strength"), [("small", 112), ("brightness", 1), ("mask", 0), ("sunglasses", 0), ("rotation", 0)]
)
def test_a_dose_of_nothing_changes_nothing(name: str, strength: float) -> None:
    chips = make_chips([0, 1, 2])
    np.testing.assert_array_equal(corrupt(chips, name, strength), chips)


@pytest.mark.parametrize("name", ["small", "blur", "rotation", "landmarks"])
def test_a_chip_of_one_colour_keeps_it_to_the_edges(name: str) -> None:
    chips = np.full((3, 112, 112, 3), (30, 140, 220), dtype=np.uint8)
    for strength in CORRUPTIONS[name].strengths:
        np.testing.assert_array_equal(corrupt(chips, name, strength), chips)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_titles_tell_the_perturbations_apart(name: str) -> None:
    titles = [p.title for p in CORRUPTIONS.values()]
    assert titles.count(CORRUPTIONS[name].title) == 1


# --- one by one


def test_jpeg_is_what_pillow_writes_at_this_quality(faces: Chip) -> None:
    for quality in CORRUPTIONS["jpeg"].strengths:
        file = io.BytesIO()
        Image.fromarray(faces[0]).save(file, "JPEG", quality=int(quality))
        expected = np.asarray(Image.open(io.BytesIO(file.getvalue())))
        np.testing.assert_array_equal(corrupt(faces[:1], "jpeg", quality)[0], expected)


def test_blur_has_the_deviation_it_says() -> None:
    # The square of an edge's deviation after blurring is that of the Gaussian (its derivative is the Gaussian).
    edge = np.zeros((1, 112, 112, 3), dtype=np.uint8)
    edge[:, :, 56:] = 255
    for sigma in CORRUPTIONS["blur"].strengths:
        slope = np.diff(corrupt(edge, "blur", sigma)[0, 50, :, 0].astype(np.float64))
        slope /= slope.sum()
        at = np.arange(111)
        assert np.sqrt(slope @ np.square(at - slope @ at)) == pytest.approx(sigma, rel=0.05)


def test_a_small_face_has_no_detail_finer_than_its_pixels() -> None:
    stripes = np.zeros((1, 112, 112, 3), dtype=np.uint8)
    stripes[:, :, ::2] = 200
    np.testing.assert_array_equal(corrupt(stripes, "small", 56), np.full_like(stripes, 100))
    # Stripes of eight pixels are still there at 14 pixels a side.
    wide = np.zeros((1, 112, 112, 3), dtype=np.uint8)
    wide[:, :, np.arange(112) // 8 % 2 == 0] = 200
    assert np.ptp(corrupt(wide, "small", 14)) == 200


def test_brightness_multiplies_and_clips() -> None:
    chip = np.full((112, 112, 3), (0, 100, 200), dtype=np.uint8)
    assert brightness(chip, 0.25, rng())[5, 7].tolist() == [0, 25, 50]
    assert brightness(chip, 1.5, rng())[5, 7].tolist() == [0, 150, 255]
    assert brightness(chip, 3, rng())[5, 7].tolist() == [0, 255, 255]


@pytest.mark.parametrize(("share", "covered"), [(0.1, 11), (0.25, 28), (0.5, 56), (1.0, 112)])
def test_a_mask_covers_its_share_from_below_and_nothing_else(share: float, covered: int) -> None:
    chip = make_chips([0])[0]
    masked = mask(chip, share, rng())
    np.testing.assert_array_equal(masked[: 112 - covered], chip[: 112 - covered])
    assert (masked[112 - covered :] == MASK_LEVEL).all()


def test_a_mask_of_half_the_face_covers_mouth_and_nose_and_leaves_the_eyes() -> None:
    first_covered = round(112 * (1 - 0.5))
    eyes, below = TEMPLATE[:2, 1], TEMPLATE[2:, 1]
    assert eyes.max() < first_covered < below.max()
    assert (below[1:] > first_covered).all()
    assert TEMPLATE[2, 1] > first_covered


@pytest.mark.parametrize("height", CORRUPTIONS["sunglasses"].strengths)
def test_sunglasses_are_a_band_over_both_eyes_and_nothing_else(height: float) -> None:
    chip = np.full((112, 112, 3), 200, dtype=np.uint8)
    dark = (sunglasses(chip, height, rng()) != chip).all(axis=2)
    rows = np.flatnonzero(dark.any(axis=1))
    assert dark[rows].all()
    assert len(rows) == rows[-1] - rows[0] + 1 == height
    for eye in TEMPLATE[:2, 1]:
        assert rows.mean() == pytest.approx(eye, abs=1)


def test_rotation_turns_by_its_angle_to_either_side() -> None:
    # A bright line from the centre to the right.
    chip = np.zeros((112, 112, 3), dtype=np.uint8)
    chip[55:58, 70:100] = 255
    angles = []
    for turned in corrupt(np.stack([chip] * 40), "rotation", 20):
        y, x = np.nonzero(turned[..., 0] > 100)
        angles.append(float(np.degrees(np.arctan2(56 - y.mean(), x.mean() - 56))))
    assert np.abs(angles) == pytest.approx(20, abs=1)
    assert 8 <= (np.array(angles) > 0).sum() <= 32


def test_landmarks_without_error_change_nothing(faces: Chip) -> None:
    np.testing.assert_array_equal(corrupt(faces, "landmarks", 0), faces)


def test_landmarks_are_off_by_an_error_of_their_own_in_each_chip() -> None:
    chips = make_chips([0])[[0, 0, 0, 0]]
    changed = corrupt(chips, "landmarks", 2)
    for a in range(4):
        for b in range(a):
            assert not np.array_equal(changed[a], changed[b])


def test_landmark_errors_move_the_face_by_the_share_that_five_points_leave() -> None:
    # A bright spot at the mean of the landmarks moves by the mean of five errors: sigma / sqrt(5) on each axis.
    centre = TEMPLATE.mean(axis=0)
    spot = np.zeros((112, 112, 3), dtype=np.uint8)
    cv2.circle(spot, (round(float(centre[0])), round(float(centre[1]))), 3, (255, 255, 255), -1)
    places: list[Any] = []
    generator = rng(1)
    for _ in range(400):
        grey = landmarks(spot, 3, generator)[..., 0].astype(np.float64)
        y, x = np.indices(grey.shape)
        places.append([(x * grey).sum() / grey.sum(), (y * grey).sum() / grey.sum()])
    assert np.std(places, axis=0) == pytest.approx(3 / np.sqrt(5), rel=0.1)


def test_a_single_change_is_that_of_its_place_in_the_row() -> None:
    chips, generator = make_chips([0, 1, 2]), rng(9)
    expected = [rotation(chip, 15, generator) for chip in chips]
    np.testing.assert_array_equal(corrupt(chips, "rotation", 15, seed=9), expected)
