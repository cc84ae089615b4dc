"""The objective of a stage: a weighted sum of losses, with the state they need."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from model.data.face_set import UNLABELLED
from model.training.losses import DistillationLoss, MarginHead, SoftMarginTripletLoss, TripletLoss, squared_distances
from model.training.mining import MINERS
from model.training.recipe import Stage


class EmbeddingMemory(nn.Module):
    """The most recent embeddings, first in, first out: cheap candidates for triplets.

    Cross-batch memory (Wang et al. 2020, arXiv 1912.06798). Embeddings drift slowly, so old ones remain useful.
    """

    embeddings: Tensor
    identity: Tensor

    def __init__(self, faces: int, size: int) -> None:
        super().__init__()
        self.register_buffer("embeddings", torch.zeros(faces, size))
        self.register_buffer("identity", torch.full((faces,), UNLABELLED))

    def filled(self) -> tuple[Tensor, Tensor]:
        """Stored embeddings, float [M, D], and their identities, int64 [M]."""
        known = self.identity != UNLABELLED
        return self.embeddings[known], self.identity[known]

    @torch.no_grad()
    def add(self, embeddings: Tensor, identity: Tensor) -> None:
        """Stores float [B, D] and int64 [B] in place of the oldest."""
        count = min(len(identity), len(self.identity))
        self.embeddings = torch.cat([self.embeddings[count:], embeddings[-count:]])
        self.identity = torch.cat([self.identity[count:], identity[-count:]])


class Objective(nn.Module):
    """The loss of one stage. Its parameters are trained, its buffers saved with the encoder's.

    ``classes`` is the number of identities, numbered from 0, for the margin head.
    """

    def __init__(self, stage: Stage, classes: int, size: int) -> None:
        super().__init__()
        self.stage = stage
        self.head: MarginHead | None = None
        self.memory: EmbeddingMemory | None = None
        if stage.classification_weight:
            self.head = MarginHead(stage.head, classes, size, stage.head_scale, stage.head_margin)
        if stage.memory:
            self.memory = EmbeddingMemory(stage.memory, size)

    def forward(self, embeddings: Tensor, identity: Tensor, teacher: Tensor | None) -> tuple[Tensor, dict[str, float]]:
        """Unit-length float [B, D], int64 [B] (``UNLABELLED`` where unknown) and the teacher's [B, D] -> loss, log."""
        stage, loss, values = self.stage, embeddings.new_zeros(()), dict[str, float]()
        if stage.distillation_weight:
            if teacher is None:
                raise ValueError(f"stage {stage.name!r} distils, but no teacher embeddings were given")
            term = DistillationLoss(stage.similarity_weight, stage.cosine_weight)(embeddings, teacher)
            loss = loss + stage.distillation_weight * term
            values["distillation"] = term.item()
        if self.head is not None:
            labelled = identity != UNLABELLED
            term = self.head(embeddings[labelled], identity[labelled])
            loss = loss + stage.classification_weight * term
            values["classification"] = term.item()
        if stage.triplet_weight:
            term, statistics = self._triplets(embeddings, identity)
            loss = loss + stage.triplet_weight * term
            values |= statistics
        return loss, values

    def _triplets(self, embeddings: Tensor, identity: Tensor) -> tuple[Tensor, dict[str, float]]:
        others, candidates = embeddings, identity
        if self.memory is not None:
            past, past_identity = self.memory.filled()
            others, candidates = torch.cat([embeddings, past]), torch.cat([identity, past_identity])
            self.memory.add(embeddings.detach(), identity)
        distances = squared_distances(embeddings, others)
        triplets = MINERS[self.stage.miner](distances.detach(), identity, candidates, self.stage.margin)
        loss = SoftMarginTripletLoss() if self.stage.soft_margin else TripletLoss(self.stage.margin)
        term: Tensor = loss(distances, triplets)
        batch = distances.detach()[:, : len(identity)]
        return term, {"triplet": term.item(), **_statistics(batch, identity, distances.detach(), triplets, self.stage)}


def _statistics(
    batch: Tensor, identity: Tensor, distances: Tensor, triplets: tuple[Tensor, Tensor, Tensor], stage: Stage
) -> dict[str, float]:
    """Mean distances of the batch's pairs and the share of its faces that anchor a triplet within the margin."""
    same = identity[:, None] == identity[None, :]
    mated = same & ~torch.eye(len(identity), dtype=torch.bool)
    anchor, positive, negative = triplets
    violated = distances[anchor, positive] + stage.margin > distances[anchor, negative]
    return {
        "d_ap": batch[mated].mean().item(),
        "d_an": batch[~same].mean().item(),
        "active": np.unique(anchor[violated].numpy()).size / len(identity),
    }
