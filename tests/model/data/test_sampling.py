from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data.sampling import IdentitySampler, ShuffledSampler

SIZES = {0: 2, 1: 3, 2: 4, 3: 9, 4: 150, 5: 1, 6: 1}
"""Faces of each identity; two are singletons."""


@pytest.fixture
def identity() -> npt.NDArray[np.int64]:
    labels = [label for label, count in SIZES.items() for _ in range(count)] + [-1] * 40
    return np.random.default_rng(0).permutation(np.array(labels, dtype=np.int64))


@given(size=st.integers(1, 60), batch_size=st.integers(1, 60), seed=st.integers(0, 100), epoch=st.integers(0, 5))
def test_an_epoch_shows_every_face_once_up_to_the_remainder(size: int, batch_size: int, seed: int, epoch: int) -> None:
    batch_size = min(batch_size, size)
    sampler, batches = ShuffledSampler(size, batch_size, seed), size // batch_size
    drawn = np.concatenate([sampler.batch(epoch * batches + i) for i in range(batches)])
    assert len(drawn) == size - size % batch_size
    assert len(set(drawn.tolist())) == len(drawn)
    assert set(drawn.tolist()) <= set(range(size))


def test_epochs_differ_and_leave_out_different_faces() -> None:
    sampler = ShuffledSampler(50, 16, seed=1)
    epochs = [np.concatenate([sampler.batch(3 * e + i) for i in range(3)]) for e in range(4)]
    assert len({tuple(e.tolist()) for e in epochs}) == 4
    assert set(np.concatenate(epochs).tolist()) == set(range(50))


def test_a_shuffled_batch_depends_on_seed_and_step_only() -> None:
    sampler = ShuffledSampler(40, 7, seed=3)
    batches = [sampler.batch(step).copy() for step in range(20)]
    for step in (13, 0, 19, 4):
        np.testing.assert_array_equal(ShuffledSampler(40, 7, seed=3).batch(step), batches[step])
        np.testing.assert_array_equal(sampler.batch(step), batches[step])
    assert not np.array_equal(ShuffledSampler(40, 7, seed=4).batch(0), batches[0])


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch of 11 .* there are 10"):
        ShuffledSampler(10, 11, seed=0)


@pytest.mark.parametrize("images", [2, 3, 4, 10])
@pytest.mark.parametrize("identities", [1, 3, 5])
def test_a_batch_holds_identities_times_images(identity: npt.NDArray[np.int64], identities: int, images: int) -> None:
    sampler = IdentitySampler(identity, identities, images, seed=0)
    for step in range(30):
        index = sampler.batch(step)
        assert index.dtype == np.int64
        counts = Counter(identity[index].tolist())
        assert len(counts) == identities
        assert set(counts.values()) == {images}
        assert set(counts) <= {0, 1, 2, 3, 4}


def test_faces_repeat_only_after_all_were_taken(identity: npt.NDArray[np.int64]) -> None:
    images = 7
    sampler = IdentitySampler(identity, 5, images, seed=2)
    for step in range(30):
        index = sampler.batch(step)
        for label in range(5):
            times = Counter(index[identity[index] == label].tolist())
            fewest, most = divmod(images, SIZES[label])[0], -(-images // SIZES[label])
            assert len(times) == min(images, SIZES[label])
            assert {fewest, most} >= set(times.values())


def test_every_usable_face_is_drawn_sometime(identity: npt.NDArray[np.int64]) -> None:
    sampler = IdentitySampler(identity, 5, 8, seed=2)
    seen = set(np.concatenate([sampler.batch(step) for step in range(200)]).tolist())
    assert seen == set(np.flatnonzero(np.isin(identity, [0, 1, 2, 3, 4])).tolist())


def test_an_identity_batch_depends_on_seed_and_step_only(identity: npt.NDArray[np.int64]) -> None:
    sampler = IdentitySampler(identity, 3, 4, seed=5)
    batches = [sampler.batch(step) for step in range(10)]
    for step in (7, 0, 9):
        np.testing.assert_array_equal(IdentitySampler(identity, 3, 4, seed=5).batch(step), batches[step])
    assert not np.array_equal(batches[0], batches[1])
    assert not np.array_equal(IdentitySampler(identity, 3, 4, seed=6).batch(0), batches[0])


def test_an_anchor_without_a_positive_is_refused(identity: npt.NDArray[np.int64]) -> None:
    with pytest.raises(ValueError, match="at least 2 images"):
        IdentitySampler(identity, 3, 1, seed=0)


def test_more_identities_than_there_are_is_refused(identity: npt.NDArray[np.int64]) -> None:
    with pytest.raises(ValueError, match="6 identities of two or more faces wanted, 5 are there"):
        IdentitySampler(identity, 6, 2, seed=0)


def test_people_of_small_sources_are_drawn_more_often() -> None:
    identity = np.repeat(np.arange(100), 2)
    source = np.where(identity < 90, "large", "small")

    def share(balance: float) -> float:
        sampler = IdentitySampler(identity, 4, 2, seed=0, source=source, balance=balance)
        return float(np.mean([source[sampler.batch(step)] == "small" for step in range(400)]))

    # In proportion to n ** balance: 10 of 100, 3.2 of 12.6, half; drawing four at once evens it a little.
    assert share(1) == pytest.approx(0.1, abs=0.03)
    assert share(0.5) == pytest.approx(0.25, abs=0.03)
    assert share(0) == pytest.approx(0.48, abs=0.04)
