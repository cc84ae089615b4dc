from __future__ import annotations

import pytest

from tests.model.support import make_chips

pytest.importorskip("torch")

import torch

from model.backbone import BackboneConfig, Encoder, embed


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(BackboneConfig(widths=(8, 16), depths=(1, 2), embedding_size=32))


@pytest.fixture
def chips() -> torch.Tensor:
    return torch.from_numpy(make_chips(list(range(7))))


@pytest.mark.parametrize("widths", [(8,), (8, 16), (8, 8, 16)])
def test_embeddings_are_unit_vectors_of_the_size_asked_for(widths: tuple[int, ...], chips: torch.Tensor) -> None:
    encoder = Encoder(BackboneConfig(widths=widths, depths=(1,) * len(widths), embedding_size=24))
    vectors = embed(encoder, chips)
    assert vectors.shape == (7, 24)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(7))


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
