from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.crowding import read_cohort
from tests.model.support import unit_vectors

pytest.importorskip("torch")
pytest.importorskip("scipy")

from model.cohort import centroids, make_cohort


def clustered(seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Thirty faces about each of six directions."""
    around = np.repeat(unit_vectors(6, 128, seed=seed), 30, axis=0)
    noisy = around + 0.2 * unit_vectors(180, 128, seed=seed + 1)
    return (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)


def test_centroids_are_the_middles_of_clusters_and_the_same_each_time() -> None:
    faces = clustered()
    # More than there are clusters: with as many, k-means may put two into one.
    found = centroids(faces, 12)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    similar = found @ unit_vectors(6, 128, seed=0).T
    assert similar.max(axis=0).min() > 0.97
    np.testing.assert_array_equal(centroids(faces, 12), found)


def test_the_first_kind_of_people_is_as_crowded_as_is_usual(tmp_path: Path) -> None:
    adults, children = clustered(), clustered(seed=7)[:45]
    cohort = make_cohort(tmp_path / "cohort.npz", [adults, children], neighbours=2, strength=0.5)
    assert len(cohort.centroids) == 18 + 5
    assert float(cohort(adults).mean()) == pytest.approx(0, abs=1e-5)
    assert cohort.strength == 0.5
    again = read_cohort(tmp_path / "cohort.npz")
    assert again.digest == cohort.digest
    np.testing.assert_array_equal(again(children), cohort(children))


def test_kinds_without_faces_are_left_out(tmp_path: Path) -> None:
    nobody = np.empty((0, 128), dtype=np.float32)
    cohort = make_cohort(tmp_path / "cohort.npz", [clustered(), nobody, nobody], neighbours=3, strength=1)
    assert len(cohort.centroids) == 18
