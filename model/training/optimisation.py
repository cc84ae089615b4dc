"""The optimizer, its learning-rate schedule over a stage, and weight averaging."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from model.networks.backbone import AnyEncoder
from model.training.objective import Objective
from model.training.recipe import Stage


def averaged(encoder: AnyEncoder, decay: float) -> AveragedModel:
    """An exponential moving average of weights and statistics, with a shorter memory in its first updates.

    ``module`` is the averaged encoder; call ``update_parameters(encoder)`` after each update.
    """

    def average(mean: Tensor, value: Tensor, updates: Tensor | int) -> Tensor:
        if not mean.is_floating_point():
            return value
        return torch.lerp(mean, value, 1 - min(decay, float(updates) / (float(updates) + 10)))

    average_model = AveragedModel(encoder, avg_fn=average, use_buffers=True)
    average_model.requires_grad_(False)
    return average_model


@torch.no_grad()
def mix(encoder: nn.Module, other: nn.Module, share: float) -> None:
    """Interpolates weights, in place, with those of an encoder of the same shape, whose weight is ``share``."""
    for mean, value in zip(encoder.state_dict().values(), other.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, share)


def learning_rate(stage: Stage, step: int) -> float:
    """Linear warm-up, then cosine decay to zero at the stage's last step."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    progress = (step - stage.warmup_steps) / max(stage.steps - stage.warmup_steps, 1)
    return stage.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(
    encoder: AnyEncoder, objective: Objective, stage: Stage, inherited: set[Tensor]
) -> torch.optim.AdamW:
    """AdamW without weight decay on normalisation weights, slopes and biases.

    Each parameter group's ``share`` scales the learning rate; it is smaller for ``inherited`` parameters.
    """
    groups = []
    for share, old in ((1.0, False), (stage.inherited_rate, True)):
        members = [p for p in (*encoder.parameters(), *objective.parameters()) if (p in inherited) is old]
        for decay, several in ((stage.weight_decay, True), (0.0, False)):
            chosen = [p for p in members if (p.ndim > 1) is several]
            groups.append({"params": chosen, "weight_decay": decay, "share": share})
    return torch.optim.AdamW(groups, lr=stage.learning_rate)
