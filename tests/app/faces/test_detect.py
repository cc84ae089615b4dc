from __future__ import annotations

import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.faces import (
    Box,
    DecodeLimits,
    DetectedFace,
    DetectorSettings,
    DetectorUnavailableError,
    YunetDetector,
    decode,
    yunet,
)
from app.faces.detect import NO_BORDER, Border
from app.faces.yunet import Floats
from app.types import OUTSIDE_COLOUR, Pixels
from tests.app.faces.conftest import encode, photograph
from tests.app.faces.test_decode import exif, turned
from tests.shared_data import LFW, needs

pytestmark = pytest.mark.slow

# Measured by hand in the 512 x 512 picture: eyes, nose tip, mouth corners.
EYES_NOSE_MOUTH = np.array([[201, 103], [246, 103], [222, 126], [202, 143], [241, 143]], dtype=np.float32)


def at(face: DetectedFace, scale: float = 1.0, offset: tuple[float, float] = (0, 0), tolerance: float = 6.0) -> bool:
    """Whether the astronaut's face lies where she was pasted, within pixels of the 512 x 512 picture."""
    expected = EYES_NOSE_MOUTH * scale + np.array(offset)
    return bool(np.abs(face.landmarks - expected).max() <= tolerance * max(scale, 0.2))


def test_one_face_left_eye_of_the_picture_first(detector: YunetDetector, astronaut: Pixels) -> None:
    (face,) = detector.detect(photograph(astronaut))
    assert at(face)
    assert face.landmarks.shape == (5, 2)
    assert face.landmarks.dtype == np.float32
    assert face.landmarks[0, 0] < face.landmarks[1, 0]
    assert face.landmarks[3, 0] < face.landmarks[4, 0]
    assert 0.9 < face.confidence <= 1
    box = face.box
    assert 160 < box.x < 200
    assert 80 < box.width < 110
    assert 40 < box.y < 80
    assert 100 < box.height < 130


def test_no_face(detector: YunetDetector) -> None:
    assert detector.detect(photograph(np.full((480, 640, 3), 128, dtype=np.uint8))) == []


def test_two_faces_largest_first(detector: YunetDetector, astronaut: Pixels) -> None:
    canvas = np.full((512, 800, 3), 200, dtype=np.uint8)
    canvas[:256, :256] = cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)
    canvas[:, 288:] = astronaut
    large, small = detector.detect(photograph(canvas))
    assert at(large, offset=(288, 0))
    assert at(small, scale=0.5)


def test_a_small_face_in_a_large_photograph(detector: YunetDetector, astronaut: Pixels) -> None:
    canvas = Image.new("RGB", (4000, 3000), (90, 110, 90))
    canvas.paste(Image.fromarray(astronaut).resize((180, 180), Image.Resampling.LANCZOS), (3000, 2000))
    decoded = decode(encode(canvas, "JPEG", quality=95), DecodeLimits())
    assert max(decoded.pixels.shape) == 2048
    # Eyes about 8 pixels apart at the working size, 2.5 at the first look.
    (face,) = detector.detect(decoded)
    landmarks = face.landmarks / decoded.scale
    assert np.abs(landmarks - (EYES_NOSE_MOUTH * 180 / 512 + np.array([3000, 2000]))).max() < 8


@pytest.mark.parametrize("side", [48, 112, 320, 640, 1000, 2048])
@pytest.mark.parametrize("crop", [(50, 190, 160, 280), (75, 165, 180, 262)], ids=["head", "face"])
def test_a_face_that_fills_the_frame(
    detector: YunetDetector, astronaut: Pixels, side: int, crop: tuple[int, int, int, int]
) -> None:
    top, bottom, left, right = crop
    scale = side / (bottom - top)
    region = astronaut[top:bottom, left:right]
    filled = cv2.resize(region, (round(region.shape[1] * scale), side), interpolation=cv2.INTER_CUBIC)
    (face,) = detector.detect(photograph(np.asarray(filled, dtype=np.uint8)))
    assert at(face, scale=scale, offset=(-left * scale, -top * scale), tolerance=8)


@pytest.mark.parametrize("height", [16, 24, 31])
def test_a_tiny_crop_of_a_face(detector: YunetDetector, astronaut: Pixels, height: int) -> None:
    scale = height / 115
    tiny = cv2.resize(astronaut[58:173, 175:270], (round(95 * scale), height), interpolation=cv2.INTER_AREA)
    (face,) = detector.detect(photograph(np.asarray(tiny, dtype=np.uint8)))
    assert np.abs(face.landmarks - (EYES_NOSE_MOUTH - [175, 58]) * scale).max() < 1.5


