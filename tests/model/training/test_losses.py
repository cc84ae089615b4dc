from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.model.support import unit_vectors

pytest.importorskip("torch")

import torch

from model.training.losses import (
    DistillationLoss,
    MarginHead,
    SoftMarginTripletLoss,
    TripletLoss,
    spread,
    squared_distances,
)

Triplet = tuple[int, int, int]

SIZE = 6
DISTANCES = arrays(np.float32, (SIZE, SIZE), elements=st.floats(0, 4, width=32))
ROW = st.integers(0, SIZE - 1)
TRIPLETS = st.lists(st.tuples(ROW, ROW, ROW), max_size=20)


def columns(triplets: list[Triplet]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    a, p, n = torch.tensor(triplets, dtype=torch.int64).view(-1, 3).unbind(dim=1)
    return a, p, n


def naive_triplet_loss(distances: npt.NDArray[np.float32], triplets: list[Triplet], margin: float) -> float:
    total = 0.0
    for a, p, n in triplets:
        total += max(float(distances[a, p]) - float(distances[a, n]) + margin, 0.0)
    return total / len(triplets) if triplets else 0.0


def naive_distillation_loss(
    student: npt.NDArray[np.float32], teacher: npt.NDArray[np.float32], similarity_weight: float
) -> float:
    size = len(student)

    def cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
        return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))

    pointwise = sum(1 - cosine(student[i], teacher[i]) for i in range(size)) / size
    structure = 0.0
    for i in range(size):
        for j in range(size):
            structure += (cosine(student[i], student[j]) - cosine(teacher[i], teacher[j])) ** 2
    return pointwise + similarity_weight * structure / size**2


@given(distances=DISTANCES, triplets=TRIPLETS, margin=st.floats(0.01, 2))
def test_triplet_loss_is_the_naive_loop(
    distances: npt.NDArray[np.float32], triplets: list[Triplet], margin: float
) -> None:
    loss = TripletLoss(margin)(torch.from_numpy(distances), columns(triplets))
    assert loss.ndim == 0
    assert loss.item() == pytest.approx(naive_triplet_loss(distances, triplets, margin), abs=1e-5)


def test_triplet_loss_of_hand_computed_triplets() -> None:
    distances = torch.tensor([[0.0, 0.5, 0.6, 2.0]]).repeat(4, 1)
    # 0.5 - 0.6 + 0.2 = 0.1 violates the margin; 0.5 - 2.0 + 0.2 does not.
    assert TripletLoss(0.2)(distances, columns([(0, 1, 2), (0, 1, 3)])).item() == pytest.approx(0.05)


def test_triplet_loss_pulls_the_positive_and_pushes_the_negative() -> None:
    distances = torch.tensor([[0.0, 1.0, 1.1, 3.0]]).repeat(4, 1).requires_grad_()
    TripletLoss(0.2)(distances, columns([(0, 1, 2), (0, 1, 3)])).backward()
    expected = torch.zeros(4, 4)
    expected[0, 1], expected[0, 2] = 0.5, -0.5
    assert distances.grad is not None
    torch.testing.assert_close(distances.grad, expected)


def test_without_triplets_the_loss_is_zero_and_has_a_gradient_of_zero() -> None:
    embeddings = torch.from_numpy(unit_vectors(5)).requires_grad_()
    loss = TripletLoss()(squared_distances(embeddings, embeddings), columns([]))
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad is not None
    assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))


@given(distances=DISTANCES, triplets=TRIPLETS)
def test_soft_margin_loss_is_the_naive_loop(distances: npt.NDArray[np.float32], triplets: list[Triplet]) -> None:
    terms = [math.log(1 + math.exp(float(distances[a, p]) - float(distances[a, n]))) for a, p, n in triplets]
    expected = sum(terms) / len(terms) if terms else 0.0
    loss = SoftMarginTripletLoss()(torch.from_numpy(distances), columns(triplets))
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_soft_margin_loss_of_one_point_is_the_logarithm_of_two() -> None:
    loss = SoftMarginTripletLoss()(torch.zeros(4, 4), columns([(0, 1, 2), (3, 2, 1)]))
    assert loss.item() == pytest.approx(math.log(2))


def naive_margin_head(
    kind: str, embeddings: npt.NDArray[np.float32], weight: npt.NDArray[np.float32], classes: list[int], margin: float
) -> float:
    """Scale 8; angles instead of sines and cosines where the formula has angles."""
    total = 0.0
    for face, right in zip(embeddings, classes, strict=True):
        logits = []
        for c, direction in enumerate(weight):
            cosine = float(face @ direction / np.linalg.norm(direction))
            if c == right and kind == "cosface":
                cosine -= margin
            elif c == right:
                angle = math.acos(cosine)
                inside = angle + margin < math.pi
                cosine = math.cos(angle + margin) if inside else cosine - margin * math.sin(margin)
            logits.append(8 * cosine)
        total += math.log(sum(math.exp(x) for x in logits)) - logits[right]
    return total / len(classes)


