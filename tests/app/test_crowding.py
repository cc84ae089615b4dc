from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from app.crowding import (
    BLOCK,
    COHORT_FILE,
    Cohort,
    CohortError,
    NoCrowding,
    load_crowding,
    read_cohort,
    write_cohort,
)
from app.settings import EncodingSettings

Floats = npt.NDArray[np.float32]


def unit_vectors(count: int, seed: int = 0) -> Floats:
    vectors = np.random.default_rng(seed).normal(size=(count, 128))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def written(folder: Path, **changes: float) -> Cohort:
    settings = {"neighbours": 5, "strength": 0.5, "usual": 0.1} | changes
    return write_cohort(folder / COHORT_FILE, unit_vectors(40), **settings)  # type: ignore[arg-type]


def naive(face: Floats, centroids: Floats, neighbours: int, strength: float, usual: float) -> float:
    """What the definition says, one similarity after the other."""
    similarities = sorted((float(sum(a * b for a, b in zip(face, c, strict=True))) for c in centroids), reverse=True)
    return strength * (sum(similarities[:neighbours]) / neighbours - usual)


@pytest.mark.parametrize("neighbours", [1, 3, 12])
def test_crowding_is_the_mean_similarity_to_the_nearest_centroids_above_the_usual(neighbours: int) -> None:
    centroids, faces = unit_vectors(12), unit_vectors(7, seed=1)
    cohort = Cohort(centroids, neighbours, 0.8, 0.05, "d")
    expected = [naive(face, centroids, neighbours, 0.8, 0.05) for face in faces.astype(np.float64)]
    found = cohort(faces)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # Some of these faces stand alone, others are crowded.
    assert found.min() < found.max()


def test_a_face_is_as_crowded_alone_as_among_many() -> None:
    cohort, faces = Cohort(unit_vectors(30), 4, 1.0, 0.1, "d"), unit_vectors(BLOCK + 3, seed=1)
    together = cohort(faces)
    assert together.shape == (BLOCK + 3,)
    for place in (0, 1, BLOCK - 1, BLOCK, BLOCK + 2):
        np.testing.assert_allclose(cohort(faces[place : place + 1]), together[place : place + 1], atol=1e-6)
    assert cohort(faces[:0]).shape == (0,)


def test_a_face_that_is_its_own_neighbourhood_is_the_most_crowded() -> None:
    centroids = unit_vectors(10)
    found = Cohort(centroids, 1, 2.0, 0.25, "d")(np.stack([centroids[3], -centroids[3]]))
    assert found[0] == pytest.approx(2.0 * (1 - 0.25), abs=1e-6)
    assert found[1] < found[0]


def test_without_a_cohort_all_faces_are_as_crowded_as_is_usual() -> None:
    found = NoCrowding()(unit_vectors(3))
    assert (found.tolist(), found.dtype) == ([0, 0, 0], np.float32)


def test_a_cohort_is_read_as_it_was_written(tmp_path: Path) -> None:
    cohort, faces = written(tmp_path), unit_vectors(20, seed=1)
    again = read_cohort(tmp_path / COHORT_FILE)
    assert (again.neighbours, again.strength, again.usual) == (5, 0.5, 0.1)
    assert again.digest == cohort.digest == hashlib.sha256((tmp_path / COHORT_FILE).read_bytes()).hexdigest()
    np.testing.assert_array_equal(again.centroids, cohort.centroids)
    np.testing.assert_array_equal(again(faces), cohort(faces))