@pytest.mark.parametrize("size", [(1, 1), (2048, 8), (8, 2048), (33, 700)])
def test_odd_shapes_are_looked_at(detector: YunetDetector, size: tuple[int, int]) -> None:
    assert detector.detect(photograph(np.zeros((*size, 3), dtype=np.uint8))) == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_find_the_same_face(detector: YunetDetector, astronaut: Pixels, orientation: int) -> None:
    stored = turned(Image.fromarray(astronaut), orientation)
    (face,) = detector.detect(decode(encode(stored, "JPEG", quality=95, exif=exif(orientation)), DecodeLimits()))
    assert at(face)


def test_a_face_is_found_in_every_form_of_the_picture(detector: YunetDetector, astronaut: Pixels) -> None:
    image = Image.fromarray(astronaut)
    grey16 = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    rgba = image.convert("RGBA")
    rgba.putalpha(230)
    forms = [
        encode(image, "PNG"),
        encode(image, "WEBP"),
        encode(image, "AVIF"),
        encode(image.convert("L"), "AVIF"),
        encode(rgba, "AVIF"),
        encode(image.convert("L"), "JPEG"),
        encode(image.convert("CMYK"), "JPEG"),
        encode(image.quantize(256), "PNG"),
        encode(rgba, "PNG"),
        encode(grey16, "PNG"),
    ]
    for data in forms:
        (face,) = detector.detect(decode(data, DecodeLimits()))
        assert at(face)


class Counting(YunetDetector):
    """Notes the long side of each picture that the network sees."""

    def __init__(self, settings: DetectorSettings | None = None) -> None:
        super().__init__(settings, threads=1)
        self.sides = list[int]()

    def _run(self, pixels: Pixels, scale: float, border: Border = NO_BORDER) -> list[DetectedFace]:
        self.sides.append(round(max(pixels.shape[:2]) * scale))
        return super()._run(pixels, scale, border)


def framed(astronaut: Pixels, side: int, width: int = 1280, height: int = 960) -> Pixels:
    """The astronaut at a size, in the corner of a larger picture."""
    canvas = np.full((height, width, 3), 120, dtype=np.uint8)
    canvas[:side, :side] = cv2.resize(astronaut, (side, side), interpolation=cv2.INTER_CUBIC)
    return canvas


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (960, [320, 192]),  # her face is 42 pixels wide in the coarse pass
        (400, [320, 165, 640]),  # 18 pixels; the region has no more to show, and others may have been missed
        (300, [320, 640, 131]),  # 13 pixels: too small to go by, and still small afterwards
    ],
)
def test_a_glance_is_enough_for_the_largest_face(astronaut: Pixels, side: int, sides: list[int]) -> None:
    detector, picture = Counting(), photograph(framed(astronaut, side))
    (face,) = detector.detect(picture, largest=True)
    assert at(face, scale=side / 512)
    assert detector.sides == sides
    # For all faces there is a full look, and hers is the same one.
    detector.sides.clear()
    (alone,) = detector.detect(picture)
    assert 640 in detector.sides
    np.testing.assert_array_equal(face.landmarks, alone.landmarks)


def test_a_large_face_is_taken_at_a_glance(astronaut: Pixels) -> None:
    detector = Counting()
    head = astronaut[0:240, 110:350]
    (face,) = detector.detect(
        photograph(np.asarray(cv2.resize(head, (960, 960), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)),
        largest=True,
    )
    assert at(face, scale=4, offset=(-440, 0))
    assert detector.sides == [320]


def test_a_doubtful_glance_is_no_answer(astronaut: Pixels) -> None:
    detector = Counting(DetectorSettings(confident=0.99))
    detector.detect(photograph(framed(astronaut, 960)), largest=True)
    assert detector.sides[:2] == [320, 640]


def test_the_largest_comes_first_at_a_glance(astronaut: Pixels) -> None:
    canvas = framed(astronaut, 640)
    canvas[:900, 300:1200] = cv2.resize(astronaut, (900, 900), interpolation=cv2.INTER_CUBIC)
    canvas[:400, :400] = cv2.resize(astronaut, (400, 400), interpolation=cv2.INTER_AREA)
    detector = Counting()
    large, small = detector.detect(photograph(canvas), largest=True)
    assert detector.sides == [320, 192]
    assert at(large, scale=900 / 512, offset=(300, 0))
    assert large.box.width > small.box.width


def test_a_face_that_is_known_takes_the_place_of_one_and_joins_others(detector: YunetDetector) -> None:
    def face(*box: float) -> DetectedFace:
        return DetectedFace(Box(*box), np.zeros((5, 2), dtype=np.float32), 0.9)

    known, cut, neighbour, far = face(0, 0, 100, 100), face(0, 55, 100, 45), face(60, 0, 100, 100), face(300, 0, 50, 50)
    # Beyond a border the box of one look is shorter than that of another: they overlap by 0.45.
    for faces, expected in (
        ([], [known]),
        ([far], [known, far]),
        ([cut, far], [known, far]),
        ([neighbour, cut], [known, neighbour]),
        ([neighbour, far], [known, neighbour, far]),
    ):
        assert [id(f) for f in detector._with_known(faces, known)] == [id(f) for f in expected]


# The face's box is about 178 to 268 by 61 to 171: it reaches the border of each of these, or crosses it.
AT_A_BORDER = {
    "left": (180, 0, 512, 512),
    "top": (0, 66, 512, 512),
    "right": (0, 0, 262, 512),
    "bottom": (0, 0, 512, 166),
    "corner": (185, 70, 512, 512),
    "all": (178, 60, 268, 170),
}


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("cut", AT_A_BORDER.values(), ids=AT_A_BORDER)
def test_a_face_at_the_border_lies_where_it_does_in_the_whole_picture(
    detector: YunetDetector, astronaut: Pixels, cut: tuple[int, int, int, int], scale: float, largest: bool
) -> None:
    left, top, right, bottom = cut
    part = astronaut[top:bottom, left:right]
    size = (round((right - left) * scale), round((bottom - top) * scale))
    picture = photograph(np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), dtype=np.uint8))
    found = detector.detect(picture, largest=largest)
    assert at(found[0], scale=scale, offset=(-left * scale, -top * scale), tolerance=8)


