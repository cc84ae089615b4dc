from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.encoding import EncoderWeights, Precision, RuntimeName, create_runtime
from app.encoding.weights import DESCRIPTION_FILE, NETWORK_FILE
from tests.model.support import make_chips, small_backbone

pytest.importorskip("torch")
pytest.importorskip("onnx")

import torch

from app.encoding.trained_on import record_of, were_trained_on
from model.data.face_set import CHIPS_FILE, write_table
from model.export import main as export
from model.export import to_onnx
from model.fuse import exported_encoder, fuse, main
from model.networks.backbone import (
    BackboneConfig,
    Encoder,
    embed,
    load_any_encoder,
    load_encoder,
    load_record,
    save_encoder,
)

pytestmark = pytest.mark.slow

CHIPS = torch.from_numpy(make_chips(list(range(40))))
SEPARABLE: dict[str, Any] = {
    "stem": {"width": 8, "kernel": 3, "stride": 2, "activation": "prelu"},
    "stages": [{"kind": "separable", "width": 16, "depth": 2, "stride": 2}],
    "embedding_size": 24,
}


def make_encoder(backbone: dict[str, Any], seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    encoder = Encoder(BackboneConfig.model_validate(backbone))
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
            assert module.running_var is not None
            assert module.running_mean is not None
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_(std=0.2)
        if isinstance(module, torch.nn.PReLU):
            torch.nn.init.uniform_(module.weight, -0.2, 0.4)
    return encoder.eval()


PARTS = [make_encoder(SEPARABLE), make_encoder(small_backbone(8, 16, embedding_size=20), seed=1)]


def test_similarity_is_the_mean_of_the_parts_about_their_mean() -> None:
    fused = fuse(PARTS, CHIPS, size=44)
    both = np.concatenate([embed(part, CHIPS, bf16=False).numpy() for part in PARTS], axis=1)
    centred = both - both.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    ours = embed(fused, CHIPS, bf16=False).numpy()
    # Nothing is cut: 44 numbers for 24 and 20. The mean was taken in bf16, as training runs.
    np.testing.assert_allclose(ours @ ours.T, centred @ centred.T, atol=0.03)


def test_fewer_numbers_keep_the_directions_of_largest_spread() -> None:
    ours = embed(fuse(PARTS, CHIPS, size=8), CHIPS, bf16=False).numpy()
    assert ours.shape == (40, 8)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    whole = embed(fuse(PARTS, CHIPS, size=44), CHIPS, bf16=False).numpy()
    kept = np.corrcoef((ours @ ours.T)[np.triu_indices(40, 1)], (whole @ whole.T)[np.triu_indices(40, 1)])[0, 1]
    assert kept > 0.9


def test_a_fused_encoder_is_saved_loaded_and_exported(tmp_path: Path) -> None:
    fused = fuse(PARTS, CHIPS, size=16)
    save_encoder(fused, tmp_path / "fused.pt")
    loaded = load_any_encoder(tmp_path / "fused.pt")
    torch.testing.assert_close(embed(loaded, CHIPS, bf16=False), embed(fused, CHIPS, bf16=False))
    with pytest.raises(ValueError, match="several networks side by side"):
        load_encoder(tmp_path / "fused.pt")
    assert to_onnx(loaded) == to_onnx(fused)


@pytest.mark.parametrize("runtime", RuntimeName)
def test_the_exported_network_gives_the_same_embeddings_and_the_mean_norm(runtime: RuntimeName) -> None:
    parts = [make_encoder({**SEPARABLE, "embedding_size": 128}), make_encoder(small_backbone(8, 16), seed=1)]
    fused = fuse(parts, CHIPS)
    network = to_onnx(fused)
    weights = EncoderWeights("fused", "0", hashlib.sha256(network).hexdigest(), network)
    served = create_runtime(weights, runtime=runtime, precision=Precision.F32, threads=1).encode(CHIPS.numpy())
    expected = embed(fused, CHIPS, bf16=False).numpy()
    assert (served.embeddings * expected).sum(axis=1).min() > 0.9999
    norms = []
    for part in parts:
        alone = to_onnx(part)
        one = EncoderWeights("part", "0", hashlib.sha256(alone).hexdigest(), alone)
        norms.append(create_runtime(one, precision=Precision.F32, threads=1).encode(CHIPS.numpy()).norms)
    np.testing.assert_allclose(served.norms, np.mean(norms, axis=0), rtol=0.01)


def test_an_exported_encoder_is_read_back(tmp_path: Path) -> None:
    encoder = make_encoder(SEPARABLE)
    save_encoder(encoder, tmp_path / "tiny.pt")
    export(tmp_path / "tiny.pt", tmp_path / "out", "tiny", "1")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {NETWORK_FILE, DESCRIPTION_FILE}
    back = exported_encoder(tmp_path / "out")
    cosine = (embed(back, CHIPS, bf16=False) * embed(encoder, CHIPS, bf16=False)).sum(dim=1)
    # Large weights are kept as float16.
    assert cosine.min() > 0.9999


def test_a_fused_encoder_knows_what_its_parts_were_trained_on(tmp_path: Path) -> None:
    chips = CHIPS.numpy()
    parts = [make_encoder({**SEPARABLE, "embedding_size": 128}, seed=seed) for seed in (0, 1)]
    save_encoder(parts[0], tmp_path / "first.pt", record_of(chips[:1]))
    save_encoder(parts[1], tmp_path / "second.pt", record_of(chips[1:2]))
    export(tmp_path / "second.pt", tmp_path / "second", "tiny", "1")
    np.save(tmp_path / CHIPS_FILE, chips)
    splits = ["heldout"] * 3 + ["train"] * 37
    write_table(tmp_path, dict.fromkeys(("identity", "family", "source", "split"), splits))
    main(tmp_path, tmp_path / "fused.pt", [tmp_path / "first.pt", tmp_path / "second"], sample=256)
    seen = were_trained_on(chips, load_record(tmp_path / "fused.pt"))
    assert seen.tolist() == [True, True, False] + [True] * 37


def test_blocks_that_cannot_be_read_back_are_refused(tmp_path: Path) -> None:
    save_encoder(PARTS[1], tmp_path / "tiny.pt")
    export(tmp_path / "tiny.pt", tmp_path / "out", "tiny", "1")
    with pytest.raises(ValueError, match="other than separable ones"):
        exported_encoder(tmp_path / "out")
