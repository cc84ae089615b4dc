from __future__ import annotations

import json
import math
from functools import partial

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.faces import (
    DOMINANT,
    TEMPLATE,
    Box,
    DecodeLimits,
    DetectedFace,
    FaceFinder,
    FacePolicy,
    MultipleFacesError,
    NoFaceError,
    Photograph,
    TooManyFacesError,
    WorkBudget,
    YunetDetector,
    choose,
    decode,
)
from app.faces import finder as finder_module
from app.types import Pixels
from tests.app.faces.conftest import encode
from tests.app.faces.test_decode import exif, turned
from tests.app.faces.test_detect import Counting, at
from tests.app.photographs import collins, hopper, tiled

pytestmark = pytest.mark.slow

FACES = st.lists(
    st.tuples(st.floats(-50, 500), st.floats(-50, 500), st.floats(1, 300), st.floats(1, 300)).map(
        lambda box: DetectedFace(box=Box(*box), landmarks=TEMPLATE, confidence=0.9)
    ),
    max_size=6,
)


@pytest.fixture(scope="module")
def finder(detector: YunetDetector) -> FaceFinder:
    return FaceFinder(detector)


@pytest.fixture(scope="module")
def pair(astronaut: Pixels) -> Pixels:
    canvas = np.full((512, 800, 3), 200, dtype=np.uint8)
    canvas[:256, :256] = cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)
    canvas[:, 288:] = astronaut
    return canvas


def test_single(finder: FaceFinder, astronaut: Pixels) -> None:
    found = finder.find(encode(astronaut, "PNG"), FacePolicy.SINGLE)
    assert (found.width, found.height, found.faces_detected) == (512, 512, 1)
    (face,) = found.faces
    assert at(face.detected)
    assert face.chip.shape == (112, 112, 3)
    assert face.quality.issues == ()


def test_no_face(finder: FaceFinder) -> None:
    with pytest.raises(NoFaceError) as caught:
        finder.find(encode(np.full((200, 200, 3), 90, dtype=np.uint8), "PNG"), FacePolicy.ALL)
    assert caught.value.code == "no_face"


def test_largest_and_all_say_how_many_there_are(finder: FaceFinder, pair: Pixels) -> None:
    largest = finder.find(encode(pair, "PNG"), FacePolicy.LARGEST)
    assert largest.faces_detected == 2
    (face,) = largest.faces
    assert at(face.detected, offset=(288, 0))
    every = finder.find(encode(pair, "PNG"), FacePolicy.ALL)
    assert every.faces_detected == len(every.faces) == 2
    assert at(every.faces[1].detected, scale=0.5)


@pytest.mark.parametrize("orientation", [1, 6])
def test_coordinates_are_the_upright_originals(
    detector: YunetDetector, astronaut: Pixels, pair: Pixels, orientation: int
) -> None:
    finder = FaceFinder(detector, decode_limits=DecodeLimits(working_side=400))
    large = Image.fromarray(astronaut).resize((1536, 1536), Image.Resampling.BICUBIC)
    data = encode(turned(large, orientation), "JPEG", quality=95, exif=exif(orientation))
    found = finder.find(data, FacePolicy.SINGLE)
    assert (found.width, found.height) == (1536, 1536)
    (face,) = found.faces
    assert at(face.detected, scale=3)
    assert face.detected.box.width == pytest.approx(3 * 90, abs=25)
    assert face.quality.eye_distance == pytest.approx(3 * 45, abs=10)
    with pytest.raises(MultipleFacesError) as caught:
        finder.find(
            encode(turned(Image.fromarray(pair), orientation), "PNG", exif=exif(orientation)), FacePolicy.SINGLE
        )
    details = caught.value.details
    assert details["count"] == 2
    assert [box["x"] for box in details["boxes"]] == pytest.approx([288 + 178, 89], abs=8)
    json.dumps(details)


def test_reduced_decoding_cuts_the_same_chip(detector: YunetDetector, astronaut: Pixels) -> None:
    data = encode(Image.fromarray(astronaut).resize((2048, 2048), Image.Resampling.BICUBIC), "PNG")
    chips = [
        FaceFinder(detector, decode_limits=DecodeLimits(working_side=side)).find(data, FacePolicy.SINGLE).faces[0].chip
        for side in (2048, 640)
    ]
    assert np.abs(chips[0].astype(int) - chips[1].astype(int)).mean() < 8