@pytest.mark.parametrize("kind", ["cosface", "arcface"])
@pytest.mark.parametrize("margin", [0.0, 0.35, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_margin_heads_are_the_naive_loop(kind: Literal["cosface", "arcface"], margin: float, seed: int) -> None:
    head = MarginHead(kind, 5, 4, scale=8, margin=margin)
    embeddings, classes = unit_vectors(9, 4, seed), [0, 1, 2, 3, 4, 0, 1, 2, 2]
    # One face opposite to its class, where the angle with its margin is past half a turn.
    embeddings[0] = -torch.nn.functional.normalize(head.weight[0], dim=0).detach().numpy() * 0.999999
    expected = naive_margin_head(kind, embeddings, head.weight.detach().numpy(), classes, margin)
    loss = head(torch.from_numpy(embeddings), torch.tensor(classes))
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["cosface", "arcface"])
def test_a_margin_makes_the_task_harder(kind: Literal["cosface", "arcface"]) -> None:
    embeddings, classes = torch.from_numpy(unit_vectors(9, 4)), torch.arange(9) % 5
    torch.manual_seed(0)
    head = MarginHead(kind, 5, 4, scale=8, margin=0.0)
    without = head(embeddings, classes).item()
    head.margin = 0.3
    assert head(embeddings, classes).item() > without


def test_a_head_without_faces_has_no_loss_and_a_gradient_of_zero() -> None:
    head = MarginHead("cosface", 5, 4, scale=8, margin=0.3)
    head(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).backward()
    assert head.weight.grad is not None
    assert torch.equal(head.weight.grad, torch.zeros_like(head.weight))


@pytest.mark.parametrize("margin", [0.0, -0.1])
def test_a_margin_that_is_not_positive_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        TripletLoss(margin)


@pytest.mark.parametrize("similarity_weight", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_distillation_loss_is_the_naive_loop(similarity_weight: float, seed: int) -> None:
    student, teacher = unit_vectors(7, seed=seed), unit_vectors(7, seed=seed + 100)
    loss = DistillationLoss(similarity_weight)(torch.from_numpy(student), torch.from_numpy(teacher))
    assert loss.item() == pytest.approx(naive_distillation_loss(student, teacher, similarity_weight), rel=1e-4)


def test_a_student_equal_to_its_teacher_has_no_distillation_loss() -> None:
    vectors = torch.from_numpy(unit_vectors(9))
    assert DistillationLoss()(vectors, vectors).item() == pytest.approx(0, abs=1e-6)


def test_the_mirror_image_of_the_teacher_pays_for_the_angle_only() -> None:
    teacher = torch.from_numpy(unit_vectors(9))
    student = -teacher
    assert DistillationLoss(similarity_weight=10)(student, teacher).item() == pytest.approx(2, abs=1e-5)


def test_similarities_alone_leave_the_directions_free() -> None:
    teacher = torch.from_numpy(unit_vectors(9))
    turned = teacher @ torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))[0]
    assert DistillationLoss(cosine_weight=0)(turned, teacher).item() == pytest.approx(0, abs=1e-6)
    assert DistillationLoss(cosine_weight=2)(turned, teacher).item() == pytest.approx(
        2 * (1 - (turned * teacher).sum(dim=1)).mean().item(), rel=1e-4
    )


def test_descending_the_distillation_loss_leads_to_the_teacher() -> None:
    teacher = torch.from_numpy(unit_vectors(8, seed=1))
    free = torch.from_numpy(unit_vectors(8, seed=2)).requires_grad_()
    optimizer = torch.optim.SGD([free], lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        loss = DistillationLoss()(torch.nn.functional.normalize(free), teacher)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01


@pytest.mark.parametrize(("rows", "others"), [(1, 1), (5, 3), (8, 8)])
def test_squared_distances_are_those_of_numpy(rows: int, others: int) -> None:
    a, b = unit_vectors(rows, seed=1), unit_vectors(others, seed=2)
    expected = np.square(a[:, None] - b[None]).sum(axis=2)
    actual = squared_distances(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert actual.shape == (rows, others)
    np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_squared_distances_are_never_negative() -> None:
    vectors = torch.from_numpy(unit_vectors(200, 128))
    distances = squared_distances(vectors, vectors)
    assert distances.min() >= 0
    assert distances.diagonal().max() < 1e-5


def test_spread_of_hand_computed_embeddings() -> None:
    # Standard deviations (population) 1 and 0: the root of the mean of their squares.
    assert spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).item() == pytest.approx(math.sqrt(0.5))


def test_spread_of_a_healthy_encoder_is_that_of_random_directions() -> None:
    assert spread(torch.from_numpy(unit_vectors(2000, 128))).item() == pytest.approx(1 / math.sqrt(128), rel=0.01)


def test_spread_of_a_collapsed_encoder_is_zero() -> None:
    assert spread(torch.from_numpy(unit_vectors(1, 128)).repeat(50, 1)).item() == pytest.approx(0, abs=1e-6)
