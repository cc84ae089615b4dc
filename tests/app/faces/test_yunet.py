"""YuNet in OpenVINO against OpenCV's own detector of the same weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from app.faces.errors import DetectorUnavailableError
from app.faces.yunet import Yunet, read_weights
from app.types import Pixels

pytestmark = pytest.mark.slow

SIZES = [(512, 512), (480, 640), (250, 250), (333, 201), (64, 640), (31, 33)]


@pytest.fixture(scope="module")
def yunet() -> Yunet:
    return Yunet(read_weights(), threads=2)


def scene(astronaut: Pixels, height: int, width: int) -> Pixels:
    """The astronaut, and smaller ones beside her where there is room."""
    canvas = np.full((height, width, 3), 90, dtype=np.uint8)
    left = 0
    for side in (min(height, width), height // 2, height // 3):
        if left + side <= width and side >= 24:
            canvas[:side, left : left + side] = cv2.resize(astronaut, (side, side), interpolation=cv2.INTER_AREA)
            left += side
    return canvas


def opencv(picture: Pixels, score: float = 0.6, nms: float = 0.3) -> np.ndarray:
    size = (picture.shape[1], picture.shape[0])
    weights = np.frombuffer(read_weights(), dtype=np.uint8)
    network = cv2.FaceDetectorYN.create("onnx", weights, np.empty(0, dtype=np.uint8), size, score, nms)
    rows = network.detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    return np.zeros((0, 15), dtype=np.float32) if rows is None else rows


def ordered(rows: np.ndarray) -> np.ndarray:
    return rows[np.argsort(-rows[:, 2] * rows[:, 3])]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("score", [0.6, 0.9])
def test_the_faces_are_those_of_opencv(yunet: Yunet, astronaut: Pixels, size: tuple[int, int], score: float) -> None:
    picture = scene(astronaut, *size)
    found, expected = yunet.detect(picture, score, 0.3), opencv(picture, score)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(ordered(found), ordered(expected), atol=2e-3)


def test_several_faces_are_found_in_one_of_the_scenes(yunet: Yunet, astronaut: Pixels) -> None:
    assert len(yunet.detect(scene(astronaut, 320, 640), 0.6, 0.3)) > 1


def test_overlapping_boxes_are_one_face(yunet: Yunet, astronaut: Pixels) -> None:
    picture = scene(astronaut, 512, 512)
    assert len(yunet.detect(picture, 0.6, 0.3)) == 1
    assert len(yunet.detect(picture, 0.6, 1.0)) > 1


def test_suppression_chooses_from_a_limited_number_of_boxes(yunet: Yunet) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (640, 640, 3), dtype=np.uint8)
    rows = yunet.detect(noise, 0.0, 1.0)
    assert len(rows) == 5000
    everything = sorted(yunet.detect(noise[:256, :256], 0.0, 1.0)[:, 14], reverse=True)
    assert len(everything) == 32 * 32 + 16 * 16 + 8 * 8
    assert (np.diff(rows[:, 14]) <= 0).all()


def test_memory_may_be_given_back_while_others_search(yunet: Yunet, astronaut: Pixels) -> None:
    pictures = [scene(astronaut, *size) for size in SIZES] * 10
    expected = [yunet.detect(picture, 0.6, 0.3) for picture in pictures]

    def look(picture: Pixels) -> np.ndarray:
        yunet._networks[-1].release_memory()
        return yunet.detect(picture, 0.6, 0.3)

    with ThreadPoolExecutor(8) as pool:
        for found, alone in zip(pool.map(look, pictures), expected, strict=True):
            np.testing.assert_array_equal(found, alone)


def test_pictures_of_all_sizes_at_once(yunet: Yunet, astronaut: Pixels) -> None:
    pictures = [scene(astronaut, *size) for size in SIZES] * 8
    expected = [yunet.detect(picture, 0.6, 0.3) for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        for found, alone in zip(pool.map(lambda p: yunet.detect(p, 0.6, 0.3), pictures), expected, strict=True):
            np.testing.assert_array_equal(found, alone)


def test_a_picture_that_must_not_be_written_to(yunet: Yunet, astronaut: Pixels) -> None:
    picture = scene(astronaut, 480, 640)
    expected = yunet.detect(picture, 0.6, 0.3)
    picture.flags.writeable = False
    np.testing.assert_array_equal(yunet.detect(picture, 0.6, 0.3), expected)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_number_of_threads_finds_the_same(astronaut: Pixels, threads: int) -> None:
    picture = scene(astronaut, 512, 512)
    expected = opencv(picture)
    for _ in range(3):
        network = Yunet(read_weights(), threads=threads)
        for _ in range(threads + 1):
            np.testing.assert_allclose(network.detect(picture, 0.6, 0.3), expected, atol=2e-3)


def test_bytes_that_are_no_network_are_refused() -> None:
    with pytest.raises(DetectorUnavailableError, match="cannot run"):
        Yunet(b"nothing", threads=1)
