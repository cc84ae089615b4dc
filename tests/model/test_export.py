from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from app.crowding import COHORT_FILE
from app.encoding import EncoderWeights, Precision, RuntimeName, WeightsError, create_runtime, load_weights
from app.encoding.trained_on import TRAINED_ON_FILE, record_of, were_trained_on
from tests.model.support import make_chips, small_backbone

pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx
import torch
from onnx import TensorProto

from app.openvino import ov
from model.export import SMALL, main, to_onnx
from model.networks.backbone import BackboneConfig, Encoder, embed, save_encoder

pytestmark = pytest.mark.slow

CHIPS = make_chips(list(range(5)))


SEPARABLE: dict[str, Any] = {
    "stem": {"width": 8, "kernel": 3, "stride": 2, "activation": "prelu"},
    "stages": [
        {"kind": "separable", "width": 16, "depth": 2, "stride": 2},
        {"kind": "residual", "width": 16, "depth": 1, "stride": 2},
    ],
}


INVERTED: dict[str, Any] = {
    "input": {"columns": [8, 104], "side": 64, "mean": [82, 67, 64], "scale": [0.02, 0.02, 0.01]},
    "stem": {"width": 8, "kernel": 3, "stride": 2, "activation": "prelu", "one_slope": True},
    "stages": [
        {"kind": "depthwise", "width": 8, "depth": 1, "stride": 1},
        {"kind": "inverted", "width": 16, "depth": 2},
        {"kind": "pool", "width": 24, "depth": 1, "stride": 1},
    ],
}


def make_encoder(backbone: dict[str, Any]) -> Encoder:
    """An encoder whose normalisation and slopes have seen something: freshly made they would do nothing."""
    torch.manual_seed(0)
    encoder = Encoder(BackboneConfig.model_validate(backbone)).train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, torch.nn.PReLU):
            torch.nn.init.uniform_(module.weight, -0.2, 0.4)
    with torch.no_grad():
        for seed in range(20):
            encoder(torch.from_numpy(make_chips(list(range(16)), seed)).permute(0, 3, 1, 2).float())
    return encoder.eval()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return make_encoder(small_backbone(8, 16))


@pytest.fixture(scope="module")
def network(encoder: Encoder) -> bytes:
    return to_onnx(encoder)


def expected(encoder: Encoder, chips: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    vectors: npt.NDArray[np.float32] = embed(encoder, torch.from_numpy(chips), bf16=False).numpy()
    return vectors


@pytest.mark.parametrize("runtime", list(RuntimeName))
@pytest.mark.parametrize("batch", [1, 5])
def test_the_exported_network_is_the_encoder(
    encoder: Encoder, network: bytes, runtime: RuntimeName, batch: int
) -> None:
    weights = EncoderWeights("tiny", "0", hashlib.sha256(network).hexdigest(), network)
    vectors = (
        create_runtime(weights, runtime=runtime, precision=Precision.F32, threads=1).encode(CHIPS[:batch]).embeddings
    )
    assert vectors.shape == (batch, 128)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors * expected(encoder, CHIPS[:batch])).sum(axis=1).min() >= 0.9999


@pytest.mark.parametrize("runtime", list(RuntimeName))
@pytest.mark.parametrize("backbone", [SEPARABLE, INVERTED], ids=["separable", "inverted"])
def test_other_blocks_are_exported_too(runtime: RuntimeName, backbone: dict[str, Any]) -> None:
    encoder = make_encoder(backbone)
    network = to_onnx(encoder)
    weights = EncoderWeights("other", "0", hashlib.sha256(network).hexdigest(), network)
    vectors = create_runtime(weights, runtime=runtime, precision=Precision.F32, threads=1).encode(CHIPS).embeddings
    assert (vectors * expected(encoder, CHIPS)).sum(axis=1).min() >= 0.9999
    assert {node.op_type for node in onnx.load_from_string(network).graph.node} >= {"Conv", "PRelu"}


def test_the_encoder_under_test_tells_the_chips_apart(encoder: Encoder) -> None:
    vectors = expected(encoder, CHIPS)
    assert (vectors @ vectors.T - np.eye(5)).max() < 0.99


