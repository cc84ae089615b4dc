from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.support import small_backbone

pytest.importorskip("torch")
pytest.importorskip("pyarrow")

import torch

from model.networks.backbone import BackboneConfig, Encoder
from model.training.optimisation import averaged, learning_rate, mix
from model.training.recipe import Stage
from tests.model.made_up import (
    DISTIL,
    make_recipe,
    make_trainer,
)


@pytest.mark.parametrize(("decay", "kept"), [(0.5, 1 / 11), (0.05, 0.05), (0.0, 0.0)])
def test_the_average_of_two_updates(decay: float, kept: float) -> None:
    encoder = Encoder(BackboneConfig.model_validate(small_backbone(8, embedding_size=4)))
    average = averaged(encoder, decay)

    def set_to(value: float, batches: int) -> None:
        torch.nn.init.constant_(encoder.project.weight, value)
        assert encoder.norm.running_mean is not None
        assert encoder.norm.num_batches_tracked is not None
        encoder.norm.running_mean.fill_(-value)
        encoder.norm.num_batches_tracked.fill_(batches)

    for value, batches in ((5.0, 2), (10.0, 3)):
        set_to(value, batches)
        average.update_parameters(encoder)
    expected = kept * 5 + (1 - kept) * 10
    state = average.module.state_dict()
    torch.testing.assert_close(state["project.weight"], torch.full_like(state["project.weight"], expected))
    torch.testing.assert_close(state["norm.running_mean"], torch.full((4,), -expected))
    assert state["norm.num_batches_tracked"] == 3
    assert not any(p.requires_grad for p in average.parameters())


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_mixing_moves_weights_by_a_share(share: float) -> None:
    one, other = (Encoder(BackboneConfig.model_validate(small_backbone(8, embedding_size=4))) for _ in range(2))
    torch.nn.init.constant_(one.project.weight, 2.0)
    torch.nn.init.constant_(other.project.weight, 10.0)
    mix(one, other, share)
    torch.testing.assert_close(one.project.weight, torch.full_like(one.project.weight, 2 + 8 * share))


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    stage = Stage.model_validate({**DISTIL, "steps": 100, "warmup_steps": 10, "learning_rate": 0.4})
    rates = [learning_rate(stage, step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.4)
    assert rates[55] == pytest.approx(0.2)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[99] < 0.001 * 0.4


def test_a_learning_rate_without_warm_up_starts_at_its_height() -> None:
    stage = Stage.model_validate({**DISTIL, "steps": 1, "warmup_steps": 0})
    assert learning_rate(stage, 0) == stage.learning_rate


def test_normalisation_does_not_decay(faces: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_recipe(), faces, tmp_path)
    decayed, others, *inherited = trainer.optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0)
    assert not any(group["params"] for group in inherited)
    assert all(p.ndim > 1 for p in decayed["params"])
    names = {name for name, p in trainer.encoder.named_parameters() if any(p is other for other in others["params"])}
    assert {"norm.weight", "norm.bias", "stem.1.weight"} <= names
    assert len(decayed["params"]) + len(others["params"]) == len(list(trainer.encoder.parameters()))
