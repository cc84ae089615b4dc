from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.model.support import unit_vectors

pytest.importorskip("torch")

import torch

from model.data.face_set import UNLABELLED
from model.training.losses import DistillationLoss, SoftMarginTripletLoss, TripletLoss, squared_distances
from model.training.mining import MINERS
from model.training.objective import EmbeddingMemory, Objective
from model.training.recipe import Stage

IDENTITY = torch.tensor([0, 0, 1, 1, 2, 2])
EMBEDDINGS = torch.from_numpy(unit_vectors(6, 4))
TEACHER = torch.from_numpy(unit_vectors(6, 4, seed=1))


def make_objective(**changes: Any) -> Objective:
    values = {
        "name": "s",
        "steps": 1,
        "learning_rate": 0.1,
        "weight_decay": 0,
        "identities": 3,
        "images": 2,
        "margin": 0.5,
    }
    return Objective(Stage.model_validate(values | changes), classes=3, size=4)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("miner", MINERS)
def test_the_loss_is_the_weighted_sum_of_its_terms(soft: bool, miner: str) -> None:
    torch.manual_seed(0)
    objective = make_objective(
        distillation_weight=2, triplet_weight=3, classification_weight=0.5, soft_margin=soft, miner=miner
    )
    loss, values = objective(EMBEDDINGS, IDENTITY, TEACHER)
    distances = squared_distances(EMBEDDINGS, EMBEDDINGS)
    triplets = MINERS[miner](distances, IDENTITY, IDENTITY, 0.5)
    rule = SoftMarginTripletLoss() if soft else TripletLoss(0.5)
    assert objective.head is not None
    terms = {
        "distillation": DistillationLoss()(EMBEDDINGS, TEACHER).item(),
        "triplet": rule(distances, triplets).item(),
        "classification": objective.head(EMBEDDINGS, IDENTITY).item(),
    }
    for name, term in terms.items():
        assert values[name] == pytest.approx(term)
    expected = 2 * terms["distillation"] + 3 * terms["triplet"] + 0.5 * terms["classification"]
    assert loss.item() == pytest.approx(expected)


def test_unlabelled_faces_are_not_classified() -> None:
    objective = make_objective(classification_weight=1.0)
    some = IDENTITY.clone()
    some[2:] = UNLABELLED
    assert objective.head is not None
    loss, _ = objective(EMBEDDINGS, some, None)
    assert loss.item() == pytest.approx(objective.head(EMBEDDINGS[:2], IDENTITY[:2]).item())


def test_distilling_without_a_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="'s' distils"):
        make_objective(distillation_weight=1.0)(EMBEDDINGS, IDENTITY, None)


def test_statistics_of_hand_computed_faces() -> None:
    # Two identities at right angles: mates at distance 0 and 2, strangers at 2 or 0.
    faces = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 0]])
    _, values = make_objective(triplet_weight=1.0, miner="batch_hard")(faces, torch.tensor([0, 0, 1, 1]), None)
    assert values["d_ap"] == pytest.approx(1.0)  # mean of 0, 0, 2, 2
    assert values["d_an"] == pytest.approx(1.0)  # 2, 0, 2, 0 and back
    # Nearest negatives are at 0, 0, 2 and 0: all four violate d_ap + 0.5 <= d_an.
    assert values["active"] == 1.0
    apart = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    _, values = make_objective(triplet_weight=1.0, miner="batch_hard")(apart, torch.tensor([0, 0, 1, 1]), None)
    assert (values["d_ap"], values["d_an"], values["active"]) == pytest.approx((0.0, 2.0, 0.0))


def test_the_memory_keeps_the_newest_in_order() -> None:
    memory = EmbeddingMemory(5, 4)
    assert [len(x) for x in memory.filled()] == [0, 0]
    for start in range(0, 12, 3):
        memory.add(torch.arange(start, start + 3)[:, None].expand(3, 4).float(), torch.arange(start, start + 3))
    embeddings, identity = memory.filled()
    assert identity.tolist() == [7, 8, 9, 10, 11]
    assert embeddings[:, 0].tolist() == identity.tolist()
    memory.add(torch.zeros(9, 4), torch.arange(9))
    assert memory.filled()[1].tolist() == [4, 5, 6, 7, 8]


def test_remembered_faces_are_candidates_of_the_next_batch() -> None:
    objective = make_objective(triplet_weight=1.0, memory=6, miner="batch_hard")
    first, _ = objective(EMBEDDINGS, IDENTITY, None)
    others = torch.from_numpy(unit_vectors(6, 4, seed=2)).requires_grad_()
    second, _ = objective(others, IDENTITY, None)
    candidates = torch.cat([others.detach(), EMBEDDINGS])
    distances = squared_distances(others.detach(), candidates)
    triplets = MINERS["batch_hard"](distances, IDENTITY, torch.cat([IDENTITY, IDENTITY]), 0.5)
    assert second.item() == pytest.approx(TripletLoss(0.5)(distances, triplets).item())
    assert any(column.max() >= 6 for column in triplets)
    second.backward()
    assert others.grad is not None
    assert np.isfinite(first.item())


def test_head_and_memory_survive_in_the_state() -> None:
    torch.manual_seed(0)
    settings = {"triplet_weight": 1.0, "classification_weight": 1.0, "memory": 6}
    objective = make_objective(**settings)
    objective(EMBEDDINGS, IDENTITY, None)
    restored = make_objective(**settings)
    restored.load_state_dict(objective.state_dict())
    expected, _ = objective(TEACHER, IDENTITY, None)
    assert restored(TEACHER, IDENTITY, None)[0].item() == expected.item()
