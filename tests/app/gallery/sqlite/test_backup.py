from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from app.gallery import BackupError, GalleryInUse, GalleryUnavailable, SqliteGallery, Targets
from app.gallery.sqlite.backup import back_up, restore
from app.gallery.sqlite.database import DATABASE_NAME
from app.gallery.sqlite.inspection import inspect_directory
from tests.app.gallery.contract import MadeUpCrowding, axis, pending, random_embedding, template
from tests.app.gallery.sqlite.support import DIGEST, editing, enrol, everyone, opened, people
from tests.app.gallery.sqlite.test_gallery import database_of_version

pytestmark = pytest.mark.slow

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PEOPLE = people(20)


def fill(gallery: SqliteGallery) -> None:
    enrol(gallery, PEOPLE)
    gallery.create_collection("staff", Targets(fmr=1e-3, claim="pooled"))
    gallery.enroll("staff", "ada", [template(axis(i)) for i in range(10)], metadata={"n": [1]}, receipt=pending("k"))
    gallery.delete_subject("default", "person-03")


def answers(gallery: SqliteGallery) -> list[object]:
    gallery.check()
    searches = [gallery.search(c, e, 50) for c in ("default", "staff") for e in (*PEOPLE.values(), axis(0), axis(9))]
    subjects = [gallery.subjects(c, after=None, limit=100) for c in ("default", "staff")]
    return [searches, subjects, gallery.collections(), gallery.receipt("k")]


def only_for_its_owner(path: Path) -> bool:
    return path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("running", [True, False])
def test_a_backup_that_is_restored_answers_the_same(tmp_path: Path, running: bool) -> None:
    backup, crowding = tmp_path / "backup.sqlite3", MadeUpCrowding()
    with opened(tmp_path / "data", crowding=crowding) as gallery:
        fill(gallery)
        expected = answers(gallery)
        if running:
            found = back_up(tmp_path / "data", backup)
            gallery.enroll("default", "later", [template(axis(5))])
            gallery.check()
    if not running:
        found = back_up(tmp_path / "data", backup)
    assert (found.collections, found.subjects, found.templates, found.problems) == (2, 20, 29, ())
    assert only_for_its_owner(backup)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.sqlite3", "data"]
    assert restore(backup, tmp_path / "other" / "data", replace=False, now=NOW).aside is None
    assert all(map(only_for_its_owner, (tmp_path / "other" / "data").iterdir()))
    with opened(tmp_path / "other" / "data", crowding=crowding) as gallery:
        assert answers(gallery) == expected
        gallery.enroll("default", "later", [template(axis(5))])


def test_a_restored_backup_replaces_a_gallery_only_on_request_and_keeps_it(tmp_path: Path) -> None:
    backup, data = tmp_path / "backup.sqlite3", tmp_path / "data"
    with opened(data) as gallery:
        enrol(gallery, people(3))
        back_up(data, backup)
        gallery.enroll("default", "later", [template(axis(5))])
        with pytest.raises(GalleryInUse):
            restore(backup, data, replace=True, now=NOW)
    with pytest.raises(BackupError, match="--replace"):
        restore(backup, data, replace=False, now=NOW)
    aside = restore(backup, data, replace=True, now=NOW).aside
    assert aside is not None
    with opened(data) as gallery:
        assert everyone(gallery) == set(people(3))
    with opened(aside) as gallery:
        assert everyone(gallery) == {*people(3), "later"}


