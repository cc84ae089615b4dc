from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.model.support import unit_vectors

pytest.importorskip("torch")

import torch

from model.training.losses import squared_distances
from model.training.mining import MINERS, batch_hard, semi_hard

Distances = npt.NDArray[np.float32]

IDENTITIES = {
    "equal sizes": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "different sizes": [3, 3, 0, 1, 1, 1, 1, 1, 2, 2, 2, 0, 7],
    "interleaved": [0, 1, 2, 0, 1, 2, 0, 1, 2],
    "a singleton among others": [0, 0, 1],
    "no positive": [0, 1, 2, 3],
    "no negative": [5, 5, 5, 5],
    "one face": [0],
}


def random_distances(identity: list[int], seed: int) -> Distances:
    # Four dimensions: near enough to each other for semi-hard negatives to be there and to be missing.
    vectors = torch.from_numpy(unit_vectors(len(identity), 4, seed))
    distances: Distances = squared_distances(vectors, vectors).numpy()
    return distances


def naive_semi_hard(distances: Distances, identity: list[int], margin: float) -> dict[tuple[int, int], np.float32]:
    """The distance of the chosen negative for each anchor and positive that has one."""
    chosen = {}
    for a, p in product(range(len(distances)), range(len(identity))):
        if a == p or identity[a] != identity[p]:
            continue
        inside = []
        for n in range(len(identity)):
            upper = distances[a, p] + np.float32(margin)
            if identity[n] != identity[a] and distances[a, p] < distances[a, n] < upper:
                inside.append(distances[a, n])
        if inside:
            chosen[a, p] = min(inside)
    return chosen


def naive_batch_hard(distances: Distances, identity: list[int]) -> dict[int, tuple[np.float32, np.float32]]:
    """The distances of the chosen positive and negative of each anchor that has both."""
    chosen = {}
    rows = range(len(identity))
    for a in range(len(distances)):
        positives = [distances[a, p] for p in rows if p != a and identity[p] == identity[a]]
        negatives = [distances[a, n] for n in rows if identity[n] != identity[a]]
        if positives and negatives:
            chosen[a] = max(positives), min(negatives)
    return chosen


def naive_hard_negative(distances: Distances, identity: list[int], margin: float) -> dict[tuple[int, int], np.float32]:
    """The distance of the nearest negative for each anchor and positive that it comes within the margin of."""
    chosen = {}
    anchors, candidates = distances.shape
    for a, p in product(range(anchors), range(candidates)):
        negatives = [distances[a, n] for n in range(candidates) if identity[n] != identity[a]]
        if a == p or identity[a] != identity[p] or not negatives:
            continue
        if distances[a, p] + np.float32(margin) > min(negatives):
            chosen[a, p] = min(negatives)
    return chosen


def mine(rule: str, distances: Distances, identity: list[int], margin: float) -> list[tuple[int, int, int]]:
    """``identity`` is that of the columns, of which the first are the rows."""
    labels = torch.tensor(identity)
    columns = MINERS[rule](torch.from_numpy(distances), labels[: len(distances)], labels, margin)
    assert all(c.dtype == torch.int64 and c.ndim == 1 for c in columns)
    triplets = list(zip(*(c.tolist() for c in columns), strict=True))
    for a, p, n in triplets:
        assert a != p
        assert identity[a] == identity[p]
        assert identity[a] != identity[n]
    return triplets


def check_semi_hard(distances: Distances, identity: list[int], margin: float) -> int:
    triplets = mine("semi_hard", distances, identity, margin)
    expected = naive_semi_hard(distances, identity, margin)
    assert len(triplets) == len({(a, p) for a, p, _ in triplets})
    # Negatives at the same distance serve equally well, so distances are compared, not rows.
    assert {(a, p): distances[a, n] for a, p, n in triplets} == expected
    return len(triplets)


def check_batch_hard(distances: Distances, identity: list[int]) -> int:
    triplets = mine("batch_hard", distances, identity, 0.2)
    assert len(triplets) == len({a for a, _, _ in triplets})
    actual = {a: (distances[a, p], distances[a, n]) for a, p, n in triplets}
    assert actual == naive_batch_hard(distances, identity)
    return len(triplets)


