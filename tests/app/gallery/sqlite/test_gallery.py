from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from app.crowding import NoCrowding
from app.embeddings import Embedding
from app.gallery import (
    CollectionSize,
    EncoderMismatch,
    Gallery,
    GalleryInUse,
    GalleryUnavailable,
    OnConflict,
    PendingReceipt,
    Receipt,
    SqliteGallery,
    SubjectNotFound,
    Targets,
)
from app.gallery.sqlite.database import DATABASE_NAME
from app.gallery.sqlite.index import Keys, SearchHits, VectorIndex
from app.gallery.sqlite.migration import migrate, shipped_scripts
from tests.app.gallery.contract import (
    Clock,
    GalleryContract,
    MadeUpCrowding,
    OpenedWith,
    axis,
    crowding_of,
    ids,
    near,
    pending,
    random_embedding,
    template,
)
from tests.app.gallery.sqlite.support import DIGEST, ROOT, is_on_disk, opened

pytestmark = pytest.mark.slow


class TestSqliteGallery(GalleryContract):
    @pytest.fixture
    def gallery(self, tmp_path: Path, clock: Clock) -> Iterator[Gallery]:
        with closing(SqliteGallery(tmp_path / "data", encoder_digest=DIGEST, clock=clock)) as gallery:
            yield gallery

    @pytest.fixture
    def crowded(self, tmp_path: Path, clock: Clock, crowding: MadeUpCrowding) -> Iterator[Gallery]:
        with closing(
            SqliteGallery(tmp_path / "crowded", encoder_digest=DIGEST, clock=clock, crowding=crowding)
        ) as gallery:
            yield gallery
            gallery.check()

    @pytest.fixture
    def opened_with(self, tmp_path: Path, crowding: MadeUpCrowding) -> OpenedWith:
        return lambda most: closing(
            SqliteGallery(tmp_path / "again", encoder_digest=DIGEST, crowding=crowding, most_fused=most)
        )


# Opening