def test_grey_lies_beyond_the_border(astronaut: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    detector, seen = YunetDetector(threads=1), list[Pixels]()
    detect = detector._network.detect

    def noted(picture: Pixels, score: float, overlap: float) -> Floats:
        seen.append(picture)
        return detect(picture, score, overlap)

    monkeypatch.setattr(detector._network, "detect", noted)
    detector.detect(photograph(astronaut[:, :262]), largest=False)
    (closer,) = [picture for picture in seen if picture.shape == (192, 192, 3)]
    right = closer[:, -40:]
    assert (right == OUTSIDE_COLOUR).all()
    assert not (closer[:, :40] == OUTSIDE_COLOUR).all(axis=-1).any()


def test_a_face_inside_is_not_looked_at_again(astronaut: Pixels) -> None:
    detector = Counting()
    (face,) = detector.detect(photograph(astronaut[30:300, 100:350]))
    assert at(face, offset=(-100, -30))
    assert detector.sides == [270]


@given(
    st.tuples(st.floats(-400, 400), st.floats(-400, 400), st.floats(0.01, 1e6), st.floats(0.01, 1e6)).map(
        lambda box: Box(*box)
    )
)
@settings(max_examples=40, deadline=None)
def test_no_box_is_too_odd_to_be_looked_at_closer(detector: YunetDetector, box: Box) -> None:
    face = DetectedFace(box, np.zeros((5, 2), dtype=np.float32), 0.9)
    assert detector._refine(np.zeros((60, 40, 3), dtype=np.uint8), face) is None


def test_threads_find_alike(detector: YunetDetector, astronaut: Pixels) -> None:
    pictures = [
        photograph(np.asarray(cv2.resize(astronaut, (side, side)), dtype=np.uint8)) for side in (256, 320, 400, 512)
    ] * 6
    expected = [detector.detect(picture)[0].landmarks for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        for faces, landmarks in zip(pool.map(detector.detect, pictures), expected, strict=True):
            np.testing.assert_allclose(faces[0].landmarks, landmarks)


def test_threshold(astronaut: Pixels) -> None:
    strict = YunetDetector(DetectorSettings(score_threshold=0.99))
    assert strict.detect(photograph(astronaut)) == []


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "yunet.onnx"
    path.write_bytes(yunet.read_weights()[:-1] + b"x")
    with pytest.raises(DetectorUnavailableError, match="Restore it from the release") as caught:
        YunetDetector(weights=path)
    assert caught.value.details["expected_sha256"] == yunet.WEIGHTS_SHA256


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectorUnavailableError, match="cannot be read"):
        YunetDetector(weights=tmp_path / "absent.onnx")


@needs(LFW)
def test_a_face_is_found_in_forty_photographs_of_lfw(detector: YunetDetector) -> None:
    found = 0
    with tarfile.open(LFW) as archive:
        jpegs = (member for member in archive if member.name.endswith(".jpg"))
        for _, member in zip(range(40), jpegs, strict=False):
            data = archive.extractfile(member)
            assert data is not None
            faces = detector.detect(decode(data.read(), DecodeLimits()))
            # LFW is cut so that the face it means lies in the middle.
            found += any(np.abs(face.landmarks[2] - 125).max() < 40 for face in faces)
    assert found == 40
