from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.gallery import ApproximateIndex, Gallery, SqliteGallery
from app.gallery.guides import Codes, Marks
from app.gallery.index import ANY_PROBE, Batch, CollectionIndex, FlatIndex, Found, Keys
from app.gallery.segment import MakeGuide, Segment, build_segment
from app.gallery.vectors import nearest_subjects
from app.types import Embedding, RecallAudit, SearchMode, SearchState
from tests.app.gallery.contract import Clock, GalleryContract, axis, random_embedding, template
from tests.app.gallery.test_sqlite import DIGEST

NEVER = sys.maxsize
GUIDES = [Codes]


class SettledIndex(ApproximateIndex):
    """Every change is known to the guide before the next search."""

    def maintain(self) -> None:
        super().maintain()
        self.wait()


class SteppedIndex(ApproximateIndex):
    """Builds go on only when the test says so, in its own thread, from one batch to the next."""

    builds: Iterator[None] | None = None
    steps = 0

    def _start(self, builds: Iterator[None]) -> None:
        self.builds = builds

    def step(self) -> bool:
        """Whether there was something to do."""
        if self.builds is None:
            return False
        if next(self.builds, self) is self:
            self.builds = None
        self.steps += 1
        return True

    def finish(self) -> None:
        while self.step():
            pass


def unit_vectors(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, 128)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def keys_of(count: int, first: int = 0) -> Keys:
    return np.arange(first, first + count, dtype=np.int64)


def filled(index: ApproximateIndex, count: int, seed: int = 0) -> np.ndarray:
    vectors = unit_vectors(count, seed)
    index.add(keys_of(count), vectors)
    index.maintain()
    return vectors


def stored(index: ApproximateIndex) -> int:
    """How many vectors take memory."""
    parts = index._parts
    return sum(len(segment.keys) for segment in parts.segments) + parts.tail.size


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.gallery.segment._BATCH", 16)


# The gallery that searches with it


@pytest.mark.parametrize("make_guide", GUIDES)
class TestSettledGallery(GalleryContract):
    """All answers about 20 subjects and more come from the guide alone."""

    @pytest.fixture
    def gallery(self, tmp_path: Path, clock: Clock, make_guide: MakeGuide) -> Iterator[Gallery]:
        def make_index() -> SettledIndex:
            return SettledIndex(
                approximate_from=20, rebuild_share=0.0, audit_every=NEVER, probation=0, make_guide=make_guide
            )

        with closing(SqliteGallery(tmp_path, encoder_digest=DIGEST, clock=clock, make_index=make_index)) as gallery:
            yield gallery


class TestGalleryWhileBuilding(GalleryContract):
    """Builds run beside everything else, and every search is audited."""

    @pytest.fixture
    def gallery(self, tmp_path: Path, clock: Clock) -> Iterator[Gallery]:
        def make_index() -> ApproximateIndex:
            return ApproximateIndex(approximate_from=20, rebuild_share=0.02, audit_every=1, probation=0)

        with closing(SqliteGallery(tmp_path, encoder_digest=DIGEST, clock=clock, make_index=make_index)) as gallery:
            yield gallery
            for state in gallery.search_states().values():
                assert state.recall.agreed == state.recall.audited == state.recall.searches


# Any history