def test_reopening_keeps_everything(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    embeddings = [random_embedding(random) for _ in range(40)]
    with opened(tmp_path) as gallery:
        gallery.create_collection("a")
        for index, embedding in enumerate(embeddings):
            gallery.enroll("a", f"s{index}", [template(embedding)], metadata={"n": index}, receipt=pending(f"k{index}"))
        gallery.delete_subject("a", "s0")
        gallery.update_subject("a", "s1", {"n": "one"})
        gallery.enroll("a", "s1", [template(embeddings[1])])
        gallery.delete_template("a", "s1", gallery.subject("a", "s1").templates[-1].id)
        gallery.enroll("a", "s2", [template(embeddings[2]), template(embeddings[2])])
        size = gallery.size("a")
        subjects = gallery.subjects("a", after=None, limit=100)
        collections = gallery.collections()
        found = gallery.search("a", embeddings[0], 100)
    with opened(tmp_path) as gallery:
        assert gallery.collections() == collections
        assert gallery.size("a") == size == CollectionSize(39, 3)
        assert gallery.subjects("a", after=None, limit=100) == subjects
        assert gallery.search("a", embeddings[0], 100) == found
        assert len(found) == 39
        assert gallery.receipt("k1") == Receipt("k1", "f", "{}")
        gallery.check()
        gallery.enroll("a", "s0", [template(embeddings[0])])
        assert gallery.search("a", embeddings[0], 1)[0].subject_id == "s0"


def test_a_gallery_larger_than_one_batch_is_loaded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.gallery.sqlite.templates._LOAD_BATCH", 3)
    with opened(tmp_path) as gallery:
        for index in range(10):
            gallery.enroll("default", f"s{index}", [template(axis(index)) for _ in range(1 + index % 4)])
    with opened(tmp_path) as gallery:
        gallery.check()
        for index in range(10):
            (found,) = gallery.search("default", axis(index), 1)
            assert (found.subject_id, found.distance, found.templates) == (f"s{index}", 0.0, 1 + index % 4)


def test_a_missing_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    directory = tmp_path / "var" / "tessera"
    with opened(directory) as gallery:
        gallery.enroll("default", "ada", [template(axis(0))])
        assert directory.stat().st_mode & 0o777 == 0o700
        assert len(list(directory.iterdir())) > 1
        assert all(path.stat().st_mode & 0o077 == 0 for path in directory.iterdir())


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(GalleryUnavailable, match="cannot be created or written"):
            SqliteGallery(directory, encoder_digest=DIGEST)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(GalleryUnavailable, match="cannot be created or written"):
            SqliteGallery(tmp_path, encoder_digest=DIGEST)
    finally:
        tmp_path.chmod(0o700)


def test_closing_twice_is_harmless_and_the_closed_gallery_refuses(tmp_path: Path) -> None:
    gallery = SqliteGallery(tmp_path, encoder_digest=DIGEST)
    gallery.close()
    gallery.close()
    for call in (
        lambda: gallery.search("default", axis(0), 1),
        lambda: gallery.delete_collection("default", force=True),
        gallery.check,
    ):
        with pytest.raises(GalleryUnavailable, match="closed"):
            call()


def test_closing_waits_for_what_is_under_way(tmp_path: Path) -> None:
    gallery = SqliteGallery(tmp_path, encoder_digest=DIGEST)
    rendering, answered = threading.Event(), threading.Event()

    def render(_: object, __: object) -> str:
        rendering.set()
        assert answered.wait(5)
        return "slow"

    with ThreadPoolExecutor(2) as pool:
        receipt = PendingReceipt("k", "f", render)
        enrolment = pool.submit(gallery.enroll, "default", "ada", [template(axis(0))], receipt=receipt)
        assert rendering.wait(5)
        closing_ = pool.submit(gallery.close)
        with pytest.raises(TimeoutError):
            closing_.result(timeout=0.1)
        answered.set()
        enrolment.result(5)
        closing_.result(5)
    with opened(tmp_path) as again:
        assert again.receipt("k") == Receipt("k", "f", "slow")


def test_closing_waits_for_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searching, answered = threading.Event(), threading.Event()

    class SlowIndex(VectorIndex):
        def search(self, probe: Embedding, count: int, *, crowded: bool = True) -> SearchHits:
            searching.set()
            assert answered.wait(5)
            return super().search(probe, count, crowded=crowded)

    monkeypatch.setattr("app.gallery.sqlite.index.VectorIndex", SlowIndex)
    gallery = SqliteGallery(tmp_path, encoder_digest=DIGEST)
    gallery.enroll("default", "ada", [template(axis(0))])
    with ThreadPoolExecutor(2) as pool:
        search = pool.submit(gallery.search, "default", axis(0), 1)
        assert searching.wait(5)
        closing_ = pool.submit(gallery.close)
        with pytest.raises(TimeoutError):
            closing_.result(timeout=0.1)
        answered.set()
        assert search.result(5)[0].subject_id == "ada"
        closing_.result(5)


# Crowding


class OtherCrowding(MadeUpCrowding):
    """Of another cohort."""

    digest = "another one"

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        crowding: np.ndarray = 0.1 - 0.5 * super().__call__(embeddings)
        return crowding


def enrol_some(gallery: SqliteGallery, count: int = 12) -> None:
    random = np.random.default_rng(7)
    gallery.create_collection("a")
    for index in range(count):
        new = [template(random_embedding(random), f"t{index}-{k}") for k in range(1 + index % 3)]
        gallery.enroll("a" if index % 2 else "default", f"s{index:02}", new)


def all_crowding(gallery: SqliteGallery) -> dict[str, float]:
    return {
        vectors.subject_id: crowding_of(gallery, vectors.subject_id, collection)
        for collection in ("a", "default")
        for vectors in gallery.subject_vectors(collection, after=None, limit=100)
    }


@pytest.fixture(params=[2, 8192])
def batch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many subjects are read at once."""
    monkeypatch.setattr("app.gallery.sqlite.templates._LOAD_BATCH", request.param)
    size: int = request.param
    return size


@pytest.mark.usefixtures("batch")
def test_another_cohort_computes_all_crowding_anew(tmp_path: Path) -> None:
    with opened(tmp_path / "fresh", crowding=OtherCrowding()) as gallery:
        enrol_some(gallery)
        expected = all_crowding(gallery)
    with opened(tmp_path / "kept", crowding=MadeUpCrowding()) as gallery:
        enrol_some(gallery)
        before, search = all_crowding(gallery), gallery.search("a", axis(3), 20)
    for crowding in (OtherCrowding(), NoCrowding(), OtherCrowding()):
        with opened(tmp_path / "kept", crowding=crowding) as gallery:
            found = all_crowding(gallery)
            assert found == (
                dict.fromkeys(before, 0.0) if isinstance(crowding, NoCrowding) else pytest.approx(expected)
            )
            ranked = [each.distance + each.crowding for each in gallery.search("a", axis(3), 20)]
            assert ranked == sorted(ranked)
            gallery.check()
    with opened(tmp_path / "kept", crowding=MadeUpCrowding()) as gallery:
        assert all_crowding(gallery) == pytest.approx(before)
        assert [c.subject_id for c in gallery.search("a", axis(3), 20)] == [c.subject_id for c in search]


def test_the_same_cohort_is_not_asked_again_at_opening(tmp_path: Path) -> None:
    with opened(tmp_path, crowding=MadeUpCrowding()) as gallery:
        enrol_some(gallery)
        before, found = all_crowding(gallery), gallery.search("default", axis(0), 20)
    crowding = MadeUpCrowding()
    with opened(tmp_path, crowding=crowding) as gallery:
        assert crowding.calls == 0
        assert all_crowding(gallery) == before
        assert gallery.search("default", axis(0), 20) == found
        assert crowding.calls == 0


def test_what_was_written_past_the_gallery_gets_its_crowding_at_the_next_opening(tmp_path: Path) -> None:
    with opened(tmp_path, crowding=MadeUpCrowding()) as gallery:
        enrol_some(gallery)
        before = all_crowding(gallery)
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection, connection:
        connection.execute("UPDATE subjects SET crowding = NULL WHERE id = 's03'")
    with opened(tmp_path, crowding=MadeUpCrowding()) as gallery:
        assert all_crowding(gallery) == pytest.approx(before)


class Interrupted(MadeUpCrowding):
    """Fails in the middle, as a process that is killed while it recomputes does."""

    digest = OtherCrowding.digest

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        if self.calls == 2:
            raise KeyboardInterrupt
        return super().__call__(embeddings)


def test_an_opening_that_is_interrupted_leaves_the_crowding_of_the_old_cohort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.gallery.sqlite.templates._LOAD_BATCH", 3)
    with opened(tmp_path, crowding=MadeUpCrowding()) as gallery:
        enrol_some(gallery)
        before = all_crowding(gallery)
    with pytest.raises(KeyboardInterrupt):
        SqliteGallery(tmp_path, encoder_digest=DIGEST, crowding=Interrupted())
    crowding = MadeUpCrowding()
    with opened(tmp_path, crowding=crowding) as gallery:
        assert all_crowding(gallery) == before
        assert crowding.calls == 0


def database_of_version(number: int, directory: Path) -> dict[str, list[Embedding]]:
    """A database as an earlier release left it: a collection with targets, two subjects of one and of ten templates."""
    random = np.random.default_rng(8)
    subjects = {"ada": [random_embedding(random)], "bob": [random_embedding(random) for _ in range(10)]}
    directory.mkdir(mode=0o700)
    path, moment = directory / DATABASE_NAME, "2026-01-01T00:00:00.000000+00:00"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection, shipped_scripts()[:number])
        connection.execute("INSERT INTO encoders (digest) VALUES (?)", (DIGEST,))
        for name in ("default", "staff"):
            connection.execute("INSERT INTO collections (id, created_at) VALUES (?, ?)", (name, moment))
        connection.execute("UPDATE collections SET target_fmr = 0.001 WHERE id = 'staff'")
        for key, (name, embeddings) in enumerate(subjects.items(), start=1):
            connection.execute(
                "INSERT INTO subjects (collection, id, metadata, created_at, updated_at) VALUES (2, ?, '{}', ?, ?)",
                (name, moment, moment),
            )
            for place, embedding in enumerate(embeddings):
                connection.execute(
                    "INSERT INTO templates (id, collection, subject, encoder, embedding, created_at, length) "
                    "VALUES (?, 2, ?, 1, ?, ?, 10)",
                    (f"{name}-{place}", key, embedding.tobytes(), moment),
                )
    path.chmod(0o600)
    return subjects


def test_a_database_of_before_crowding_is_opened_and_gets_it(tmp_path: Path) -> None:
    subjects, crowding = database_of_version(2, tmp_path / "old"), MadeUpCrowding()
    with opened(tmp_path / "old", crowding=crowding) as gallery:
        assert gallery.targets("staff") == Targets(fmr=0.001)
        gallery.check()
        for name, embeddings in subjects.items():
            mean = np.sum(embeddings[-8:], axis=0)
            fused = (mean / np.linalg.norm(mean)).astype(np.float32)
            assert crowding_of(gallery, name, "staff") == pytest.approx(crowding.of(fused), abs=1e-5)
            found = gallery.search("staff", fused, 1)[0]
            assert (found.subject_id, found.norm) == (name, 10)
        gallery.update_collection("staff", Targets(claim="pooled"))
    with opened(tmp_path / "old", crowding=(again := MadeUpCrowding())) as gallery:
        assert again.calls == 0
        assert gallery.targets("staff") == Targets(claim="pooled")


# One process at a time


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


HOLD = """
import sys, time
from pathlib import Path
from app.gallery import SqliteGallery
gallery = SqliteGallery(Path(sys.argv[1]), encoder_digest=sys.argv[2])
print("open", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    with run_python(HOLD, str(tmp_path), DIGEST) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "open\n"
            with pytest.raises(GalleryInUse, match=str(holder.pid)) as refusal:
                SqliteGallery(tmp_path, encoder_digest=DIGEST)
            assert str(tmp_path) in refusal.value.message
        finally:
            holder.kill()
    assert holder.returncode == -signal.SIGKILL
    with opened(tmp_path) as gallery:
        gallery.check()


def test_a_second_gallery_in_one_process_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(GalleryInUse):
        SqliteGallery(tmp_path, encoder_digest=DIGEST)
    with opened(tmp_path):
        pass


def test_a_refused_opening_frees_the_directory(tmp_path: Path) -> None:
    with opened(tmp_path) as gallery:
        gallery.enroll("default", "ada", [template(axis(0))])
    with pytest.raises(EncoderMismatch):
        SqliteGallery(tmp_path, encoder_digest="sha256:other")
    with opened(tmp_path):
        pass


# Surviving


ENROL = """
import sys
from pathlib import Path
import numpy as np
from app.gallery import OnConflict, SqliteGallery
from app.gallery import NewTemplate

gallery = SqliteGallery(Path(sys.argv[1]), encoder_digest=sys.argv[2])
random = np.random.default_rng(int(sys.argv[3]))
for number in range(100000):
    vectors = random.standard_normal((3, 128))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    templates = [NewTemplate(f"{sys.argv[3]}-{number}-{index}", vector, 10.0) for index, vector in enumerate(vectors)]
    gallery.enroll("default", f"{sys.argv[3]}-{number}", templates)
    print(number, flush=True)
"""


@pytest.mark.parametrize("acknowledged_before_kill", [1, 40])
def test_killed_while_enrolling_nothing_acknowledged_is_lost(tmp_path: Path, acknowledged_before_kill: int) -> None:
    seed = str(acknowledged_before_kill)
    with run_python(ENROL, str(tmp_path), DIGEST, seed) as enroller:
        assert enroller.stdout is not None
        acknowledged = [enroller.stdout.readline() for _ in range(acknowledged_before_kill)]
        enroller.kill()
        acknowledged += enroller.stdout.readlines()
    # A number cut off by the kill was not acknowledged.
    numbers = [int(line) for line in acknowledged if line.endswith("\n")]
    assert len(numbers) >= acknowledged_before_kill
    random = np.random.default_rng(int(seed))
    with opened(tmp_path) as gallery:
        gallery.check()
        for number in numbers:
            vectors = random.standard_normal((3, 128))
            mean = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).sum(axis=0)
            (found,) = gallery.search("default", (mean / np.linalg.norm(mean)).astype(np.float32), 1)
            assert (found.subject_id, found.templates) == (f"{seed}-{number}", 3)
            assert found.distance < 1e-6
        subjects = gallery.subjects("default", after=None, limit=100000)
        assert {len(subject.templates) for subject in subjects} == {3}
        assert len(numbers) <= len(subjects) <= len(numbers) + 1


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Writing beyond this many bytes of a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_refuses_writes_and_changes_nothing(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    embeddings = [random_embedding(random) for _ in range(400)]
    with opened(tmp_path) as gallery:
        gallery.enroll("default", "before", [template(axis(0))])
        enrolled: list[int] = []

        def enroll_all() -> None:
            for index, embedding in enumerate(embeddings):
                gallery.enroll("default", f"s{index}", [template(embedding)])
                enrolled.append(index)

        with files_limited_to(200_000), pytest.raises(GalleryUnavailable, match="does not answer"):
            enroll_all()
        assert 0 < len(enrolled) < len(embeddings)
        with pytest.raises(SubjectNotFound):
            gallery.subject("default", f"s{len(enrolled)}")
        gallery.check()
        gallery.enroll("default", "after", [template(axis(1))])
        expected = {"before", "after", *(f"s{index}" for index in enrolled)}
        assert {found.subject_id for found in gallery.search("default", axis(0), 1000)} == expected
    with opened(tmp_path) as gallery:
        gallery.check()
        assert {subject.id for subject in gallery.subjects("default", after=None, limit=1000)} == expected


class FailingIndex(VectorIndex):
    """Fails at the next ``failures`` additions, having lost what it held."""

    failures = 0

    def add(self, keys: Keys, vectors: np.ndarray, crowding: np.ndarray) -> None:
        if FailingIndex.failures > 0:
            FailingIndex.failures -= 1
            self._index.reset()
            raise MemoryError("no room")
        super().add(keys, vectors, crowding)


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteGallery]:
    FailingIndex.failures = 0
    monkeypatch.setattr("app.gallery.sqlite.index.VectorIndex", FailingIndex)
    with opened(tmp_path) as gallery:
        gallery.enroll("default", "ada", [template(axis(0))])
        yield gallery


def test_an_index_that_fails_after_the_commit_is_rebuilt(failing: SqliteGallery) -> None:
    FailingIndex.failures = 1
    failing.enroll("default", "bob", [template(axis(1))])
    assert FailingIndex.failures == 0
    assert [found.subject_id for found in failing.search("default", axis(1), 5)] == ["bob", "ada"]
    failing.check()


def test_an_index_that_cannot_be_rebuilt_refuses_until_it_can(failing: SqliteGallery) -> None:
    FailingIndex.failures = 3
    failing.enroll("default", "bob", [template(axis(1))])
    with pytest.raises(GalleryUnavailable, match="no room"):
        failing.search("default", axis(1), 5)
    assert failing.compare("default", "bob", axis(1)).distance == 0.0
    assert [found.subject_id for found in failing.search("default", axis(1), 5)] == ["bob", "ada"]
    FailingIndex.failures = 4
    failing.enroll("default", "cy", [template(axis(2))])
    with pytest.raises(GalleryUnavailable):
        failing.check()
    FailingIndex.failures = 0
    failing.delete_subject("default", "bob")
    assert [found.subject_id for found in failing.search("default", axis(2), 5)] == ["cy", "ada"]


def test_check_notices_an_index_out_of_step(tmp_path: Path) -> None:
    with opened(tmp_path) as gallery:
        gallery.enroll("default", "ada", [template(axis(0)), template(axis(1))])
        gallery.check()
        with gallery._indexes["default"].reading() as vectors:
            vectors.remove(np.array([1], dtype=np.int64))
        with pytest.raises(GalleryUnavailable, match="holds 0 subjects, its database 1"):
            gallery.check()


# What does not belong here


def test_templates_of_another_encoder_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with opened(tmp_path) as gallery:
        gallery.enroll("default", "ada", [template(axis(0)), template(axis(0))])
    other = "sha256:" + "b" * 64
    with pytest.raises(EncoderMismatch) as refusal:
        SqliteGallery(tmp_path, encoder_digest=other)
    message = refusal.value.message
    for part in ("2 stored template(s)", "a" * 12, "b" * 12, "Serve with the encoder", "new data directory", "enrol"):
        assert part in message
    assert "a" * 13 not in message
    assert refusal.value.details == {"templates": 2, "stored_encoders": [DIGEST], "encoder": other}
    with opened(tmp_path) as gallery:
        assert gallery.search("default", axis(0), 1)[0].distance == 0.0
        gallery.delete_collection("default", force=True)
    with opened(tmp_path, other) as gallery:
        gallery.enroll("default", "ada", [template(axis(0))])
    with pytest.raises(EncoderMismatch):
        SqliteGallery(tmp_path, encoder_digest=DIGEST)


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(GalleryUnavailable, match="schema version 99"):
        SqliteGallery(tmp_path, encoder_digest=DIGEST)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / DATABASE_NAME
    path.write_bytes(b"certainly not a database " * 400)
    with pytest.raises(GalleryUnavailable, match="file is not a database"):
        SqliteGallery(tmp_path, encoder_digest=DIGEST)
    assert path.read_bytes().startswith(b"certainly")


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    random = np.random.default_rng(3)
    with opened(tmp_path) as gallery:
        for index in range(10):
            gallery.enroll("default", f"s{index}", [template(random_embedding(random)) for _ in range(20)])
    return tmp_path / DATABASE_NAME


@pytest.mark.parametrize("page", [5, 20, 40])
def test_a_damaged_page_is_refused(filled: Path, page: int) -> None:
    with filled.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(GalleryUnavailable, match=r"cannot be opened.*malformed.*backup"):
        SqliteGallery(filled.parent, encoder_digest=DIGEST)


def test_a_truncated_database_is_refused(filled: Path) -> None:
    os.truncate(filled, filled.stat().st_size // 2)
    with pytest.raises(GalleryUnavailable, match=r"cannot be opened.*backup"):
        SqliteGallery(filled.parent, encoder_digest=DIGEST)


# Erasure


@pytest.mark.parametrize("erase", ["subject", "template", "collection", "replace"])
def test_what_is_erased_is_in_no_file(tmp_path: Path, erase: str) -> None:
    random = np.random.default_rng(4)
    erased, kept = random_embedding(random), random_embedding(random)
    with opened(tmp_path) as gallery:
        gallery.create_collection("a")
        gallery.enroll("a", "ada", [template(erased, "t"), template(near(random, erased))], metadata={"x": "y" * 50})
        gallery.enroll("default", "bob", [template(kept)])
        assert is_on_disk(tmp_path, erased.tobytes())
        match erase:
            case "subject":
                gallery.delete_subject("a", "ada")
            case "template":
                gallery.delete_template("a", "ada", "t")
            case "collection":
                gallery.delete_collection("a", force=True)
            case "replace":
                gallery.enroll("a", "ada", [template(kept)], on_conflict=OnConflict.REPLACE)
        assert not is_on_disk(tmp_path, erased.tobytes())
        assert is_on_disk(tmp_path, kept.tobytes())
        assert is_on_disk(tmp_path, b"y" * 50) == (erase in ("template", "replace"))


def test_of_a_merged_duplicate_only_its_templates_are_in_a_file(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    first, second = random_embedding(random), random_embedding(random)
    with opened(tmp_path) as gallery:
        gallery.enroll("default", "ada", [template(first)])
        name, receipt = "the-duplicate" * 3, pending("k" * 20, "the duplicate's answer")
        gallery.enroll("default", name, [template(second, "t")], metadata={"x": "y" * 50}, receipt=receipt)
        traces = (name.encode(), b"y" * 50, b"k" * 20, b"the duplicate's answer")
        assert all(is_on_disk(tmp_path, trace) for trace in traces)
        gallery.merge_subjects("default", "ada", name)
        assert not any(is_on_disk(tmp_path, trace) for trace in traces)
        assert is_on_disk(tmp_path, second.tobytes())
        assert is_on_disk(tmp_path, first.tobytes())
    with opened(tmp_path) as gallery:
        assert [c.templates for c in gallery.search("default", second, 5)] == [2]
        gallery.check()


def test_receipts_are_not_kept_longer_than_they_count(tmp_path: Path) -> None:
    clock = Clock()
    with closing(SqliteGallery(tmp_path, encoder_digest=DIGEST, clock=clock)) as gallery:
        gallery.enroll("default", "ada", [template(axis(0))], receipt=pending("k1"))
        clock.now += timedelta(hours=25)
        gallery.enroll("default", "bob", [template(axis(1))], receipt=pending("k2"))
    assert stored_receipts(tmp_path) == ["k2"]
    clock.now += timedelta(hours=25)
    with closing(SqliteGallery(tmp_path, encoder_digest=DIGEST, clock=clock)):
        pass
    assert stored_receipts(tmp_path) == []


def stored_receipts(directory: Path) -> list[str]:
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection:
        return [row[0] for row in connection.execute("SELECT key FROM receipts")]


def test_ids_of_templates_are_unique_in_the_whole_database(tmp_path: Path) -> None:
    with opened(tmp_path) as gallery:
        gallery.create_collection("a")
        gallery.enroll("a", "ada", [template(axis(0), "same")])
        with pytest.raises(ValueError, match="same"):
            gallery.enroll("default", "ada", [template(axis(0), "same")])
        assert ids(gallery.subject("a", "ada")) == ["same"]


def test_what_was_erased_before_a_kill_is_gone_after_the_next_opening(tmp_path: Path) -> None:
    """A log left behind by a killed process is copied beside the database, as it would be found."""
    random = np.random.default_rng(6)
    erased = random_embedding(random)
    with opened(tmp_path / "live") as gallery:
        gallery.enroll("default", "ada", [template(erased)])
        with closing(sqlite3.connect(tmp_path / "live" / DATABASE_NAME)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT COUNT(*) FROM templates").fetchone()
            gallery.delete_subject("default", "ada")
            shutil.copytree(tmp_path / "live", tmp_path / "left")
    assert is_on_disk(tmp_path / "left", erased.tobytes())
    with opened(tmp_path / "left") as gallery:
        assert gallery.search("default", erased, 1) == []
        assert not is_on_disk(tmp_path / "left", erased.tobytes())
