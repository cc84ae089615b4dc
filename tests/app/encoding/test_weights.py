from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.decisions import load_calibration
from app.encoding import WeightsError, create_runtime, load_weights
from app.settings import DEFAULT_WEIGHTS, EncodingSettings

Change = Callable[..., None]
ENCODERS = sorted(path for path in DEFAULT_WEIGHTS.iterdir() if (path / "encoder.onnx").is_file())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("encoder.onnx", "encoder.json"):
        shutil.copy(EncodingSettings().directory / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def describe(folder: Path) -> Change:
    """Changes members of the description; None removes one."""

    def change(**members: Any) -> None:
        path = folder / "encoder.json"
        description = json.loads(path.read_text()) | members
        path.write_text(json.dumps({name: value for name, value in description.items() if value is not None}))

    return change


def test_an_encoder_is_loaded_with_its_digest(folder: Path) -> None:
    loaded = load_weights(folder)
    assert loaded.network == (folder / "encoder.onnx").read_bytes()
    assert loaded.sha256 == hashlib.sha256(loaded.network).hexdigest()
    assert loaded.name
    assert loaded.version


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_a_single_changed_byte_is_noticed(folder: Path, place: int) -> None:
    network = bytearray((folder / "encoder.onnx").read_bytes())
    network[place] ^= 1
    (folder / "encoder.onnx").write_bytes(network)
    with pytest.raises(WeightsError, match="SHA-256") as refused:
        load_weights(folder)
    assert refused.value.code == "encoder_weights_invalid"


@pytest.mark.parametrize("name", ["encoder.onnx", "encoder.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=name):
        load_weights(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"sha256": 1}', "\udcff"])
def test_a_description_that_is_none(folder: Path, text: str) -> None:
    (folder / "encoder.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(WeightsError, match="no usable encoder"):
        load_weights(folder)


@pytest.mark.parametrize("member", ["sha256", "embedding_size", "name", "version"])
def test_an_incomplete_description(folder: Path, describe: Change, member: str) -> None:
    describe(**{member: None})
    with pytest.raises(WeightsError, match=member):
        load_weights(folder)


def test_embeddings_of_another_size(folder: Path, describe: Change) -> None:
    describe(embedding_size=512)
    with pytest.raises(WeightsError, match="512"):
        load_weights(folder)


@pytest.mark.parametrize("network", [b"", b"no network at all", b"\x08\x07" * 50])
def test_a_network_that_is_none_is_refused_by_the_runtime(folder: Path, describe: Change, network: bytes) -> None:
    (folder / "encoder.onnx").write_bytes(network)
    describe(sha256=hashlib.sha256(network).hexdigest())
    with pytest.raises(WeightsError, match="OpenVINO cannot run"):
        create_runtime(load_weights(folder))


@pytest.mark.parametrize("directory", ENCODERS, ids=lambda path: path.name)
def test_every_shipped_encoder_runs_and_has_thresholds_of_its_own(directory: Path) -> None:
    weights = load_weights(directory)
    assert weights.name == directory.name
    table = load_calibration(directory, weights.sha256)
    assert weights.name in table.version
    chips = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    vectors = create_runtime(weights, threads=1).encode(chips).embeddings
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_more_than_one_encoder_is_shipped() -> None:
    assert {"tessera-l", "tessera-m", "tessera-s"} <= {path.name for path in ENCODERS}
