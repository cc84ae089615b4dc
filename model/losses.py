"""Objectives on unit-length embeddings, one class each."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared L2 between unit vectors, float [N, D] and [M, D] -> [N, M] in 0..4."""
    return (2 - 2 * a @ b.T).clamp_min(0)


class TripletLoss(nn.Module):
    """FaceNet's ``mean(max(d(A, P) - d(A, N) + margin, 0))`` with squared L2 (Schroff et al. 2015, arXiv 1503.03832).

    ``margin`` is in squared distance. The mean runs over the triplets given; without any the loss is 0.
    """

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()
        if margin <= 0:
            raise ValueError("the margin must be positive: at 0 a constant embedding has no loss")
        self.margin = margin

    def forward(self, distances: Tensor, triplets: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Squared distances float [B, B] and rows (anchor, positive, negative), int64 [T] each -> scalar."""
        anchor, positive, negative = triplets
        if len(anchor) == 0:
            return distances.sum() * 0
        violations = distances[anchor, positive] - distances[anchor, negative] + self.margin
        return violations.clamp_min(0).mean()


class DistillationLoss(nn.Module):
    """``mean(1 - cos(student, teacher)) + similarity_weight * mean((S_student - S_teacher)^2)``.

    ``S`` is the cosine matrix of the batch (similarity-preserving distillation, Tung and Mori 2019, arXiv 1907.09682).
    """

    def __init__(self, similarity_weight: float = 10.0) -> None:
        super().__init__()
        self.similarity_weight = similarity_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Unit-length float [B, D] each -> scalar."""
        cosine = (student * teacher).sum(dim=1)
        structure = functional.mse_loss(student @ student.T, teacher @ teacher.T)
        return (1 - cosine).mean() + self.similarity_weight * structure


def spread(embeddings: Tensor) -> Tensor:
    """Root mean square over dimensions of the standard deviation, float [N, D] -> scalar.

    About ``1 / sqrt(D)`` (0.088 at 128) for a healthy encoder, 0 for one that maps every face to one point.
    """
    return embeddings.var(dim=0, unbiased=False).mean().sqrt()
