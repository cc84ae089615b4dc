from __future__ import annotations

import numpy as np
import pytest

from model.data.cleaning import without_outliers
from model.data.face_set import UNLABELLED
from tests.model.support import unit_vectors


def test_the_face_that_does_not_belong_loses_its_label_and_no_other() -> None:
    centres = unit_vectors(3, 16)
    embeddings = centres.repeat(5, axis=0) + 0.1 * unit_vectors(15, 16, seed=1)
    identity = np.array([4] * 5 + [9] * 5 + [2] * 5)
    order = np.random.default_rng(0).permutation(15)
    embeddings, identity = embeddings[order], identity[order]
    stranger = int(np.flatnonzero(identity == 9)[2])
    embeddings[stranger] = -centres[1]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    cleaned = without_outliers(embeddings, identity, max_distance=1.0)
    expected = identity.copy()
    expected[stranger] = UNLABELLED
    assert cleaned.tolist() == expected.tolist()
    assert UNLABELLED not in identity


@pytest.mark.parametrize(("max_distance", "kept"), [(1.39, [0, 0]), (1.41, [0, 0, 0])])
def test_the_distance_is_to_the_centre_of_the_others(max_distance: float, kept: list[int]) -> None:
    # The third face has a cosine of 0.3 to the two others, which are one: 2 - 2 * 0.3 = 1.4 from their centre.
    embeddings = np.array([[1, 0], [1, 0], [0.3, np.sqrt(1 - 0.09)]], dtype=np.float32)
    cleaned = without_outliers(embeddings, np.zeros(3, dtype=np.int64), max_distance)
    assert cleaned[cleaned != UNLABELLED].tolist() == kept


def test_two_faces_that_are_far_apart_both_lose_their_label() -> None:
    embeddings = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    assert without_outliers(embeddings, np.array([1, 1, 2]), 1.5).tolist() == [UNLABELLED, UNLABELLED, 2]


def test_single_and_unlabelled_faces_stay_as_they_are() -> None:
    identity = np.array([UNLABELLED, UNLABELLED, 3])
    assert without_outliers(unit_vectors(3), identity, 0.001).tolist() == identity.tolist()