class Decodings:
    """Counts how a file is decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.glances = list[bool]()

        def counted(
            data: bytes, limits: DecodeLimits, *, coarse: bool = False, budget: WorkBudget | None = None
        ) -> Photograph:
            self.glances.append(coarse)
            return decode(data, limits, coarse=coarse, budget=budget)

        monkeypatch.setattr(finder_module, "decode", counted)


@pytest.mark.parametrize(
    ("side", "kind", "glances"),
    [
        (1800, "JPEG", [True]),  # eyes 40 pixels apart at a quarter of the size
        (700, "JPEG", [True, False]),  # 15: the chip needs more
        (130, "JPEG", [True, False]),  # not found at a quarter
        (700, "PNG", [True]),  # decoded whole at once
    ],
)
def test_a_large_jpeg_is_decoded_as_finely_as_its_face_needs(
    finder: FaceFinder,
    astronaut: Pixels,
    monkeypatch: pytest.MonkeyPatch,
    side: int,
    kind: str,
    glances: list[bool],
) -> None:
    canvas = Image.new("RGB", (4000, 3000), (90, 110, 90))
    canvas.paste(Image.fromarray(astronaut).resize((side, side), Image.Resampling.LANCZOS), (1000, 800))
    data = encode(canvas, kind, **({"quality": 95} if kind == "JPEG" else {}))
    found = Decodings(monkeypatch)
    face = finder.find(data, FacePolicy.LARGEST).faces[0]
    assert found.glances == glances
    assert at(face.detected, scale=side / 512, offset=(1000, 800), tolerance=24)
    assert face.quality.eye_distance == pytest.approx(45 * side / 512, rel=0.15)


@pytest.fixture(scope="module")
def crowd() -> bytes:
    """Ninety small faces, in a picture that has more detail than the default scale shows."""
    return encode(tiled(10, 9, 120), "PNG")


def test_a_crowd_is_counted_and_not_refined(crowd: bytes) -> None:
    detector = Counting()
    finder = FaceFinder(detector, max_faces=50)
    for find in (partial(finder.find, policy=FacePolicy.ALL), finder.find_all):
        detector.sides.clear()
        with pytest.raises(TooManyFacesError, match="Crop it") as caught:
            find(crowd)
        assert caught.value.details == {"count": 90, "max_faces": 50}
        assert len(detector.sides) <= 3
    detector.sides.clear()
    with pytest.raises(MultipleFacesError, match="90 faces") as several:
        finder.find(crowd, FacePolicy.SINGLE)
    assert several.value.details["count"] == 90
    assert len(several.value.details["boxes"]) == 20
    assert len(detector.sides) <= 3
    found = finder.find(crowd, FacePolicy.LARGEST)
    assert len(found.faces) == 1


def test_as_many_faces_as_are_taken_are_all_cut(crowd: bytes, detector: YunetDetector) -> None:
    found = FaceFinder(detector, max_faces=90).find(crowd, FacePolicy.ALL)
    assert len(found.faces) == found.faces_detected == 90


def side_by_side(astronaut: Pixels, ratio: float, side: int = 400, width: int = 1000) -> bytes:
    """The astronaut twice, the left one ``ratio`` times as large."""
    canvas = Image.new("RGB", (width, 600), (90, 110, 90))
    for x, size in ((0, side), (width // 2, round(side / ratio))):
        canvas.paste(Image.fromarray(astronaut).resize((size, size), Image.Resampling.LANCZOS), (x, 20))
    return encode(canvas, "PNG")


@pytest.mark.parametrize(("ratio", "clear"), [(1.0, False), (1.25, False), (1.8, True), (2.5, True)])
def test_a_dominant_face_is_clearly_larger_than_all_others(
    finder: FaceFinder, astronaut: Pixels, ratio: float, clear: bool
) -> None:
    data = side_by_side(astronaut, ratio)
    largest = finder.find(data, FacePolicy.LARGEST)
    assert largest.ambiguous is not clear
    assert at(largest.faces[0].detected, scale=400 / 512, offset=(0, 20), tolerance=8) or ratio == 1.0
    if not clear:
        with pytest.raises(MultipleFacesError, match=r"none is 1\.5 times as large") as caught:
            finder.find(data, FacePolicy.DOMINANT)
        assert caught.value.details["count"] == len(caught.value.details["boxes"]) == 2
        return
    dominant = finder.find(data, FacePolicy.DOMINANT)
    assert dominant.faces_detected == 2
    assert not dominant.ambiguous
    (face,) = dominant.faces
    assert at(face.detected, scale=400 / 512, offset=(0, 20), tolerance=8)
    # The same chip as that of the largest face, so the same embedding.
    np.testing.assert_array_equal(face.chip, largest.faces[0].chip)


def filling(person: str) -> Image.Image:
    """A face that fills the picture, so that the default scale misses it, and a small one of somebody else."""
    face, other = {
        "collins": (collins().crop((184, 60, 262, 138)), hopper().crop((105, 30, 420, 390))),
        "hopper": (hopper().crop((178, 166, 347, 335)), collins().crop((150, 40, 300, 190))),
    }[person]
    picture = face.resize((960, 960), Image.Resampling.BICUBIC)
    picture.paste(other.resize((150, 150 * other.height // other.width), Image.Resampling.LANCZOS), (810, 0))
    return picture


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("person", ["collins", "hopper"])
def test_a_small_face_is_not_taken_for_one_that_fills_the_picture(
    finder: FaceFinder, detector: YunetDetector, person: str, kind: str
) -> None:
    picture = filling(person)
    (small,) = detector._run(np.asarray(picture), 640 / 960)
    assert small.box.side < 150
    data = encode(picture, kind)
    with pytest.raises(MultipleFacesError, match="2 faces"):
        finder.find(data, FacePolicy.SINGLE)
    found = [finder.find(data, policy) for policy in (FacePolicy.DOMINANT, FacePolicy.LARGEST, FacePolicy.ALL)]
    for faces in found:
        assert faces.faces_detected == 2
        assert faces.faces[0].detected.box.side > 700
        np.testing.assert_array_equal(faces.faces[0].chip, found[0].faces[0].chip)


@pytest.mark.parametrize("ratio", [1.0, 1.2, 1.35])
@pytest.mark.parametrize("side", [160, 240, 480])
def test_a_face_of_like_size_is_seen_by_largest_too(
    finder: FaceFinder, astronaut: Pixels, side: int, ratio: float
) -> None:
    # In the coarse pass the larger one is 9, 13 or 27 pixels wide.
    assert finder.find(side_by_side(astronaut, ratio, side), FacePolicy.LARGEST).ambiguous


def test_one_face_is_dominant_and_not_ambiguous(finder: FaceFinder, astronaut: Pixels) -> None:
    data = encode(astronaut, "PNG")
    assert finder.find(data, FacePolicy.DOMINANT).faces_detected == 1
    assert not finder.find(data, FacePolicy.LARGEST).ambiguous


@given(FACES, st.sampled_from(FacePolicy))
def test_choose(faces: list[DetectedFace], policy: FacePolicy) -> None:
    areas = sorted((face.box.width * face.box.height for face in faces), reverse=True)
    if not faces:
        with pytest.raises(NoFaceError):
            choose(faces, policy)
    elif len(faces) > 1 and (
        policy is FacePolicy.SINGLE
        or (policy is FacePolicy.DOMINANT and math.sqrt(areas[0]) < DOMINANT * math.sqrt(areas[1]))
    ):
        with pytest.raises(MultipleFacesError) as caught:
            choose(faces, policy)
        assert caught.value.details["count"] == len(caught.value.details["boxes"]) == len(faces)
    else:
        chosen = [face.box.width * face.box.height for face in choose(faces, policy)]
        assert chosen == (areas if policy is FacePolicy.ALL else areas[:1])


def test_the_policies_names_are_stable() -> None:
    assert {policy.value for policy in FacePolicy} == {"single", "dominant", "largest", "all"}
