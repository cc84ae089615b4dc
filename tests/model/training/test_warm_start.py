from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.model.support import make_chips, small_backbone

pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx
import torch

from app.openvino import ov
from model.networks.backbone import BackboneConfig, Encoder, embed
from model.training.recipe import SFACE_START, load_recipe
from model.training.teacher import load_sface
from model.training.warm_start import centre, copy_weights, sface_encoder

CHIPS = make_chips(list(range(8)))
RECIPES = Path(__file__).parents[3] / "model" / "recipes"


@pytest.fixture(scope="module")
def sface() -> Encoder:
    return sface_encoder()


def make_encoder(*widths: int, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(BackboneConfig.model_validate(small_backbone(*widths, embedding_size=16)))


def test_the_rebuilt_network_is_the_published_one(sface: Encoder) -> None:
    network = ov.Core().read_model(load_sface().SerializeToString())
    compiled = ov.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    published = compiled({"data": CHIPS.transpose(0, 3, 1, 2).astype(np.float32)})[0]
    published = published / np.linalg.norm(published, axis=1, keepdims=True)
    ours = embed(sface, torch.from_numpy(CHIPS), bf16=False).numpy()
    np.testing.assert_allclose(ours, published, atol=2e-5)


def test_every_weight_is_taken_over(sface: Encoder) -> None:
    """As many numbers as the published network has, but for the two normalisations that became one each."""
    published = sum(
        int(np.prod(t.dims)) for t in load_sface().graph.initializer if t.data_type == onnx.TensorProto.FLOAT
    )
    own = sum(v.numel() for name, v in sface.state_dict().items() if "tracked" not in name)
    # Gone: the normalisation before the linear layer, that layer's bias, mean and scale of the pixels.
    assert own == published - 4 * 1024 - 128 - 2


def test_centring_moves_the_mean_of_the_embeddings_to_the_origin() -> None:
    encoder, chips = make_encoder(8, 16), torch.from_numpy(make_chips(list(range(40))))
    before = embed(encoder, chips, bf16=False)
    centre(encoder, chips)
    after = embed(encoder, chips, bf16=False)
    assert before.mean(dim=0).norm() > 3 * after.mean(dim=0).norm()
    assert not encoder.norm._forward_hooks


def test_a_whole_network_is_copied() -> None:
    source, target = make_encoder(8, 16), make_encoder(8, 16, seed=1)
    copy_weights(source, target)
    assert all(torch.equal(v, source.state_dict()[name]) for name, v in target.state_dict().items())


def test_only_the_last_blocks_are_copied() -> None:
    source, target = make_encoder(8, 16, 24), make_encoder(12, 16, 24, seed=1)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    copy_weights(source, target, last_blocks=1)
    for name, value in target.state_dict().items():
        taken = name.startswith(("blocks.2.", "project.", "norm."))
        assert torch.equal(value, source.state_dict()[name] if taken else before[name]), name


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="another shape"):
        copy_weights(make_encoder(8, 16), make_encoder(12, 16))


def test_what_a_recipe_takes_from_sface_fits_its_network(sface: Encoder) -> None:
    checked = 0
    for path in RECIPES.glob("*.toml"):
        recipe = load_recipe(path)
        if recipe.start is None or recipe.start.weights != SFACE_START:
            continue
        assert recipe.backbone is not None
        target = Encoder(recipe.backbone)
        copy_weights(sface, target, recipe.start.last_blocks)
        assert torch.equal(target.project.weight, sface.project.weight), path
        checked += 1
    assert checked >= 2
