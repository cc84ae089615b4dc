"""Triplet mining within a batch: one function per rule, all with the same signature.

distances: squared, float [B, N], from the batch's faces to the candidates, of which the first B are the batch itself;
more (from a cross-batch memory) may follow. identity: int64 [B]; candidates: int64 [N]. Returns rows of anchors,
columns of positives and columns of negatives, int64 [T] each.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Triplets = tuple[Tensor, Tensor, Tensor]
Miner = Callable[[Tensor, Tensor, Tensor, float], Triplets]


def _masks(identity: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    same = identity[:, None] == candidates[None, :]
    itself = torch.arange(len(identity))[:, None] == torch.arange(len(candidates))[None, :]
    return same & ~itself, ~same


@torch.no_grad()
def semi_hard(distances: Tensor, identity: Tensor, candidates: Tensor, margin: float) -> Triplets:
    """For every anchor-positive pair the nearest negative with ``d_ap < d_an < d_ap + margin``, if there is one.

    FaceNet, section 3.2 (arXiv 1503.03832): the hardest negatives cause collapse early in training.
    """
    positive, negative = _masks(identity, candidates)
    anchor, mate = positive.nonzero(as_tuple=True)
    d_ap = distances[anchor, mate][:, None]
    d_an = distances[anchor]
    band = negative[anchor] & (d_an > d_ap) & (d_an < d_ap + margin)
    nearest, choice = d_an.masked_fill(~band, torch.inf).min(dim=1)
    found = nearest.isfinite()
    return anchor[found], mate[found], choice[found]


@torch.no_grad()
def batch_hard(distances: Tensor, identity: Tensor, candidates: Tensor, margin: float) -> Triplets:
    """For every anchor the farthest positive and nearest negative (Hermans et al. 2017, arXiv 1703.07737).

    ``margin`` is ignored.
    """
    del margin
    positive, negative = _masks(identity, candidates)
    anchor = (positive.any(dim=1) & negative.any(dim=1)).nonzero(as_tuple=True)[0]
    farthest = distances.masked_fill(~positive, -torch.inf).argmax(dim=1)
    nearest = distances.masked_fill(~negative, torch.inf).argmin(dim=1)
    return anchor, farthest[anchor], nearest[anchor]


@torch.no_grad()
def hard_negative(distances: Tensor, identity: Tensor, candidates: Tensor, margin: float) -> Triplets:
    """For every anchor-positive pair the nearest negative, if it violates the margin.

    All positives are used, as in FaceNet, with the negatives that cause false matches, as in ``batch_hard``.
    """
    positive, negative = _masks(identity, candidates)
    nearest, choice = distances.masked_fill(~negative, torch.inf).min(dim=1)
    anchor, mate = (positive & (distances + margin > nearest[:, None])).nonzero(as_tuple=True)
    return anchor, mate, choice[anchor]


MINERS: dict[str, Miner] = {"semi_hard": semi_hard, "batch_hard": batch_hard, "hard_negative": hard_negative}
