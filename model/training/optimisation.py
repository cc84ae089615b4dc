"""How weights move: the optimizer, its learning rate over a stage, and the average that is kept of them."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from model.networks.backbone import Encoder
from model.training.objective import Objective
from model.training.recipe import Stage


class Ema:
    """Exponential moving average of weights and batch-norm statistics, with a short memory in the first steps."""

    def __init__(self, encoder: Encoder, decay: float) -> None:
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self._decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, encoder: Encoder) -> None:
        self.updates += 1
        decay = min(self._decay, self.updates / (self.updates + 10))
        for mean, value in zip(self.encoder.state_dict().values(), encoder.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    @torch.no_grad()
    def mix(self, other: Encoder, share: float) -> None:
        """Moves the average towards another encoder of the same shape, which gets this share of it."""
        for mean, value in zip(self.encoder.state_dict().values(), other.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, share)


def learning_rate(stage: Stage, step: int) -> float:
    """Linear warm-up, then a cosine to zero at the stage's last step."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    progress = (step - stage.warmup_steps) / max(stage.steps - stage.warmup_steps, 1)
    return stage.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(encoder: Encoder, objective: Objective, stage: Stage, inherited: set[Tensor]) -> torch.optim.AdamW:
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
