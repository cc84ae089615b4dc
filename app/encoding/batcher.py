"""Batches the faces of several requests into one run of the encoder.

Larger batches cost less per face. The next batch forms while one runs, so batching itself adds no waiting time (as in
text-embeddings-inference: https://github.com/huggingface/text-embeddings-inference). There is no separate thread: a
caller that finds the encoder free runs it for itself and for all callers waiting by then.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from app.encoding.runtime import EncoderInfo, EncoderRuntime, Encodings, check_chips
from app.timing import note
from app.types import Pixels

BATCH_SIZE = 8
"""Larger batches are hardly cheaper per face, and later requests wait longer."""

Observe = Callable[[int, float], None]
"""Called after each run with the number of faces and the seconds it took."""


class _Job:
    """Faces of one caller, at most a batch; it receives either their encodings or a batch that it has to run."""

    def __init__(self, chips: Pixels) -> None:
        self.chips, self.arrived = chips, time.perf_counter()
        self.woken = threading.Event()
        self.batch: list[_Job] | None = None
        self.encodings: Encodings | None = None
        self.error: Exception | None = None
        self.started = 0.0


class Batcher:
    """An ``EncoderRuntime`` that runs another one on batches of waiting faces."""

    def __init__(self, runtime: EncoderRuntime, *, batch_size: int = BATCH_SIZE) -> None:
        self._runtime, self._batch_size = runtime, batch_size
        self.observe: Observe | None = None
        self._lock = threading.Lock()
        self._free = runtime.streams
        # Callers wait only while no stream is free.
        self._waiting: deque[_Job] = deque()

    @property
    def info(self) -> EncoderInfo:
        """The wrapped encoder's info."""
        return self._runtime.info

    @property
    def streams(self) -> int:
        """The wrapped encoder's streams."""
        return self._runtime.streams

    def encode(self, chips: Pixels) -> Encodings:
        """See ``EncoderRuntime.encode``; raises what the runtime raises.

        More faces than a batch are encoded in several runs, one after the other, so that nobody's number of faces
        decides how much memory a run takes or how long others wait.
        """
        check_chips(chips)
        size = self._batch_size
        parts = [self._encode(chips[start : start + size]) for start in range(0, len(chips), size)]
        if len(parts) == 1:
            return parts[0]
        return Encodings(
            np.concatenate([part.embeddings for part in parts]), np.concatenate([part.norms for part in parts])
        )

    def _encode(self, chips: Pixels) -> Encodings:
        """Encodes at most a batch of faces, which are not parted."""
        job = _Job(chips)
        with self._lock:
            if self._free:
                self._free -= 1
                job.batch = [job]
            else:
                self._waiting.append(job)
        if job.batch is None:
            job.woken.wait()
        if job.batch is not None:
            try:
                self._run(job.batch)
            finally:
                self._pass_on()
        note("encode_wait", job.started - job.arrived)
        note("encode", time.perf_counter() - job.started)
        if job.error is not None:
            raise job.error
        assert job.encodings is not None
        return job.encodings

    def _run(self, batch: list[_Job]) -> None:
        start = time.perf_counter()
        for job in batch:
            job.started = start
        chips = batch[0].chips if len(batch) == 1 else np.concatenate([job.chips for job in batch])
        try:
            found = self._runtime.encode(chips)
            ends = np.cumsum([len(job.chips) for job in batch])
            for job, end in zip(batch, ends, strict=True):
                own = slice(end - len(job.chips), end)
                job.encodings = Encodings(found.embeddings[own], found.norms[own])
        except Exception as error:  # passed on to every caller in the batch
            for job in batch:
                job.error = error
        finally:
            if self.observe is not None:
                self.observe(len(chips), time.perf_counter() - start)
            for job in batch[1:]:
                job.woken.set()

    def _pass_on(self) -> None:
        """Passes the stream to the first waiting caller, with as many other jobs as fit in the batch."""
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            first = self._waiting.popleft()
            batch, faces = [first], len(first.chips)
            while self._waiting and faces + len(self._waiting[0].chips) <= self._batch_size:
                batch.append(self._waiting.popleft())
                faces += len(batch[-1].chips)
            first.batch = batch
        first.woken.set()
