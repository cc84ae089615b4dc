"""Which triplets of a batch are worth training on: one function a rule, all with one signature."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Triplets = tuple[Tensor, Tensor, Tensor]
Miner = Callable[[Tensor, Tensor, float], Triplets]


def _masks(identity: Tensor) -> tuple[Tensor, Tensor]:
    same = identity[:, None] == identity[None, :]
    positive = same & ~torch.eye(len(identity), dtype=torch.bool, device=identity.device)
    return positive, ~same


@torch.no_grad()
def semi_hard(distances: Tensor, identity: Tensor, margin: float) -> Triplets:
    """For every anchor and positive the nearest negative with ``d_ap < d_an < d_ap + margin``, if there is one.

    distances: squared, float [B, B]; identity: int64 [B]; result: rows (anchor, positive, negative), int64 [T] each.
    FaceNet, section 3.2 (arXiv 1503.03832): the hardest negatives lead to a collapse early in training.
    """
    positive, negative = _masks(identity)
    anchor, mate = positive.nonzero(as_tuple=True)
    d_ap = distances[anchor, mate][:, None]
    d_an = distances[anchor]
    band = negative[anchor] & (d_an > d_ap) & (d_an < d_ap + margin)
    nearest, choice = d_an.masked_fill(~band, torch.inf).min(dim=1)
    found = nearest.isfinite()
    return anchor[found], mate[found], choice[found]


@torch.no_grad()
def batch_hard(distances: Tensor, identity: Tensor, margin: float) -> Triplets:
    """For every anchor its farthest positive and nearest negative (Hermans et al. 2017, arXiv 1703.07737).

    Same arguments and result as ``semi_hard``; ``margin`` does not matter here.
    """
    del margin
    positive, negative = _masks(identity)
    anchor = (positive.any(dim=1) & negative.any(dim=1)).nonzero(as_tuple=True)[0]
    farthest = distances.masked_fill(~positive, -torch.inf).argmax(dim=1)
    nearest = distances.masked_fill(~negative, torch.inf).argmin(dim=1)
    return anchor, farthest[anchor], nearest[anchor]


MINERS: dict[str, Miner] = {"semi_hard": semi_hard, "batch_hard": batch_hard}
