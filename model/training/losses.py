"""Losses on unit-length embeddings, one class each."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared L2 between unit vectors, float [N, D] and [M, D] -> [N, M] in 0..4."""
    return (2 - 2 * a @ b.T).clamp_min(0)


class TripletLoss(nn.Module):
    """FaceNet's ``mean(max(d(A, P) - d(A, N) + margin, 0))`` with squared L2 (Schroff et al. 2015, arXiv 1503.03832).

    ``margin`` is in squared distance. The mean is over the given triplets; without any the loss is 0.
    """

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()
        if margin <= 0:
            raise ValueError("the margin must be positive: at 0 a constant embedding has no loss")
        self.margin = margin

    def forward(self, distances: Tensor, triplets: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Squared distances float [B, B] and row indices (anchor, positive, negative), int64 [T] each -> scalar."""
        anchor, positive, negative = triplets
        if len(anchor) == 0:
            return distances.sum() * 0
        violations = distances[anchor, positive] - distances[anchor, negative] + self.margin
        return violations.clamp_min(0).mean()


class SoftMarginTripletLoss(nn.Module):
    """``mean(log(1 + exp(d(A, P) - d(A, N))))`` with squared L2 (Hermans et al. 2017, arXiv 1703.07737).

    It never saturates; a collapsed encoder has a loss of ln 2. Without triplets the loss is 0.
    """

    def forward(self, distances: Tensor, triplets: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """As ``TripletLoss.forward``."""
        anchor, positive, negative = triplets
        if len(anchor) == 0:
            return distances.sum() * 0
        return functional.softplus(distances[anchor, positive] - distances[anchor, negative]).mean()


class MarginHead(nn.Module):
    """A margin softmax classifier over identities; discarded after training.

    ``cosface``: ``scale * (cos - margin)`` for the target identity (Wang et al. 2018, arXiv 1801.09414); ``arcface``:
    ``scale * cos(angle + margin)`` (Deng et al. 2019, arXiv 1801.07698), and beyond ``pi - margin``, where that would
    rise again, ``scale * (cos - margin * sin(margin))``. All others: ``scale * cos``. Cross-entropy over all.
    """

    def __init__(
        self, kind: Literal["cosface", "arcface"], classes: int, size: int, scale: float, margin: float
    ) -> None:
        super().__init__()
        self.kind, self.scale, self.margin = kind, scale, margin
        self.weight = nn.Parameter(functional.normalize(torch.randn(classes, size), dim=1))

    def forward(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """Unit-length float [B, D], int64 [B] -> scalar; 0 for an empty batch."""
        if len(embeddings) == 0:
            return embeddings.sum() + self.weight.sum() * 0
        cosine = embeddings @ functional.normalize(self.weight, dim=1).T
        right = cosine.gather(1, classes[:, None])
        if self.kind == "cosface":
            wanted = right - self.margin
        else:
            sine = (1 - right.square()).clamp_min(1e-12).sqrt()
            turned = right * math.cos(self.margin) - sine * math.sin(self.margin)
            wanted = torch.where(right > -math.cos(self.margin), turned, right - self.margin * math.sin(self.margin))
        return functional.cross_entropy(self.scale * cosine.scatter(1, classes[:, None], wanted), classes)


class DistillationLoss(nn.Module):
    """``cosine_weight * mean(1 - cos(student, teacher)) + similarity_weight * mean((S_student - S_teacher)^2)``.

    ``S`` is the cosine matrix of the batch (similarity-preserving distillation, Tung and Mori 2019, arXiv 1907.09682).
    """

    def __init__(self, similarity_weight: float = 10.0, cosine_weight: float = 1.0) -> None:
        super().__init__()
        self.similarity_weight, self.cosine_weight = similarity_weight, cosine_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Unit-length float [B, D] each -> scalar."""
        cosine = (student * teacher).sum(dim=1)
        structure = functional.mse_loss(student @ student.T, teacher @ teacher.T)
        return self.cosine_weight * (1 - cosine).mean() + self.similarity_weight * structure


class ImitationLoss(nn.Module):
    """Squared difference of two feature maps relative to the teacher's variance: 0 equal, 1 nothing learnt.

    Hints from within the teacher (FitNets, Romero et al. 2015, arXiv 1412.6550) carry far more information than its
    embedding.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Float [B, C, H, W] each -> scalar. The variance is about each channel's mean."""
        student, teacher = student.float(), teacher.float()
        deviation = (teacher - teacher.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
        return (student - teacher).square().mean() / deviation


def spread(embeddings: Tensor) -> Tensor:
    """Root mean square over dimensions of the standard deviation, float [N, D] -> scalar.

    About ``1 / sqrt(D)`` (0.088 at 128) for a healthy encoder, 0 for one that maps every face to one point.
    """
    return embeddings.var(dim=0, unbiased=False).mean().sqrt()