def check_hard_negative(distances: Distances, identity: list[int], margin: float) -> int:
    triplets = mine("hard_negative", distances, identity, margin)
    assert len(triplets) == len({(a, p) for a, p, _ in triplets})
    assert {(a, p): distances[a, n] for a, p, n in triplets} == naive_hard_negative(distances, identity, margin)
    return len(triplets)


@pytest.mark.parametrize("name", IDENTITIES)
@pytest.mark.parametrize("margin", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_hard_negative_is_the_naive_loop(name: str, margin: float, seed: int) -> None:
    check_hard_negative(random_distances(IDENTITIES[name], seed), IDENTITIES[name], margin)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_faces_of_past_batches_are_candidates_and_not_anchors(rows: int, seed: int) -> None:
    identity = IDENTITIES["interleaved"]
    distances = random_distances(identity, seed)[:rows]
    assert check_batch_hard(distances, identity) == rows
    check_semi_hard(distances, identity, 1.0)
    # With so wide a margin every anchor keeps both other faces of its identity.
    assert check_hard_negative(distances, identity, 4.0) == 2 * rows


@pytest.mark.parametrize("name", IDENTITIES)
@pytest.mark.parametrize("margin", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_semi_hard_is_the_naive_loop(name: str, margin: float, seed: int) -> None:
    check_semi_hard(random_distances(IDENTITIES[name], seed), IDENTITIES[name], margin)


@pytest.mark.parametrize("name", IDENTITIES)
@pytest.mark.parametrize("seed", range(3))
def test_batch_hard_is_the_naive_loop(name: str, seed: int) -> None:
    check_batch_hard(random_distances(IDENTITIES[name], seed), IDENTITIES[name])


LABELLED = st.integers(1, 7).flatmap(
    lambda size: st.tuples(
        # Few levels, so that equal distances are the rule.
        arrays(np.float32, (size, size), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
        st.lists(st.integers(0, 3), min_size=size, max_size=size),
    )
)


@given(labelled=LABELLED)
def test_miners_with_equal_distances(labelled: tuple[Distances, list[int]]) -> None:
    distances, identity = labelled
    check_semi_hard(distances, identity, margin=0.5)
    check_batch_hard(distances, identity)
    check_hard_negative(distances, identity, margin=0.5)


@pytest.mark.parametrize("name", ["no positive", "no negative", "one face"])
@pytest.mark.parametrize("rule", MINERS)
def test_without_positives_or_negatives_there_are_no_triplets(rule: str, name: str) -> None:
    identity = IDENTITIES[name]
    assert mine(rule, random_distances(identity, 0), identity, 2.0) == []


def test_the_band_of_semi_hard_negatives_is_open_at_both_ends() -> None:
    identity = torch.tensor([0, 0, 1, 2, 3])
    distances = torch.full((5, 5), 4.0)
    # As near as the positive; exactly at the margin; inside.
    distances[0] = torch.tensor([0.0, 0.5, 0.5, 1.0, 0.75])
    assert [c.tolist() for c in semi_hard(distances, identity, identity, 0.5)] == [[0], [1], [4]]
    distances[0, 4] = 1.0
    assert [c.tolist() for c in semi_hard(distances, identity, identity, 0.5)] == [[], [], []]


def test_duplicates_of_the_anchor_are_positives() -> None:
    identity = [0, 0, 1, 1]
    distances = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]], dtype=np.float32)
    assert check_batch_hard(distances, identity) == 4
    assert check_semi_hard(distances, identity, 1.5) == 4
    assert check_semi_hard(distances, identity, 0.5) == 0


def test_miners_pass_no_gradient() -> None:
    vectors = torch.from_numpy(unit_vectors(6)).requires_grad_()
    identity = torch.tensor([0, 0, 1, 1, 2, 2])
    columns = batch_hard(squared_distances(vectors, vectors), identity, identity, 0.2)
    assert not any(c.requires_grad for c in columns)
