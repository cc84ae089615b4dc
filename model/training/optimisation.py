"""How weights move: the optimizer, its learning rate over a stage, and the average that is kept of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from model.networks.backbone import AnyEncoder
from model.training.objective import Objective
from model.training.recipe import Stage


def averaged(encoder: AnyEncoder, decay: float) -> AveragedModel:
    """An exponential moving average of weights and statistics, which remembers little in its first updates.

    ``module`` is the averaged encoder; tell it of each update with ``update_parameters(encoder)``.
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
    """Moves weights, in place, towards those of another encoder of the same shape, which gets this share."""
    for mean, value in zip(encoder.state_dict().values(), other.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, share)


def learning_rate(stage: Stage, step: int) -> float:
    """Linear warm-up, then a cosine to zero at the stage's last step."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    progress = (step - stage.warmup_steps) / max(stage.steps - stage.warmup_steps, 1)
    return stage.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(
    encoder: AnyEncoder, objective: Objective, stage: Stage, inherited: set[Tensor]
) -> torch.optim.AdamW:
    """AdamW; normalisation weights, slopes and biases do not decay.

    The share of the learning rate that a group has, less for ``inherited`` parameters, stands in its ``share``.
    """
    groups = []
    for share, old in ((1.0, False), (stage.inherited_rate, True)):
        members = [p for p in (*encoder.parameters(), *objective.parameters()) if (p in inherited) is old]
        for decay, several in ((stage.weight_decay, True), (0.0, False)):
            chosen = [p for p in members if (p.ndim > 1) is several]
            groups.append({"params": chosen, "weight_decay": decay, "share": share})
    return torch.optim.AdamW(groups, lr=stage.learning_rate)