class History(RuleBasedStateMachine):
    """Adds, removes and updates at any moment of a build, and compares every search with brute force."""

    @initialize(make_guide=st.sampled_from(GUIDES), share=st.sampled_from([0.0, 0.1, 0.5]))
    def begin(self, make_guide: MakeGuide, share: float) -> None:
        self.index = SteppedIndex(
            approximate_from=30, rebuild_share=share, audit_every=NEVER, probation=0, make_guide=make_guide
        )
        self.model: dict[int, np.ndarray] = {}
        self.next_key = 0

    @rule(count=st.integers(1, 40), seed=st.integers(0, 2**32 - 1), descending=st.booleans())
    def add(self, count: int, seed: int, descending: bool) -> None:
        keys, vectors = keys_of(count, self.next_key), unit_vectors(count, seed)
        keys = keys[::-1].copy() if descending else keys
        self.index.add(keys, vectors)
        self.index.maintain()
        self.model.update(zip(keys.tolist(), vectors, strict=True))
        self.next_key += count

    @precondition(lambda self: self.model)
    @rule(share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
    def remove(self, share: float, seed: int) -> None:
        chosen = self.chosen(share, seed)
        self.index.remove(chosen)
        self.index.maintain()
        for key in chosen.tolist():
            del self.model[key]

    @precondition(lambda self: self.model)
    @rule(share=st.floats(0, 0.5), seed=st.integers(0, 2**32 - 1))
    def update(self, share: float, seed: int) -> None:
        chosen = self.chosen(share, seed)
        vectors = unit_vectors(len(chosen), seed)
        self.index.remove(chosen)
        self.index.add(chosen, vectors)
        self.index.maintain()
        self.model.update(zip(chosen.tolist(), vectors, strict=True))

    def chosen(self, share: float, seed: int) -> Keys:
        count = max(1, round(share * len(self.model)))
        return np.random.default_rng(seed).choice(np.array(list(self.model)), count, replace=False)

    @rule(steps=st.integers(1, 5))
    def build_on(self, steps: int) -> None:
        for _ in range(steps):
            self.index.step()

    @rule()
    def finish(self) -> None:
        self.index.finish()

    @invariant()
    def searches_equal_brute_force(self) -> None:
        index, model = self.index, self.model
        assert index.size == len(model)
        assert (index.state.mode is SearchMode.APPROXIMATE) <= (len(model) >= 30)
        if not model:
            return
        keys, vectors = np.array(list(model)), np.stack(list(model.values()))
        probes = [unit_vectors(1, len(model))[0], vectors[len(model) // 2]]
        for probe, count in zip(probes, (min(7, len(model)), len(model)), strict=True):
            exact = vectors @ probe
            found = index.search(probe, count)
            assert len(set(found.keys.tolist())) == len(found.keys) == count
            np.testing.assert_allclose(found.scores, np.sort(exact)[::-1][:count], atol=index.tolerance)
            by_key = dict(zip(keys.tolist(), exact.tolist(), strict=True))
            np.testing.assert_allclose(found.scores, [by_key[key] for key in found.keys.tolist()], atol=index.tolerance)

    def teardown(self) -> None:
        if hasattr(self, "index"):
            self.index.finish()
            if self.index._parts.size >= 30 and self.index._rebuild_share == 0.0:
                assert stored(self.index) == self.index.size


History.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestHistory = History.TestCase


# When guides are built and used


def test_below_the_limit_nothing_is_built_and_searches_are_exact() -> None:
    index, flat = SteppedIndex(approximate_from=101), FlatIndex()
    vectors = filled(index, 100)
    flat.add(keys_of(100), vectors)
    index.remove(keys_of(10))
    flat.remove(keys_of(10))
    index.maintain()
    assert index.builds is None
    assert index.state == SearchState()
    found, expected = index.search(vectors[20], 30), flat.search(vectors[20], 30)
    np.testing.assert_array_equal(found.keys, expected.keys)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert found.exact
    assert stored(index) == 90


def test_a_limit_of_0_means_never() -> None:
    index = SteppedIndex(approximate_from=0)
    filled(index, 100)
    index.remove(keys_of(99))
    index.maintain()
    assert (index.builds, index.state.mode, stored(index)) == (None, SearchMode.EXACT, 1)


@pytest.mark.parametrize("make_guide", GUIDES)
def test_from_the_limit_on_a_guide_is_built_while_searches_are_exact(make_guide: MakeGuide) -> None:
    index = SteppedIndex(approximate_from=100, audit_every=NEVER, probation=0, make_guide=make_guide)
    vectors = filled(index, 100)
    assert index.state.building
    while index.step():
        found = index.search(vectors[7], 3)
        assert found.keys[0] == 7
        assert found.exact == index.state.building
    assert index.state == SearchState(SearchMode.APPROXIMATE, False, RecallAudit(searches=1))
    assert index.steps > 100 / 16


def test_a_thread_builds_by_default() -> None:
    index = ApproximateIndex(approximate_from=200, audit_every=NEVER, probation=0)
    with closing(index):
        vectors = filled(index, 300)
        index.wait()
        assert index.state.mode is SearchMode.APPROXIMATE
        assert not index.state.building
        assert index.search(vectors[7], 3).keys[0] == 7


def test_the_next_guide_is_built_when_enough_has_changed() -> None:
    index = SteppedIndex(approximate_from=100, rebuild_share=0.1, audit_every=NEVER, probation=0)
    filled(index, 200)
    index.finish()
    first = index._parts.segments[0]
    index.add(keys_of(10, 1000), unit_vectors(10, 1))
    index.remove(keys_of(11))
    index.maintain()
    assert index.builds is not None
    index.finish()
    index.add(keys_of(10, 2000), unit_vectors(10, 2))
    index.remove(keys_of(9, 100))
    index.maintain()
    assert index.builds is None
    assert index._parts.segments[0] is not first
    assert stored(index) == index.size + 9


def test_fewer_than_the_limit_are_searched_exactly_again_and_memory_is_given_back() -> None:
    index = SteppedIndex(approximate_from=100, audit_every=NEVER, probation=0)
    vectors = filled(index, 110)
    index.finish()
    assert index.state.mode is SearchMode.APPROXIMATE
    index.remove(keys_of(50))
    index.maintain()
    assert (index.builds, index.state.mode, stored(index)) == (None, SearchMode.EXACT, 110)
    assert index.search(vectors[60], 60).exact
    index.remove(keys_of(10, 50))
    index.maintain()
    index.finish()
    assert stored(index) == index.size == 50
    assert index.search(vectors[70], 1).keys[0] == 70
    index.remove(keys_of(50, 60))
    index.maintain()
    index.finish()
    assert stored(index) == index.size == 0


# Writes during a build


def building(**options: float) -> tuple[SteppedIndex, np.ndarray]:
    """In the middle of the second build: 200 of 200 are known to the first guide, 50 more are to be known."""
    index = SteppedIndex(approximate_from=100, audit_every=NEVER, probation=0, **options)
    vectors = filled(index, 200)
    index.finish()
    more = unit_vectors(50, 1)
    index.add(keys_of(50, 200), more)
    index.maintain()
    for _ in range(3):
        index.step()
    assert index.builds is not None
    return index, np.concatenate([vectors, more])


@pytest.mark.parametrize("key", [3, 220], ids=["in the old guide", "in what came last"])
def test_a_key_that_is_updated_during_a_build_has_its_new_vector_only(key: int) -> None:
    index, vectors = building()
    new = random_embedding(np.random.default_rng(9))
    index.remove(np.array([key]))
    index.add(np.array([key]), new[np.newaxis])
    for finished in (False, True):
        if finished:
            index.finish()
        assert index.size == 250
        assert index.search(new, 1).keys[0] == key
        assert index.search(vectors[key], 1).scores[0] < 0.9
        assert index.search(vectors[key], 250).keys.tolist().count(key) == 1


def test_what_is_removed_during_a_build_stays_removed() -> None:
    index, vectors = building(rebuild_share=0.1)
    gone = np.array([0, 17, 100, 201, 249])
    index.remove(gone)
    index.finish()
    assert index.size == 245
    assert not set(gone.tolist()) & set(index.search(vectors[0], 245).keys.tolist())
    assert stored(index) == 250
    with pytest.raises(RuntimeError, match="held 1 of 2 vectors"):
        index.remove(np.array([17, 18]))


def test_all_may_be_removed_during_a_build() -> None:
    index, vectors = building()
    index.remove(keys_of(250))
    index.finish()
    assert stored(index) == index.size == 0
    index.check()
    index.add(keys_of(1), vectors[:1])
    assert index.search(vectors[0], 1).keys.tolist() == [0]


def test_what_changed_during_a_build_starts_the_next_one() -> None:
    index, _ = building()
    index.add(keys_of(100, 1000), unit_vectors(100, 2))
    index.maintain()
    index.finish()
    (segment,) = index._parts.segments
    assert (segment.size, index._parts.tail.size) == (350, 0)


def test_a_search_stays_with_what_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """The build ends between the part of a search that is in a segment and the part that is in the tail."""
    index, vectors = building()
    index.add(keys_of(1, 500), axis(0)[np.newaxis])
    search = Segment.search

    def search_and_finish(segment: Segment, probe: Embedding, count: int, *, exact: bool) -> Found:
        found = search(segment, probe, count, exact=exact)
        index.finish()
        return found

    monkeypatch.setattr(Segment, "search", search_and_finish)
    found = index.search(vectors[5], 251)
    assert index.builds is None
    assert sorted(found.keys.tolist()) == [*range(250), 500]


def test_searches_and_writes_beside_a_building_thread() -> None:
    """Searches hold what a reader may hold; the writer has the collection for itself while it writes."""
    vectors = unit_vectors(600)
    batch = Batch(keys_of(300), vectors[:300], np.ones(300, dtype=np.int64))

    def load() -> Generator[Batch, None, None]:
        yield batch

    def make_index() -> ApproximateIndex:
        return ApproximateIndex(approximate_from=100, rebuild_share=0.01, audit_every=3, probation=5)

    collection = CollectionIndex("a", load, make_index)
    collection.rebuild()
    done = threading.Event()

    def write() -> None:
        try:
            for key in range(300, 600):
                added = Batch(keys_of(1, key), vectors[key : key + 1], np.ones(1, dtype=np.int64))
                collection.follow(lambda: None, removed=keys_of(1, key - 300), added=added)
        finally:
            done.set()

    def read(seed: int) -> None:
        random = np.random.default_rng(seed)
        while not done.is_set():
            with collection.reading() as index:
                assert index.size == 300
                found = index.search(vectors[random.integers(600)], 300)
                first = min(found.keys)
                assert sorted(found.keys.tolist()) == list(range(first, first + 300))

    with closing(collection), ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read, seed) for seed in range(2)]
        pool.submit(write).result()
        for reader in readers:
            reader.result()


# Closing and failing


def endless(sources: object, make_guide: object) -> Generator[None, None, None]:
    while True:
        yield


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "search-guide"]


