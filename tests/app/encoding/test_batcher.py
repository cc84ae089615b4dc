from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from app.encoding import Batcher, EncoderInfo, EncoderRuntime, Encodings, Precision, RuntimeName
from app.timing import timed
from app.types import Pixels

WAIT = 20


class Gated:
    """Gives each face its first pixel back; every run waits until it is let through."""

    info = EncoderInfo("fake", "1", "ab" * 32, RuntimeName.OPENVINO, Precision.F32, "none")

    def __init__(self, streams: int = 1) -> None:
        self.streams = streams
        self.batches: list[int] = []
        self.begun = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self._lock = threading.Lock()
        self.running = self.most = 0

    def encode(self, chips: Pixels) -> Encodings:
        with self._lock:
            self.batches.append(len(chips))
            self.running += 1
            self.most = max(self.most, self.running)
        self.begun.release()
        assert self.gate.acquire(timeout=WAIT)
        with self._lock:
            self.running -= 1
        first = chips[:, 0, 0, 0].astype(np.float32)
        if (first == 255).any():
            raise RuntimeError("a broken face")
        return Encodings(np.repeat(first[:, None], 128, axis=1), first + 0.5)


def chips(*first: int) -> Pixels:
    made = np.zeros((len(first), 112, 112, 3), dtype=np.uint8)
    made[:, 0, 0, 0] = first
    return made


def values(encodings: Encodings) -> list[float]:
    assert encodings.norms.tolist() == [v + 0.5 for v in encodings.embeddings[:, 0]]
    return encodings.embeddings[:, 0].tolist()


class Crowd:
    """Asks from threads of their own, and knows when everybody waits."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher, self._pool = batcher, ThreadPoolExecutor(64)

    def ask(self, *first: int) -> Future[Encodings]:
        return self._pool.submit(self._batcher.encode, chips(*first))

    def ask_in_turn(self, *askers: tuple[int, ...]) -> list[Future[Encodings]]:
        """Each has joined those who wait before the next one asks."""
        found = []
        for asker in askers:
            waiting = len(self._batcher._waiting)
            found.append(self.ask(*asker))
            for _ in range(WAIT * 1000):
                if len(self._batcher._waiting) > waiting:
                    break
                threading.Event().wait(0.001)
            else:
                raise AssertionError("nobody joined")
        return found


def test_what_waits_while_a_batch_runs_is_the_next_batch() -> None:
    runtime = Gated()
    crowd = Crowd(Batcher(runtime, batch_size=4))
    first = crowd.ask(1)
    assert runtime.begun.acquire(timeout=WAIT)
    later = crowd.ask_in_turn((2,), (3, 4), (5,), (6,), (7,))
    runtime.gate.release(3)
    assert values(first.result(WAIT)) == [1]
    assert [values(future.result(WAIT)) for future in later] == [[2], [3, 4], [5], [6], [7]]
    # Who came first is served first, and faces that fit a batch are not parted.
    assert runtime.batches == [1, 4, 2]


def test_more_faces_than_a_batch_are_run_in_several() -> None:
    runtime = Gated()
    runtime.gate.release(3)
    assert values(Batcher(runtime, batch_size=8).encode(chips(*range(20)))) == list(range(20))
    assert runtime.batches == [8, 8, 4]


def test_nobody_waits_for_all_the_faces_of_another() -> None:
    runtime = Gated()
    crowd = Crowd(Batcher(runtime, batch_size=2))
    large = crowd.ask(1, 2, 3, 4)
    assert runtime.begun.acquire(timeout=WAIT)
    [small] = crowd.ask_in_turn((5,))
    runtime.gate.release(2)
    assert values(small.result(WAIT)) == [5]
    assert not large.done()
    runtime.gate.release(1)
    assert values(large.result(WAIT)) == [1, 2, 3, 4]


def test_an_error_of_one_run_is_the_callers() -> None:
    runtime = Gated()
    runtime.gate.release(3)
    with pytest.raises(RuntimeError, match="broken face"):
        Batcher(runtime, batch_size=2).encode(chips(1, 2, 3, 255, 5))
    assert runtime.batches == [2, 2]


def test_as_many_runs_at_once_as_there_are_streams() -> None:
    runtime = Gated(streams=3)
    crowd = Crowd(Batcher(runtime))
    futures = [crowd.ask(number) for number in range(40)]
    for _ in range(3):
        assert runtime.begun.acquire(timeout=WAIT)
    runtime.gate.release(40)
    assert [values(future.result(WAIT)) for future in futures] == [[number] for number in range(40)]
    assert runtime.most == 3
    # Every stream is free again.
    again = [crowd.ask(number) for number in range(3)]
    runtime.gate.release(3)
    assert [values(future.result(WAIT)) for future in again] == [[0], [1], [2]]


def test_an_error_reaches_those_of_its_batch_and_nobody_else() -> None:
    runtime = Gated()
    crowd = Crowd(Batcher(runtime, batch_size=2))
    first = crowd.ask(1)
    assert runtime.begun.acquire(timeout=WAIT)
    broken, beside, after = crowd.ask_in_turn((255,), (2,), (3,))
    runtime.gate.release(3)
    assert values(first.result(WAIT)) == [1]
    for future in (broken, beside):
        with pytest.raises(RuntimeError, match="broken face"):
            future.result(WAIT)
    assert values(after.result(WAIT)) == [3]


def test_chips_of_another_shape_are_refused_before_they_meet_others() -> None:
    runtime = Gated()
    with pytest.raises(ValueError, match="uint8"):
        Batcher(runtime).encode(np.zeros((1, 64, 64, 3), dtype=np.uint8))
    assert runtime.batches == []


def test_each_run_is_told_and_each_caller_knows_its_times() -> None:
    runtime = Gated()
    runtime.gate.release(1)
    batcher = Batcher(runtime)
    seen = list[tuple[int, float]]()
    batcher.observe = lambda faces, seconds: seen.append((faces, seconds))
    with timed() as stages:
        batcher.encode(chips(1, 2))
    [(faces, seconds)] = seen
    assert (faces, list(stages)) == (2, ["encode_wait", "encode"])
    assert stages["encode_wait"] >= 0
    assert 0 < seconds <= stages["encode"]
    assert (batcher.info, batcher.streams) == (Gated.info, 1)


def test_batches_give_everybody_their_own(encoder: EncoderRuntime) -> None:
    rng = np.random.default_rng(0)
    faces = [rng.integers(0, 256, (1 + i % 3, 112, 112, 3), dtype=np.uint8) for i in range(60)]
    alone = [encoder.encode(face).embeddings for face in faces]
    batcher = Batcher(encoder)
    with ThreadPoolExecutor(20) as pool:
        for found, expected in zip(pool.map(batcher.encode, faces), alone, strict=True):
            assert (np.sum(found.embeddings * expected, axis=1) >= 0.999).all()