def test_a_lost_database_is_restored(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as gallery:
        enrol(gallery, people(3))
    back_up(tmp_path / "data", tmp_path / "backup")
    (tmp_path / "data" / DATABASE_NAME).unlink()
    with pytest.raises(GalleryUnavailable, match="tessera gallery restore"):
        SqliteGallery(tmp_path / "data", encoder_digest=DIGEST)
    restore(tmp_path / "backup", tmp_path / "data", replace=True, now=NOW)
    with opened(tmp_path / "data") as gallery:
        assert everyone(gallery) == set(people(3))


def test_a_backup_of_an_earlier_release_is_brought_up(tmp_path: Path) -> None:
    subjects = database_of_version(2, tmp_path / "old")
    back_up(tmp_path / "old", tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "data", replace=False, now=NOW)
    with opened(tmp_path / "data") as gallery:
        assert everyone(gallery, "staff") == set(subjects)
        gallery.check()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as gallery:
        enrol(gallery, people(3))
    (tmp_path / "file").write_text("precious")
    with pytest.raises(BackupError, match="nothing is overwritten"):
        back_up(tmp_path / "data", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
    for directory, target in ((tmp_path / "none", tmp_path / "new"), (tmp_path / "data", tmp_path / "none" / "new")):
        with pytest.raises(BackupError):
            back_up(directory, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "file"]


def test_a_damaged_gallery_gives_no_backup(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as gallery:
        enrol(gallery, people(3))
    with editing(tmp_path / "data") as connection:
        connection.execute("UPDATE templates SET norm = 1 WHERE key = 2")
    with pytest.raises(BackupError, match=r"not sound.*person-01"):
        back_up(tmp_path / "data", tmp_path / "backup")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flipped(path: Path) -> None:
    content, blob = bytearray(path.read_bytes()), people(3)["person-01"].tobytes()
    content[content.index(blob)] ^= 1
    path.write_bytes(content)


def noise(path: Path) -> None:
    path.write_bytes(b"certainly not a database " * 400)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def with_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").write_bytes(b"x")


@pytest.mark.parametrize("damage", [cut, flipped, noise, empty, with_log, Path.unlink])
def test_a_damaged_backup_is_refused_and_nothing_is_changed(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    with opened(tmp_path / "data") as gallery:
        enrol(gallery, people(3))
    back_up(tmp_path / "data", tmp_path / "backup")
    damage(tmp_path / "backup")
    with opened(tmp_path / "data") as gallery:
        gallery.enroll("default", "later", [template(axis(5))])
    before = {path.name for path in (tmp_path / "data").iterdir()}
    with pytest.raises(BackupError):
        restore(tmp_path / "backup", tmp_path / "data", replace=True, now=NOW)
    assert {path.name for path in (tmp_path / "data").iterdir()} == before
    with opened(tmp_path / "data") as gallery:
        assert everyone(gallery) == {*people(3), "later"}


def test_a_restoration_that_is_cut_off_is_not_taken_for_an_empty_gallery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "data") as gallery:
        enrol(gallery, people(3))
    back_up(tmp_path / "data", tmp_path / "backup")

    class Killed(BaseException):
        pass

    def rename(self: Path, target: Path) -> Path:
        if self.name == "gallery.restoring":
            raise Killed
        return original(self, target)

    original = Path.rename
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(Killed):
        restore(tmp_path / "backup", tmp_path / "data", replace=True, now=NOW)
    monkeypatch.undo()
    with pytest.raises(GalleryUnavailable, match="is missing"):
        SqliteGallery(tmp_path / "data", encoder_digest=DIGEST)
    restore(tmp_path / "backup", tmp_path / "data", replace=True, now=NOW)
    with opened(tmp_path / "data") as gallery:
        assert everyone(gallery) == set(people(3))


def test_a_gallery_that_lost_writes_gives_no_backup(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as gallery:
        enrol(gallery, people(3))
    shutil.copy(tmp_path / "data" / DATABASE_NAME, tmp_path / "old")
    with opened(tmp_path / "data") as gallery:
        gallery.enroll("default", "later", [template(axis(5))])
    shutil.copy(tmp_path / "old", tmp_path / "data" / DATABASE_NAME)
    with pytest.raises(GalleryUnavailable, match="lacks the last 1"):
        back_up(tmp_path / "data", tmp_path / "backup")
    assert any("lacks the last 1" in problem for problem in inspect_directory(tmp_path / "data").problems)


def test_backups_of_a_gallery_that_is_written_meanwhile_are_whole(tmp_path: Path) -> None:
    with closing(SqliteGallery(tmp_path / "data", encoder_digest=DIGEST)) as gallery:
        done = threading.Event()

        def write() -> None:
            random = np.random.default_rng(0)
            for number in range(10_000):
                if done.is_set():
                    return
                gallery.enroll("default", f"s{number:05}", [template(random_embedding(random))])

        writer = threading.Thread(target=write)
        writer.start()
        try:
            counts = [back_up(tmp_path / "data", tmp_path / f"backup-{n}").subjects for n in range(5)]
        finally:
            done.set()
            writer.join()
        assert counts == sorted(counts)
    restore(tmp_path / "backup-4", tmp_path / "other", replace=False, now=NOW)
    with opened(tmp_path / "other") as restored:
        assert everyone(restored) == {f"s{number:05}" for number in range(counts[-1])}