def test_large_weights_are_stored_as_float16_and_small_ones_are_not(network: bytes) -> None:
    sizes = {TensorProto.FLOAT: [0], TensorProto.FLOAT16: []}
    graph = onnx.load_from_string(network).graph
    for tensor in graph.initializer:
        sizes.setdefault(tensor.data_type, []).append(int(np.prod(tensor.dims)))
    assert max(sizes[TensorProto.FLOAT]) <= SMALL < min(sizes[TensorProto.FLOAT16])
    assert max(sizes[TensorProto.FLOAT16]) == 128 * 16 * 14 * 14
    assert sum(node.op_type == "Cast" for node in graph.node) == len(sizes[TensorProto.FLOAT16]) + 1


def test_the_network_takes_chips_of_any_number_and_has_no_batch_normalisation(network: bytes) -> None:
    graph = onnx.load_from_string(network).graph
    (chips,), (embeddings, lengths) = graph.input, graph.output
    assert chips.type.tensor_type.elem_type == TensorProto.UINT8
    assert [d.dim_value or d.dim_param for d in chips.type.tensor_type.shape.dim] == ["batch", 112, 112, 3]
    assert [embeddings.name, lengths.name] == ["embeddings", "lengths"]
    assert embeddings.type.tensor_type.elem_type == lengths.type.tensor_type.elem_type == TensorProto.FLOAT
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)


def test_the_second_output_is_the_length_before_it_becomes_one(encoder: Encoder, network: bytes) -> None:
    core = ov.Core()
    run = core.compile_model(core.read_model(network), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    embeddings, lengths = (run(CHIPS)[i] for i in range(2))
    assert lengths.shape == (len(CHIPS), 1)
    pixels = torch.from_numpy(CHIPS).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        raw = encoder.norm(encoder.project(encoder.features(pixels, len(encoder.blocks)).flatten(1))).numpy()
    np.testing.assert_allclose(embeddings * lengths, raw, rtol=0.01, atol=0.01 * np.abs(raw).max())


def test_export_gives_the_same_bytes_again_and_leaves_the_encoder(encoder: Encoder, network: bytes) -> None:
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert to_onnx(encoder) == network
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_what_an_encoder_was_trained_on_goes_with_it(encoder: Encoder, tmp_path: Path) -> None:
    chips = make_chips([0, 1, 2, 3])
    save_encoder(encoder, tmp_path / "tiny.pt", record_of(chips[2:3], record_of(chips[:1])))
    main(tmp_path / "tiny.pt", tmp_path / "out", "tiny", "1")
    weights = load_weights(tmp_path / "out")
    assert were_trained_on(chips, weights.trained_on).tolist() == [True, False, True, False]
    with (tmp_path / "out" / TRAINED_ON_FILE).open("ab") as file:
        file.write(b"half")
    with pytest.raises(WeightsError, match=r"trained-on\.bin is damaged"):
        load_weights(tmp_path / "out")
    save_encoder(encoder, tmp_path / "tiny.pt")
    main(tmp_path / "tiny.pt", tmp_path / "out", "tiny", "1")
    assert load_weights(tmp_path / "out").trained_on == b""


def test_the_cohort_of_other_weights_does_not_stay(encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path / "tiny.pt")
    main(tmp_path / "tiny.pt", tmp_path / "out", "tiny", "1")
    (tmp_path / "out" / COHORT_FILE).write_bytes(b"of these weights")
    main(tmp_path / "tiny.pt", tmp_path / "out", "tiny", "2")
    assert (tmp_path / "out" / COHORT_FILE).read_bytes() == b"of these weights"
    other = copy.deepcopy(encoder)
    torch.nn.init.normal_(other.project.weight)
    save_encoder(other, tmp_path / "other.pt")
    main(tmp_path / "other.pt", tmp_path / "out", "tiny", "3")
    assert not (tmp_path / "out" / COHORT_FILE).exists()


def test_the_command_writes_what_the_service_loads(encoder: Encoder, network: bytes, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path / "tiny.pt")
    command = [sys.executable, "-m", "model.export", str(tmp_path / "tiny.pt"), str(tmp_path / "out")]
    subprocess.run([*command, "--name", "tiny", "--version", "3"], check=True, capture_output=True)
    weights = load_weights(tmp_path / "out")
    assert (weights.name, weights.version) == ("tiny", "3")
    assert weights.network == network
    description = json.loads((tmp_path / "out" / "encoder.json").read_text())
    assert description["sha256"] == weights.sha256 == hashlib.sha256(network).hexdigest()
    assert description["embedding_size"] == 128
    assert description["parameters"] == sum(p.numel() for p in encoder.parameters())
    assert BackboneConfig.model_validate(description["backbone"]) == encoder.config
