from __future__ import annotations

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.gallery import CollectionNotFound
from app.gallery.sqlite.index import SCORE_TOLERANCE, Batch, CollectionIndex, Keys, VectorIndex
from app.gallery.sqlite.ranking import StoredTemplate, nearest_subjects
from tests.app.gallery.contract import axis, exact, random_embedding


def keys_of(count: int, first: int = 0) -> Keys:
    return np.arange(first, first + count, dtype=np.int64)


def unit_vectors(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.stack([random_embedding(random) for _ in range(count)])


def uncrowded(count: int) -> np.ndarray:
    return np.zeros(count, dtype=np.float32)


def crowding_of(count: int, seed: int = 0) -> np.ndarray:
    """As much as the tolerance of scores allows for."""
    return np.random.default_rng([seed, 1]).uniform(-1, 1, count).astype(np.float32)


def one_subject() -> Generator[Batch, None, None]:
    yield Batch(keys_of(1), axis(0)[np.newaxis], uncrowded(1), np.ones(1, dtype=np.int64))


def test_scores_are_no_further_off_than_the_tolerance() -> None:
    vectors, crowding = unit_vectors(2000, seed=5), crowding_of(2000)
    index = VectorIndex()
    index.add(keys_of(2000), vectors, crowding)
    keys, scores = index.search(vectors[0], 2000)
    assert sorted(keys.tolist()) == list(range(2000))
    for key, score in zip(keys.tolist(), scores.tolist(), strict=True):
        adjusted = exact(vectors[0], vectors[key]) + float(crowding[key])
        assert abs(score - (1 - adjusted / 2)) <= SCORE_TOLERANCE


@settings(deadline=None)
@given(
    added=st.integers(0, 60), gone=st.sets(st.integers(0, 59)), count=st.integers(1, 80), seed=st.integers(0, 2**32 - 1)
)
def test_a_search_equals_brute_force(added: int, gone: set[int], count: int, seed: int) -> None:
    vectors, crowding = unit_vectors(60, seed), crowding_of(60, seed)
    left = [key for key in range(added) if key not in gone]
    index = VectorIndex()
    index.add(keys_of(added), vectors[:added], crowding[:added])
    index.remove(np.array([key for key in range(added) if key in gone], dtype=np.int64))
    assert index.size == len(left)
    probe = axis(0)
    found = index.search(probe, count)
    scores = vectors @ probe - crowding / 2
    assert len(set(found.keys.tolist())) == len(found.keys) == min(count, len(left))
    assert set(found.keys.tolist()) <= set(left)
    np.testing.assert_allclose(found.scores, scores[found.keys], atol=SCORE_TOLERANCE)
    np.testing.assert_allclose(found.scores, np.sort(scores[left])[::-1][:count], atol=SCORE_TOLERANCE)


def test_removing_what_the_index_does_not_hold_fails() -> None:
    index = VectorIndex()
    index.add(np.array([7], dtype=np.int64), axis(0)[np.newaxis], uncrowded(1))
    with pytest.raises(RuntimeError, match="1 of 2"):
        index.remove(np.array([7, 8], dtype=np.int64))


def test_more_is_fetched_until_near_ties_are_settled() -> None:
    index = VectorIndex()
    index.add(keys_of(200), np.repeat(axis(0)[np.newaxis], 200, axis=0), uncrowded(200))
    fetched: list[int] = []

    def fetch(keys: list[int]) -> list[StoredTemplate]:
        fetched.append(len(keys))
        return [StoredTemplate(key, f"t{key}", key, f"s{key:03}", "{}", axis(0).tobytes(), 10.0, 0.0) for key in keys]

    (nearest,) = nearest_subjects(index, fetch, axis(0), 1)
    assert nearest.nearest.subject_id == "s000"
    assert fetched == [13, 52, 200]


def test_more_is_fetched_until_a_crowded_nearest_one_is_settled() -> None:
    """The stored vectors are all in one place, told apart by their crowding alone, by less than the index can tell."""
    crowding = (0.3 + 2e-7 * np.random.default_rng(0).permutation(200)).astype(np.float32)
    index = VectorIndex()
    index.add(keys_of(200), np.repeat(axis(0)[np.newaxis], 200, axis=0), crowding)

    def fetch(keys: list[int]) -> list[StoredTemplate]:
        return [
            StoredTemplate(key, f"t{key}", key, f"s{key:03}", "{}", axis(0).tobytes(), 10.0, float(crowding[key]))
            for key in keys
        ]

    found = nearest_subjects(index, fetch, axis(0, 1, 0.4), 7)
    assert [each.nearest.key for each in found] == np.argsort(crowding)[:7].tolist()


def test_a_search_that_comes_too_late_for_its_collection_says_so() -> None:
    index = CollectionIndex("a", one_subject)
    index.rebuild()
    with index.reading() as vectors:
        assert vectors.size == 1
    index.drop(lambda: None)
    with pytest.raises(CollectionNotFound), index.reading():
        pass


def test_a_commit_that_fails_leaves_the_index_as_it_was() -> None:
    def commit() -> None:
        raise OSError("disk full")

    index = CollectionIndex("a", one_subject)
    index.rebuild()
    with pytest.raises(OSError, match="disk full"):
        index.follow(commit, removed=keys_of(1))
    with pytest.raises(OSError, match="disk full"):
        index.drop(commit)
    with index.reading() as vectors:
        assert vectors.size == 1


def test_searches_see_a_write_whole_or_not_at_all() -> None:
    vectors = unit_vectors(200)

    def load() -> Generator[Batch, None, None]:
        yield Batch(keys_of(100), vectors[:100], uncrowded(100), np.ones(100, dtype=np.int64))

    collection = CollectionIndex("a", load)
    collection.rebuild()
    done = threading.Event()

    def write() -> None:
        try:
            for key in range(100, 200):
                added = Batch(keys_of(1, key), vectors[key : key + 1], uncrowded(1), np.ones(1, dtype=np.int64))
                collection.follow(lambda: None, removed=keys_of(1, key - 100), added=added)
        finally:
            done.set()

    def read(seed: int) -> None:
        random = np.random.default_rng(seed)
        while not done.is_set():
            with collection.reading() as index:
                found = index.search(vectors[random.integers(200)], 100)
            first = min(found.keys)
            assert sorted(found.keys.tolist()) == list(range(first, first + 100))

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read, seed) for seed in range(2)]
        pool.submit(write).result()
        for reader in readers:
            reader.result()