def test_centroids_are_stored_at_half_precision_and_are_of_unit_length_again(tmp_path: Path) -> None:
    cohort = written(tmp_path)
    with np.load(tmp_path / COHORT_FILE) as content:
        assert content["centroids"].dtype == np.float16
    assert cohort.centroids.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(cohort.centroids, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(cohort.centroids, unit_vectors(40), atol=1e-3)
    assert not np.array_equal(cohort.centroids, unit_vectors(40))


def test_the_digest_is_the_same_only_where_every_crowding_is(tmp_path: Path) -> None:
    first = written(tmp_path)
    assert written(tmp_path).digest == first.digest
    others = [written(tmp_path, **{name: value}) for name, value in (("neighbours", 4), ("strength", 1), ("usual", 0))]
    others.append(write_cohort(tmp_path / "o", unit_vectors(40, seed=2), neighbours=5, strength=0.5, usual=0.1))
    assert len({first.digest, NoCrowding.digest, *(other.digest for other in others)}) == 6


def longer(path: Path) -> None:
    np.savez(path, centroids=2 * unit_vectors(4), neighbours=1, strength=1.0, usual=0.0)


def not_finite(path: Path) -> None:
    np.savez(path, centroids=np.full((4, 128), np.nan), neighbours=1, strength=1.0, usual=0.0)


def flat(path: Path) -> None:
    np.savez(path, centroids=unit_vectors(1)[0], neighbours=1, strength=1.0, usual=0.0)


def fewer_than_neighbours(path: Path) -> None:
    np.savez(path, centroids=unit_vectors(4), neighbours=5, strength=1.0, usual=0.0)


def no_neighbours(path: Path) -> None:
    np.savez(path, centroids=unit_vectors(4), neighbours=0, strength=1.0, usual=0.0)


def no_strength(path: Path) -> None:
    np.savez(path, centroids=unit_vectors(4), neighbours=1, usual=0.0)


def several_strengths(path: Path) -> None:
    np.savez(path, centroids=unit_vectors(4), neighbours=1, strength=np.ones(2), usual=0.0)


def an_array_alone(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, unit_vectors(4))


def pickled(path: Path) -> None:
    np.savez(path, centroids=np.array([{"code": 1}], dtype=object), neighbours=1, strength=1.0, usual=0.0)


def missing(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[500] ^= 0xFF
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("a cohort")


@pytest.mark.parametrize(
    "damage",
    [
        longer,
        not_finite,
        flat,
        fewer_than_neighbours,
        no_neighbours,
        no_strength,
        several_strengths,
        an_array_alone,
        pickled,
        missing,
        cut,
        changed,
        empty,
        text,
    ],
)
def test_a_cohort_that_is_none_is_refused_with_a_way_out(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    digest = written(tmp_path).digest
    damage(tmp_path / COHORT_FILE)
    for read in (lambda: read_cohort(tmp_path / COHORT_FILE), lambda: load_crowding(tmp_path, digest)):
        with pytest.raises(CohortError, match=r"cohort\.npz") as refused:
            read()
        assert refused.value.code == "cohort_invalid"
        assert "model.cohort" in refused.value.message
        assert "\n" not in refused.value.message


def test_the_cohort_of_a_calibration_is_the_one_beside_the_encoder(tmp_path: Path) -> None:
    cohort = written(tmp_path)
    loaded = load_crowding(tmp_path, cohort.digest)
    assert isinstance(loaded, Cohort)
    assert loaded.digest == cohort.digest
    other = written(tmp_path, strength=0.7)
    with pytest.raises(CohortError, match="measured with") as refused:
        load_crowding(tmp_path, cohort.digest)
    for part in (other.digest[:12], cohort.digest[:12], "model.calibrate"):
        assert part in refused.value.message


def test_a_calibration_without_a_cohort_asks_for_none(tmp_path: Path) -> None:
    assert isinstance(load_crowding(tmp_path, None), NoCrowding)
    # One that lies there is not used either: the calibration was measured without.
    written(tmp_path)
    assert isinstance(load_crowding(tmp_path, None), NoCrowding)


def test_the_shipped_cohort_is_small_against_distances() -> None:
    path = EncodingSettings().directory / COHORT_FILE
    if not path.is_file():
        pytest.skip("the encoder comes without a cohort")
    cohort = read_cohort(path)
    crowding = cohort(np.concatenate([unit_vectors(500), cohort.centroids]))
    assert cohort.centroids.shape[1] == 128
    # The search index rounds by a share of it and is exact for what is below 1 (``app.gallery.sqlite.index``).
    assert np.abs(crowding).max() < 1