@pytest.fixture
def endless_builds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("app.gallery.approximate.build_segment", endless)
    yield
    assert threads() == []


@pytest.mark.usefixtures("endless_builds")
def test_closing_ends_the_build() -> None:
    index = ApproximateIndex(approximate_from=10)
    vectors = filled(index, 50)
    assert index.state.building
    assert len(threads()) == 1
    index.close()
    index.close()
    assert threads() == []
    assert not index.state.building
    assert index.search(vectors[3], 1).keys[0] == 3
    index.add(keys_of(50, 50), unit_vectors(50, 1))
    index.maintain()
    assert threads() == []


@pytest.mark.usefixtures("endless_builds")
@pytest.mark.parametrize("end", ["close", "drop", "rebuild"])
def test_a_gallery_leaves_no_build_behind(tmp_path: Path, end: str) -> None:
    made: list[ApproximateIndex] = []

    def make_index() -> ApproximateIndex:
        made.append(ApproximateIndex(approximate_from=5))
        return made[-1]

    with closing(SqliteGallery(tmp_path, encoder_digest=DIGEST, make_index=make_index)) as gallery:
        gallery.create_collection("a")
        for number in range(5):
            gallery.enroll("a", f"s{number}", [template(axis(number))])
        assert gallery.search_states()["a"].building
        if end == "drop":
            gallery.delete_collection("a")
            assert threads() == []
        elif end == "rebuild":
            made[-1].add = made[-1].remove = raises(MemoryError("no room"))  # type: ignore[method-assign]
            gallery.enroll("a", "s5", [template(axis(5))])
            assert made[-2]._closed.is_set()
            assert len(threads()) == 1
            assert gallery.search("a", axis(5), 1)[0].subject_id == "s5"
        elif end == "close":
            gallery.close()
            assert threads() == []


