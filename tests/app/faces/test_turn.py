from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from app.faces import (
    Box,
    DetectedFace,
    DetectorSettings,
    FaceFinder,
    FacePolicy,
    TooMuchWorkError,
    WorkBudget,
    WorkLimits,
    YunetDetector,
)
from app.faces import turn as turn_module
from app.faces.detect import NO_BORDER, Border
from app.faces.turn import TURNS, righted, turn, turned_back
from app.types import Pixels
from tests.app.faces.conftest import encode, photograph
from tests.app.photographs import GREY, collins, hopper, lfw_people
from tests.shared_data import LFW, needs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finder(detector: YunetDetector) -> FaceFinder:
    return FaceFinder(detector)


def marked(face: DetectedFace, width: int, height: int) -> Pixels:
    """A black picture with a white pixel at each landmark."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    for x, y in face.landmarks.astype(int):
        pixels[y, x] = 255
    return pixels


@given(
    st.integers(20, 60),
    st.integers(20, 60),
    st.sampled_from(TURNS),
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), min_size=5, max_size=5, unique=True),
)
def test_coordinates_go_back_to_the_picture_before(
    width: int, height: int, degrees: int, points: list[tuple[int, int]]
) -> None:
    face = DetectedFace(Box(3, 5, 7, 11), np.array(points, dtype=np.float32), 0.9)
    turned_size = (height, width) if degrees != 180 else (width, height)
    before = turned_back(face, degrees, width, height)
    assert before.turned == degrees
    np.testing.assert_array_equal(turn(marked(before, width, height), degrees), marked(face, *turned_size))
    assert (before.box.width, before.box.height) == ((7, 11) if degrees == 180 else (11, 7))


@pytest.mark.parametrize("policy", FacePolicy)
@pytest.mark.parametrize("degrees", TURNS)
def test_a_turned_photograph_gives_the_same_face(
    finder: FaceFinder, astronaut: Pixels, degrees: int, policy: FacePolicy
) -> None:
    upright = finder.find(encode(astronaut, "PNG"), policy).faces[0]
    # Turned the other way when it was sent, so it has to be turned by ``degrees`` to be upright.
    sent = turn(astronaut, 360 - degrees)
    found = finder.find(encode(sent, "PNG"), policy)
    (face,) = found.faces
    assert face.detected.turned == degrees
    assert np.abs(face.chip.astype(int) - upright.chip.astype(int)).mean() < 1
    assert face.quality.yaw == pytest.approx(upright.quality.yaw, abs=0.01)
    assert face.quality.issues == ()
    expected = turned_back(upright.detected, degrees, 512, 512)
    np.testing.assert_allclose(face.detected.landmarks, expected.landmarks, atol=1)
    assert face.detected.box.x == pytest.approx(expected.box.x, abs=1)
    assert face.detected.box.y == pytest.approx(expected.box.y, abs=1)


def test_coordinates_are_those_of_a_large_photograph_as_sent(finder: FaceFinder, astronaut: Pixels) -> None:
    large = Image.new("RGB", (3200, 2400), (90, 110, 90))
    large.paste(Image.fromarray(astronaut).resize((1500, 1500), Image.Resampling.BICUBIC), (1000, 500))
    upright = finder.find(encode(large, "JPEG", quality=95), FacePolicy.LARGEST)
    sent = large.transpose(Image.Transpose.ROTATE_90)
    found = finder.find(encode(sent, "JPEG", quality=95), FacePolicy.LARGEST)
    assert (found.width, found.height) == (2400, 3200)
    (face,), (expected,) = found.faces, upright.faces
    assert face.detected.turned == 90
    back = turned_back(expected.detected, 90, 2400, 3200)
    np.testing.assert_allclose(face.detected.landmarks, back.landmarks, atol=12)
    assert face.quality.eye_distance == pytest.approx(expected.quality.eye_distance, rel=0.03)


class Glancing(YunetDetector):
    """Counts glances and runs of the network."""

    def __init__(self, settings: DetectorSettings | None = None) -> None:
        super().__init__(settings, threads=1)
        self.glances, self.runs = list[tuple[int, int]](), 0

    def glance(self, pixels: Pixels) -> float:
        self.glances.append((pixels.shape[1], pixels.shape[0]))
        return super().glance(pixels)

    def _run(self, pixels: Pixels, scale: float, border: Border = NO_BORDER) -> list[DetectedFace]:
        self.runs += 1
        return super()._run(pixels, scale, border)


@pytest.mark.parametrize("policy", FacePolicy)
@pytest.mark.parametrize("person", ["collins", "hopper"])
def test_an_upright_face_costs_nothing_more(astronaut: Pixels, policy: FacePolicy, person: str) -> None:
    detector = Glancing()
    pixels = astronaut if person == "collins" else np.asarray(hopper())
    (face,) = FaceFinder(detector).find(encode(pixels, "PNG"), policy).faces
    assert face.detected.turned == 0
    assert detector.glances == []


def test_without_a_face_three_small_pictures_are_looked_at() -> None:
    detector = Glancing()
    blank = photograph(np.full((900, 1600, 3), 128, dtype=np.uint8))
    assert righted(detector, blank, [], detector.detect) == []
    assert detector.glances == [(180, 320), (180, 320), (320, 180)]
    assert detector.runs == 3


def test_the_turns_are_paid_for(astronaut: Pixels) -> None:
    detector = Glancing()
    spent = WorkBudget(WorkLimits(max_seconds=0))
    with pytest.raises(TooMuchWorkError):
        righted(detector, photograph(turn(astronaut, 90)), [], detector.detect, spent)
    assert detector.glances == []


def test_what_is_hardly_surer_after_turning_stays_as_it_was(
    detector: YunetDetector, astronaut: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    (face,) = detector.detect(photograph(astronaut))
    sent = photograph(turn(astronaut, 270))
    for known, turned in ((0.8, 90), (face.confidence - 0.02, 0)):
        monkeypatch.setattr(turn_module, "DOUBTFUL", 1.0)
        before = [dataclasses.replace(face, confidence=known)]
        assert righted(detector, sent, before, detector.detect)[0].turned == turned


@pytest.mark.parametrize("policy", FacePolicy)
def test_a_small_face_that_lies_does_not_displace_an_upright_one(
    finder: FaceFinder, detector: YunetDetector, policy: FacePolicy
) -> None:
    canvas = Image.new("RGB", (800, 600), GREY)
    head = collins().crop((110, 0, 350, 240)).resize((540, 540), Image.Resampling.BICUBIC)
    canvas.paste(head.filter(ImageFilter.GaussianBlur(20)), (0, 30))
    (doubtful,) = detector.detect(photograph(np.asarray(canvas)))
    assert doubtful.confidence < turn_module.DOUBTFUL
    other = hopper().crop((105, 30, 420, 390)).resize((150, 171), Image.Resampling.LANCZOS)
    canvas.paste(other.transpose(Image.Transpose.ROTATE_90), (600, 20))
    (face,) = finder.find(encode(canvas, "PNG"), policy).faces
    assert face.detected.turned == 0
    assert face.detected.box.side == pytest.approx(doubtful.box.side, rel=0.1)


@pytest.mark.parametrize(
    ("box", "turned"),
    [
        (Box(300, 300, 130, 130), 90),  # elsewhere, of like size: what is found in a face that lies may be anywhere
        (Box(300, 300, 180, 180), 0),
        (Box(100, 50, 300, 300), 90),  # around it
    ],
)
def test_a_face_that_lies_counts_where_it_covers_the_upright_one_or_is_of_its_size(
    detector: YunetDetector, astronaut: Pixels, box: Box, turned: int
) -> None:
    (face,) = detector.detect(photograph(astronaut))
    (lying,) = righted(detector, photograph(turn(astronaut, 270)), [], detector.detect)
    assert lying.turned == 90
    assert lying.box.side == pytest.approx(100, abs=5)
    upright = dataclasses.replace(face, box=box, confidence=0.7)
    assert righted(detector, photograph(turn(astronaut, 270)), [upright], detector.detect)[0].turned == turned


@needs(LFW)
@pytest.mark.parametrize("degrees", TURNS)
def test_photographs_of_lfw_are_found_however_they_lie(detector: YunetDetector, degrees: int) -> None:
    found = 0
    sent = [Image.open(io.BytesIO(data)) for person in lfw_people(20).values() for data in person[:2]]
    for pixels in (turn(np.asarray(image.convert("RGB")), 360 - degrees) for image in sent):
        faces = righted(detector, photograph(pixels), detector.detect(photograph(pixels)), detector.detect)
        found += any(face.turned == degrees for face in faces)
    assert found >= {90: 38, 270: 38, 180: 30}[degrees]


@pytest.mark.parametrize("name", ["brick", "grass", "gravel", "coffee", "rocket", "chelsea", "clock", "coins", "moon"])
def test_a_picture_without_people_has_no_face_whichever_way_it_is_turned(finder: FaceFinder, name: str) -> None:
    pixels = getattr(skimage.data, name)()
    colours = np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels[..., :3]
    assert finder.find_all(encode(np.ascontiguousarray(colours), "PNG")).faces == ()
