from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.encoding import EncoderWeights, Precision, create_runtime, load_weights
from app.encoding.quantisation import QUANTISATION_FILE, LayerInput, quantisation_file, read_quantisation
from tests.model.support import make_chips, small_backbone

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("pyarrow")

import torch

from model import export
from model.networks.backbone import save_encoder
from model.quantise import main, observe
from tests.model.test_export import INVERTED, SEPARABLE, make_encoder

pytestmark = pytest.mark.slow

CHIPS = make_chips(list(range(12)), seed=3)
BACKBONES = {"residual": (small_backbone(8, 16), 5), "separable": (SEPARABLE, 5), "inverted": (INVERTED, 5)}


def weights_of(backbone: dict[str, Any]) -> EncoderWeights:
    network = export.to_onnx(make_encoder(backbone))
    return EncoderWeights("tiny", "0", hashlib.sha256(network).hexdigest(), network)


@pytest.mark.parametrize(("backbone", "layers"), BACKBONES.values(), ids=BACKBONES)
def test_integers_come_near_float32(backbone: dict[str, Any], layers: int) -> None:
    weights = weights_of(backbone)
    seen = observe(weights, CHIPS)
    # The convolutions of blocks: not the stem's, depthwise ones, or those of single pixels.
    assert len(seen) == layers
    exact = create_runtime(weights, precision=Precision.F32, threads=1).encode(CHIPS).embeddings
    rounded = EncoderWeights(weights.name, weights.version, weights.sha256, weights.network, quantisation=seen)
    rough = create_runtime(rounded, precision=Precision.INT8, threads=1).encode(CHIPS).embeddings
    assert not np.array_equal(exact, rough)
    off = np.linalg.norm(exact - rough, axis=1).max()
    assert off < 0.2
    # A single range for all, as if nothing had been seen, is far worse.
    blind = {name: LayerInput(-1000, 1000, np.zeros_like(layer.mean)) for name, layer in seen.items()}
    useless = EncoderWeights(weights.name, weights.version, weights.sha256, weights.network, quantisation=blind)
    worse = create_runtime(useless, precision=Precision.INT8, threads=1).encode(CHIPS).embeddings
    assert np.linalg.norm(exact - worse, axis=1).max() > 3 * off


def test_what_is_observed_is_what_the_layers_take_in() -> None:
    """The first convolution of a residual block takes in what the stem gives: ReLU makes it positive."""
    seen = observe(weights_of(small_backbone(8, 16)), CHIPS)
    for layer in seen.values():
        assert layer.low == 0
        assert 0 < layer.mean.min() <= layer.mean.max() < layer.high
    few = observe(weights_of(small_backbone(8, 16)), CHIPS[:2])
    assert all(few[name].high <= seen[name].high for name in seen)


def test_the_command_writes_what_the_service_loads(faces: Path, tmp_path: Path) -> None:
    encoder = make_encoder(small_backbone(8, 16))
    save_encoder(encoder, tmp_path / "tiny.pt")
    export.main(tmp_path / "tiny.pt", tmp_path / "out", "tiny", "1")
    assert not load_weights(tmp_path / "out").quantisation
    main(faces, tmp_path / "out", sample=16, seed=1)
    written = (tmp_path / "out" / QUANTISATION_FILE).read_bytes()
    weights = load_weights(tmp_path / "out")
    assert len(weights.quantisation) == 5
    assert create_runtime(weights, precision=Precision.INT8).info.precision is Precision.INT8
    assert quantisation_file(read_quantisation(written, weights.sha256), weights.sha256) == written
    # The same weights exported again keep it, others do not.
    export.main(tmp_path / "tiny.pt", tmp_path / "out", "tiny", "2")
    assert (tmp_path / "out" / QUANTISATION_FILE).read_bytes() == written
    other = copy.deepcopy(encoder)
    torch.nn.init.normal_(other.project.weight)
    save_encoder(other, tmp_path / "other.pt")
    export.main(tmp_path / "other.pt", tmp_path / "out", "tiny", "3")
    assert not load_weights(tmp_path / "out").quantisation
