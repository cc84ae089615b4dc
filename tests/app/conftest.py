"""The costly parts, loaded once; every test gets a gallery of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.crowding import NoCrowding
from app.decisions import Calibration, load_calibration
from app.encoding import EncoderRuntime, EncoderWeights, create_runtime, load_weights
from app.faces import DecodeLimits, FaceFinder, YunetDetector
from app.gallery import SqliteGallery
from app.recognition.criteria import Criteria
from app.recognition.service import RecognitionService
from app.settings import EncodingSettings
from tests.app.photographs import collins, hopper, jpeg, lfw_people
from tests.shared_data import LFW

MakeService = Callable[[Path], RecognitionService]


@pytest.fixture(scope="session")
def weights() -> EncoderWeights:
    return load_weights(EncodingSettings().directory)


@pytest.fixture(scope="session")
def encoder(weights: EncoderWeights) -> EncoderRuntime:
    return create_runtime(weights)


@pytest.fixture(scope="session")
def calibration(weights: EncoderWeights) -> Calibration:
    return load_calibration(EncodingSettings().directory, weights.sha256)


@pytest.fixture(scope="session")
def face_finder() -> FaceFinder:
    return FaceFinder(YunetDetector(), DecodeLimits(max_bytes=16 * 1024 * 1024, max_pixels=50_000_000))


@pytest.fixture(scope="session")
def make_service(face_finder: FaceFinder, encoder: EncoderRuntime, calibration: Calibration) -> MakeService:
    def make(data_dir: Path) -> RecognitionService:
        gallery = SqliteGallery(data_dir, encoder_digest=encoder.info.sha256)
        return RecognitionService(face_finder, encoder, gallery, Criteria(calibration), crowding=NoCrowding())

    return make


@pytest.fixture
def service(make_service: MakeService, tmp_path: Path) -> Iterator[RecognitionService]:
    running = make_service(tmp_path / "data")
    yield running
    running.close()


@pytest.fixture(scope="session")
def ada() -> bytes:
    """A photograph of one person."""
    return jpeg(collins())


@pytest.fixture(scope="session")
def grace() -> bytes:
    """A photograph of another person."""
    return jpeg(hopper())


@pytest.fixture(scope="session")
def people() -> dict[str, tuple[bytes, ...]]:
    """Two or more photographs of each of several people: 60 of LFW where it is at hand, two otherwise."""
    return lfw_people(60) or {
        "collins": (jpeg(collins()), jpeg(collins(), 60)),
        "hopper": (jpeg(hopper()), jpeg(hopper(), 60)),
    }


@pytest.fixture(scope="session")
def lfw() -> dict[str, tuple[bytes, ...]]:
    """Two or more photographs of each of 100 LFW people."""
    if not LFW.is_file():
        pytest.skip(f"{LFW} is not there; TESSERA_TEST_DATA names its folder")
    return lfw_people(100)