def raises(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_a_large_collection_is_served_at_once_after_opening(tmp_path: Path) -> None:
    with closing(SqliteGallery(tmp_path, encoder_digest=DIGEST)) as gallery:
        for number in range(40):
            gallery.enroll("default", f"s{number}", [template(axis(number))])
    made: list[SteppedIndex] = []

    def make_index() -> SteppedIndex:
        made.append(SteppedIndex(approximate_from=40, audit_every=NEVER, probation=0))
        return made[-1]

    with closing(SqliteGallery(tmp_path, encoder_digest=DIGEST, make_index=make_index)) as gallery:
        assert gallery.search_states() == {"default": SearchState(building=True)}
        assert gallery.search("default", axis(7), 1)[0].subject_id == "s7"
        made[0].finish()
        assert gallery.search_states()["default"].mode is SearchMode.APPROXIMATE
        assert gallery.search("default", axis(7), 1)[0].subject_id == "s7"


def test_a_build_that_fails_leaves_searches_exact_and_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(sources: object, make_guide: object) -> Generator[None, None, None]:
        yield
        raise MemoryError("no room")

    index = SteppedIndex(approximate_from=100, rebuild_share=0.1, audit_every=NEVER, probation=0)
    with monkeypatch.context() as patched:
        patched.setattr("app.gallery.approximate.build_segment", failing)
        vectors = filled(index, 100)
        index.finish()
    assert "could not be built" in caplog.text
    assert index.state == SearchState()
    assert index.search(vectors[5], 1).keys[0] == 5
    index.add(keys_of(10, 100), unit_vectors(10, 1))
    index.maintain()
    assert index.builds is None
    index.add(keys_of(5, 200), unit_vectors(5, 2))
    index.maintain()
    index.finish()
    assert index.state.mode is SearchMode.APPROXIMATE
    assert stored(index) == 115
    index.add(keys_of(14, 300), unit_vectors(14, 3))
    index.maintain()
    assert index.builds is not None


def test_a_thread_that_cannot_be_started_leaves_searches_exact(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index = ApproximateIndex(approximate_from=10)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", raises(RuntimeError("can't start new thread")))
        vectors = filled(index, 50)
    assert "cannot be started" in caplog.text
    assert index.state == SearchState()
    assert index.search(vectors[5], 1).exact
    index.close()


# The audit


def settled(**options: float) -> tuple[SettledIndex, np.ndarray]:
    index = SettledIndex(approximate_from=100, **options)  # type: ignore[arg-type]
    return index, filled(index, 200)


def test_a_new_guide_is_on_probation_and_then_one_search_in_so_many_is_audited() -> None:
    index, vectors = settled(audit_every=4, probation=6)
    exact = [index.search(vector, 5).exact for vector in vectors[:20]]
    assert exact == [True] * 6 + [False, True] + [False, False, False, True] * 3
    assert index.state.recall == RecallAudit(searches=20, audited=10, agreed=10)


def test_checks_are_not_counted() -> None:
    index, _ = settled()
    index.check()
    assert index.state.recall == RecallAudit()


def lost(guide: Codes, probe: Embedding, count: int, marks: Marks | None) -> tuple[np.ndarray, Keys]:
    """Leads to whatever was stored first."""
    positions = keys_of(count)
    scores = np.array([np.float32(-1.0)] * count)
    return scores, positions


def test_a_guide_that_misleads_is_not_used_until_the_next_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index, vectors = settled(audit_every=2, probation=10)
    for vector in vectors[:15]:
        index.search(vector, 1)
    assert index.state.recall == RecallAudit(searches=15, audited=12, agreed=12)
    with monkeypatch.context() as broken:
        broken.setattr(Codes, "search", lost)
        index.search(vectors[50], 1)
        assert index.state.mode is SearchMode.EXACT
        assert index.state.recall == RecallAudit(searches=16, audited=13, agreed=12)
        for key in range(60, 90):
            found = index.search(vectors[key], 1)
            assert (found.keys[0], found.exact) == (key, True)
    assert index.state.recall.searches == 16
    assert [record.levelno for record in caplog.records].count(logging.WARNING) == 1
    assert "12 of 13 audits" in caplog.text
    index.add(keys_of(20, 1000), unit_vectors(20, 1))
    index.maintain()
    assert index.state.mode is SearchMode.APPROXIMATE
    assert [index.search(vector, 1).exact for vector in vectors[:12]].count(False) == 1
    assert index.state.recall == RecallAudit(searches=28, audited=24, agreed=23)


def test_a_guide_that_never_worked_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Codes, "search", lost)
    index, vectors = settled(audit_every=2, probation=10)
    for key, vector in enumerate(vectors):
        assert index.search(vector, 1).keys[0] == key
    assert index.state.recall.audited == 10


def test_another_vector_that_is_as_near_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    index = SettledIndex(approximate_from=10, audit_every=1, probation=0)
    index.add(keys_of(40), np.repeat(axis(0)[np.newaxis], 40, axis=0))
    index.maintain()
    monkeypatch.setattr(Codes, "search", lambda *_: (np.array([1.0], dtype=np.float32), np.array([39])))
    assert index.search(axis(0), 1).keys[0] != 39
    assert index.state.recall == RecallAudit(1, 1, 1)


# Guides and segments


@pytest.mark.parametrize("make_guide", GUIDES)
@pytest.mark.parametrize("descending", [False, True])
def test_a_segment_is_searched_nearly_as_well_by_its_guide(make_guide: MakeGuide, descending: bool) -> None:
    vectors = unit_vectors(3000)
    keys = keys_of(3000, 10_000)[:: -1 if descending else 1].copy()
    flat = FlatIndex()
    flat.add(keys, vectors)
    segment = exhausted(build_segment([(Segment.of(flat), keys_of(3000))], make_guide))
    assert segment.has_guide
    gone = segment.remove(np.array([*keys[::3].tolist(), 5, 99_999]))
    assert gone.tolist() == [True] * 1000 + [False, False]
    assert not segment.remove(keys[:4:3].copy()).any()
    assert (segment.size, segment.removed) == (2000, 1000)
    agreed = 0
    for probe in unit_vectors(200, 1):
        likely, exact = (segment.search(probe, 10, exact=way) for way in (False, True))
        assert (likely.exact, exact.exact) == (False, True)
        assert not set(likely.keys.tolist()) & set(keys[::3].tolist())
        scores = [vectors[np.flatnonzero(keys == key)[0]] @ probe for key in likely.keys.tolist()]
        np.testing.assert_allclose(likely.scores, scores, atol=1e-3)
        agreed += likely.keys[0] == exact.keys[0]
    assert agreed >= 198


def exhausted(build: Generator[None, None, Segment | None]) -> Segment:
    built: list[Segment | None] = []

    def run() -> Generator[None, None, None]:
        built.append((yield from build))

    for _ in run():
        pass
    assert built[0] is not None
    return built[0]


def test_a_guide_that_finds_too_few_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Codes, "search", lambda *_: (np.array([0.5], dtype=np.float32), np.array([7])))
    index, vectors = settled(audit_every=NEVER, probation=0)
    found = index.search(vectors[5], 4)
    assert (found.keys[0], len(found.keys), found.exact) == (5, 4, True)


def test_near_ties_do_not_fetch_a_whole_gallery_unless_the_search_is_exact() -> None:
    vectors = np.repeat(axis(0)[np.newaxis], 5000, axis=0)
    fetched: list[int] = []

    def fetch(keys: list[int]) -> list[object]:
        fetched.append(len(keys))
        return []

    index = SettledIndex(approximate_from=100, audit_every=NEVER, probation=0, make_guide=Codes)
    index.add(keys_of(5000), vectors)
    nearest_subjects(index, fetch, axis(0), 1)  # type: ignore[arg-type]
    assert fetched == [13, 52, 208, 832, 3328, 5000]
    fetched.clear()
    index.maintain()
    nearest_subjects(index, fetch, axis(0), 1)  # type: ignore[arg-type]
    assert fetched == [13, 52, 208]


def test_any_probe_is_a_unit_vector() -> None:
    assert np.linalg.norm(ANY_PROBE) == pytest.approx(1.0)
