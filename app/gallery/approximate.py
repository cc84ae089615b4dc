"""The index of a large collection: exact while it is small, then led by a guide that is built in the background."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from threading import Event, Lock, Thread, get_native_id

import faiss
import numpy as np
import numpy.typing as npt

from app.gallery.guides import Codes, Positions
from app.gallery.index import ANY_PROBE, FlatIndex, Found, Keys
from app.gallery.recall import RecallWatch
from app.gallery.segment import MakeGuide, Segment, build_segment, merged
from app.types import Embedding, SearchMode, SearchState

_LOGGER = logging.getLogger(__name__)

_NICENESS = 10


@dataclass(frozen=True, slots=True)
class _Parts:
    """Where the vectors are: one segment with a guide, those that no guide leads to yet, and what came last.

    A key that is present is so in one place only.
    """

    segments: tuple[Segment, ...]
    tail: FlatIndex

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self.segments) + self.tail.size

    @property
    def removed(self) -> int:
        return sum(segment.removed for segment in self.segments)

    @property
    def unguided(self) -> int:
        return sum(segment.size for segment in self.segments if not segment.has_guide) + self.tail.size

    @property
    def has_guide(self) -> bool:
        return any(segment.has_guide for segment in self.segments)

    def search(self, probe: Embedding, count: int, *, exact: bool) -> Found:
        found = [segment.search(probe, count, exact=exact) for segment in self.segments]
        return merged([*found, self.tail.search(probe, count)], count)


class ApproximateIndex:
    """Exact like ``FlatIndex`` below ``approximate_from`` vectors; from there on a guide leads to the likely nearest.

    A guide is built by a thread in the background. What is added meanwhile and afterwards is searched exactly beside
    it, what is removed is skipped; when both together exceed ``rebuild_share`` of all vectors, the next guide is built
    and takes the place of all that. A vector costs 264 to 272 bytes and what the guide takes, 32 with
    ``Codes``, for it shares the vectors with the exact search; during a build there is a second copy of all
    beside the first.

    No guide is trusted: its first ``probation`` searches are done exactly as well, and one in ``audit_every`` later on,
    and such a search gives the exact answer. A guide that has led to another nearest vector, with a score that is not
    equal within ``tolerance``, in more than 1 - ``recall_floor`` of them is not used any more, and searches are exact
    until the next one is built.

    How parallel work stays correct: a search reads one ``_Parts`` and stays with it. The vectors of a segment never
    change, so a build needs no lock and no copy at its start: what came last is declared a segment, and new vectors go
    into a new tail. The thread replaces ``_Parts`` at the start and at the end of a build, by one that holds the same
    vectors, under a lock that it shares with writes. What was removed during the build is removed from the new segment
    at that moment; what was added is not in it but in the tail.

    Args:
        approximate_from: from so many vectors on a guide is built and used; 0: never.
        rebuild_share: of all vectors, 0..1; so many may be unknown to the guide or removed since.
        audit_every: one search in so many is audited.
        probation: of a new guide, so many searches are all audited.
        recall_floor: the least share of audited searches that must agree, 0..1.
        make_guide: gives a guide to a storage, empty both.
    """

    def __init__(
        self,
        *,
        approximate_from: int = 1_000_000,
        rebuild_share: float = 0.05,
        audit_every: int = 100,
        probation: int = 200,
        recall_floor: float = 0.99,
        make_guide: MakeGuide = Codes,
    ) -> None:
        self._approximate_from, self._rebuild_share = approximate_from, rebuild_share
        self._make_guide = make_guide
        self._parts = _Parts((), FlatIndex())
        self._watch = RecallWatch(every=audit_every, probation=probation, floor=recall_floor)
        self._lock = Lock()
        self._closed = Event()
        self._thread: Thread | None = None
        self._building = False
        # After a build that failed: so much is no reason for another one.
        self._excused = 0

    @property
    def size(self) -> int:
        return self._parts.size

    @property
    def tolerance(self) -> float:
        return self._parts.tail.tolerance

    @property
    def state(self) -> SearchState:
        approximate = self._may_be_approximate(self._parts)
        mode = SearchMode.APPROXIMATE if approximate else SearchMode.EXACT
        return SearchState(mode, self._building, self._watch.audit)

    def add(self, keys: Keys, vectors: npt.NDArray[np.float32]) -> None:
        with self._lock:
            self._parts.tail.add(keys, vectors)

    def remove(self, keys: Keys) -> None:
        with self._lock:
            left = keys
            for segment in self._parts.segments:
                left = left[~segment.remove(left)]
            missing = len(left) - self._parts.tail.discard(left)
        if missing:
            raise RuntimeError(f"The index held {len(keys) - missing} of {len(keys)} vectors to be removed.")

    def search(self, probe: Embedding, count: int) -> Found:
        faiss.omp_set_num_threads(1)
        parts = self._parts
        if not self._may_be_approximate(parts):
            return parts.search(probe, count, exact=True)
        audited = self._watch.chooses()
        likely = parts.search(probe, count, exact=False)
        if not audited:
            return likely
        exact = parts.search(probe, count, exact=True)
        same = likely.keys[0] == exact.keys[0] or exact.scores[0] - likely.scores[0] <= self.tolerance
        self._watch.record(bool(same))
        return exact

    def check(self) -> None:
        # Not counted: what is nearest to a probe that is no face says nothing of the searches for faces.
        parts = self._parts
        parts.search(ANY_PROBE, 1, exact=not self._may_be_approximate(parts))

    def maintain(self) -> None:
        with self._lock:
            if self._building or not self._is_due():
                return
            self._building = True
            try:
                self._start(self._builds())
            except RuntimeError:
                self._building = False
                _LOGGER.warning("The thread that builds guides cannot be started; searches are exact.", exc_info=True)

    def wait(self) -> None:
        """Returns when no build is under way; a build goes on for as long as further ones are due."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        self._closed.set()
        self.wait()
        self._building = False

    def _may_be_approximate(self, parts: _Parts) -> bool:
        return parts.has_guide and parts.size >= self._approximate_from and not self._watch.failed

    def _start(self, builds: Iterator[None]) -> None:
        thread = Thread(target=self._run, args=(builds,), name="search-guide", daemon=True)
        thread.start()
        self._thread = thread

    def _run(self, builds: Iterator[None]) -> None:
        faiss.omp_set_num_threads(1)
        # Of this thread alone: Linux takes the id of a thread for that of a process here.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, get_native_id(), _NICENESS)
        for _ in builds:
            if self._closed.is_set():
                break

    def _builds(self) -> Generator[None, None, None]:
        """Builds for as long as a build is due; it may be left for good at every yield."""
        while (sources := self._freeze()) is not None:
            started = time.monotonic()
            try:
                built = yield from build_segment(sources, self._guide_to(sources))
            except Exception:
                _LOGGER.exception("A guide could not be built; searches go on without it.")
                with self._lock:
                    self._excused = self._stale()
            else:
                self._replace(sources, built)
                seconds = time.monotonic() - started
                _LOGGER.info("The index was put in order in %.0f s: %d vectors, %s", seconds, self.size, self.state)

    def _guide_to(self, sources: list[tuple[Segment, Positions]]) -> MakeGuide | None:
        large = sum(len(positions) for _, positions in sources) >= self._approximate_from
        return self._make_guide if large else None

    def _stale(self) -> int:
        """How many vectors a build would make known to the guide, or free."""
        parts = self._parts
        return parts.removed + (parts.unguided if parts.size >= self._approximate_from else 0)

    def _is_due(self) -> bool:
        # Where there is to be no guide, a build only frees what was removed, and may wait until that is the half.
        size = self._parts.size
        if self._closed.is_set() or not self._approximate_from:
            return False
        share = self._rebuild_share if size >= self._approximate_from else 1.0
        return self._stale() - self._excused > share * size

    def _freeze(self) -> list[tuple[Segment, Positions]] | None:
        """What the next build is made of, or None when none is due: then the thread ends."""
        with self._lock:
            if not self._is_due():
                self._building = False
                return None
            if self._parts.tail.size:
                segments = (*self._parts.segments, Segment.of(self._parts.tail))
                self._parts = _Parts(segments, FlatIndex())
            return [(segment, segment.positions()) for segment in self._parts.segments]

    def _replace(self, sources: list[tuple[Segment, Positions]], built: Segment | None) -> None:
        """Puts the new segment in the place of those that it was made of."""
        with self._lock:
            if built is not None:
                for segment, positions in sources:
                    built.remove(segment.removed_since(positions))
            # Before the new guide can be found: no search may use it that does not count for its probation.
            self._watch.renew()
            self._parts = _Parts(() if built is None else (built,), self._parts.tail)
            self._excused = 0
