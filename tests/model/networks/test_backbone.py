from __future__ import annotations

from typing import Any

import pytest

from tests.model.support import make_chips, small_backbone

pytest.importorskip("torch")

import torch

from model.networks.backbone import BackboneConfig, Encoder, InvertedBlock, embed

SEPARABLE: dict[str, Any] = {
    "stem": {"width": 8, "kernel": 3, "stride": 2, "activation": "prelu"},
    "stages": [
        {"kind": "separable", "width": 8, "depth": 1, "stride": 1},
        {"kind": "separable", "width": 16, "depth": 2, "stride": 2},
        {"kind": "residual", "width": 16, "depth": 1, "stride": 2},
    ],
    "embedding_size": 32,
}


INVERTED: dict[str, Any] = {
    "input": {"columns": [8, 104], "side": 64, "mean": [1, 2, 3], "scale": [0.1, 0.2, 0.3]},
    "stem": {"width": 8, "kernel": 3, "stride": 2, "activation": "prelu", "one_slope": True},
    "stages": [
        {"kind": "depthwise", "width": 8, "depth": 1, "stride": 1},
        {"kind": "inverted", "width": 16, "depth": 2},
        {"kind": "inverted", "width": 16, "depth": 1, "expansion": 4},
        {"kind": "pool", "width": 24, "depth": 1, "stride": 1},
    ],
    "embedding_size": 32,
}


def make_encoder(config: dict[str, Any]) -> Encoder:
    torch.manual_seed(0)
    return Encoder(BackboneConfig.model_validate(config))


@pytest.fixture(
    params=[small_backbone(8, 16, embedding_size=32), SEPARABLE, INVERTED], ids=["residual", "separable", "inverted"]
)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return make_encoder(request.param)


@pytest.fixture
def chips() -> torch.Tensor:
    return torch.from_numpy(make_chips(list(range(7))))


@pytest.mark.parametrize("widths", [(8,), (8, 16), (8, 8, 16)])
def test_embeddings_are_unit_vectors_of_the_size_asked_for(widths: tuple[int, ...], chips: torch.Tensor) -> None:
    vectors = embed(make_encoder(small_backbone(*widths, embedding_size=24)), chips)
    assert vectors.shape == (7, 24)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(7))


@pytest.mark.parametrize(("kernel", "stride"), [(4, 4), (2, 2), (3, 1), (3, 2)])
def test_stems_of_patches_and_of_three_pixels(kernel: int, stride: int, chips: torch.Tensor) -> None:
    config = small_backbone(4, embedding_size=8, stem={"width": 4, "kernel": kernel, "stride": stride})
    assert embed(make_encoder(config), chips).shape == (7, 8)


def test_embeddings_do_not_depend_on_the_batch(encoder: Encoder, chips: torch.Tensor) -> None:
    whole = embed(encoder, chips, bf16=False)
    torch.testing.assert_close(embed(encoder, chips, batch=2, bf16=False), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(embed(encoder, chips[3:4], bf16=False), whole[3:4], atol=1e-5, rtol=0)


def test_bf16_is_near_f32(encoder: Encoder, chips: torch.Tensor) -> None:
    cosine = (embed(encoder, chips, bf16=True) * embed(encoder, chips, bf16=False)).sum(dim=1)
    assert cosine.min() > 0.99


@pytest.mark.parametrize("training", [True, False])
def test_embed_changes_nothing_of_the_encoder(encoder: Encoder, chips: torch.Tensor, training: bool) -> None:
    encoder.train(training)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    vectors = embed(encoder, chips)
    assert not vectors.requires_grad
    assert encoder.training is training
    assert encoder.norm.training is training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_embed_takes_chips(encoder: Encoder, chips: torch.Tensor) -> None:
    encoder.eval()
    with torch.no_grad():
        torch.testing.assert_close(embed(encoder, chips, bf16=False), encoder(chips.permute(0, 3, 1, 2).float()))


def test_with_and_without_gradients_the_embeddings_are_the_same(encoder: Encoder, chips: torch.Tensor) -> None:
    encoder.eval()
    vectors = encoder(chips.permute(0, 3, 1, 2).float())
    assert vectors.requires_grad
    torch.testing.assert_close(vectors.detach(), embed(encoder, chips, bf16=False), atol=1e-5, rtol=0)


@pytest.mark.parametrize("frozen", [0, 1, 3])
def test_frozen_blocks_have_no_gradient_and_keep_their_statistics(frozen: int, chips: torch.Tensor) -> None:
    encoder = make_encoder(SEPARABLE).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.freeze(frozen)
    encoder(chips.permute(0, 3, 1, 2).float()).square()[:, 0].sum().backward()
    still = {name for name, value in encoder.state_dict().items() if torch.equal(value, before[name])}
    for number, part in enumerate([encoder.stem, *encoder.blocks]):
        moves = frozen == 0 or number > frozen
        name = "stem" if number == 0 else f"blocks.{number - 1}."
        assert all((p.grad is not None) is moves for p in part.parameters())
        assert any(n.startswith(name) and "running_mean" in n and n not in still for n in before) is moves
    encoder.train()
    encoder.freeze(0)
    assert all(m.training for m in encoder.modules())


def test_what_the_stem_sees_is_cut_resized_and_scaled_by_colour() -> None:
    encoder = make_encoder(INVERTED)
    pixels = torch.full((1, 3, 112, 112), 11.0)
    pixels[..., :8] = pixels[..., 104:] = 255
    seen = encoder.prepare(pixels)
    assert seen.shape == (1, 3, 64, 64)
    torch.testing.assert_close(seen, torch.tensor([1.0, 1.8, 2.4]).view(1, 3, 1, 1).expand(1, 3, 64, 64))


def test_inverted_blocks_add_what_came_in_only_where_the_shape_stays() -> None:
    encoder = make_encoder(INVERTED)
    with torch.no_grad():
        for block in list(encoder.blocks)[1:4]:
            assert isinstance(block, InvertedBlock)
            assert block.narrow.bias is not None
            block.narrow.weight.zero_()
            block.narrow.bias.zero_()
    x = torch.randn(2, 8, 32, 32)
    first, second = list(encoder.blocks)[1:3]
    assert not first(x).any()
    y = torch.randn(2, 16, 16, 16)
    torch.testing.assert_close(second(y), y)
    assert not encoder.blocks[3](y).any()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"columns \(8, 120\) are not inside"):
        make_encoder({**INVERTED, "input": {"columns": [8, 120]}})
    with pytest.raises(ValueError, match="keeps its 8 channels"):
        make_encoder({**INVERTED, "stages": [{"kind": "depthwise", "width": 16, "depth": 1, "stride": 1}]})
