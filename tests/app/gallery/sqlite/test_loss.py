"""Acknowledged writes that are missing, whatever took them, are noticed; an idle database needs no log."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from app.gallery import GalleryUnavailable, SqliteGallery
from app.gallery.sqlite.database import DATABASE_NAME
from app.gallery.sqlite.inspection import accept_loss
from app.gallery.sqlite.locks import LOCK_NAME
from app.gallery.sqlite.sequence import SEQUENCE_NAME, read_position
from tests.app.gallery.contract import axis, template
from tests.app.gallery.sqlite.support import DIGEST, enrol, everyone, opened, people
from tests.app.process import wait_until

pytestmark = pytest.mark.slow

LOG_NAME = f"{DATABASE_NAME}-wal"


@pytest.fixture
def no_upkeep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log stays as it is, as in the seconds after a write."""
    monkeypatch.setattr("app.gallery.sqlite.upkeep.PAUSE_S", 3600.0)
    monkeypatch.setattr("app.gallery.sqlite.upkeep.LONGEST_S", 3600.0)


@pytest.fixture
def left(tmp_path: Path, no_upkeep: None) -> Path:
    """What a process that was killed after 41 enrolments leaves behind."""
    with opened(tmp_path / "live") as gallery:
        enrol(gallery, people(41))
        shutil.copytree(tmp_path / "live", tmp_path / "left")
    return tmp_path / "left"


def test_what_a_killed_process_leaves_is_whole(left: Path) -> None:
    with opened(left) as gallery:
        assert everyone(gallery) == set(people(41))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_flipped_bit_in_the_log_is_noticed_and_can_be_accepted(left: Path, share: float) -> None:
    log = left / LOG_NAME
    content = bytearray(log.read_bytes())
    content[int(share * len(content))] ^= 1
    log.write_bytes(content)
    for _ in range(2):
        with pytest.raises(GalleryUnavailable, match=r"lacks the last \d+ acknowledged.*--accept-loss") as refusal:
            SqliteGallery(left, encoder_digest=DIGEST)
    missing = refusal.value.details["missing_writes"]
    accept_loss(left)
    with opened(left) as gallery:
        assert len(everyone(gallery)) in (41 - missing, 42 - missing)
        gallery.check()
    with opened(left):
        pass


def test_a_missing_log_is_noticed(left: Path) -> None:
    (left / LOG_NAME).unlink()
    with pytest.raises(GalleryUnavailable, match="acknowledged"):
        SqliteGallery(left, encoder_digest=DIGEST)


def test_an_older_copy_in_the_place_of_the_database_is_noticed(tmp_path: Path) -> None:
    with opened(tmp_path) as gallery:
        enrol(gallery, people(3))
    older = (tmp_path / DATABASE_NAME).read_bytes()
    with opened(tmp_path) as gallery:
        enrol(gallery, people(2, 50))
    (tmp_path / DATABASE_NAME).write_bytes(older)
    with pytest.raises(GalleryUnavailable, match="lacks the last 2 acknowledged"):
        SqliteGallery(tmp_path, encoder_digest=DIGEST)


def test_another_database_in_its_place_is_noticed(tmp_path: Path) -> None:
    for name in ("one", "other"):
        with opened(tmp_path / name) as gallery:
            enrol(gallery, people(3))
    shutil.copy(tmp_path / "other" / DATABASE_NAME, tmp_path / "one")
    with pytest.raises(GalleryUnavailable, match="not the one that was served"):
        SqliteGallery(tmp_path / "one", encoder_digest=DIGEST)
    accept_loss(tmp_path / "one")
    with opened(tmp_path / "one") as gallery:
        assert len(everyone(gallery)) == 3


@pytest.mark.parametrize("emptied", [False, True])
def test_a_database_that_is_gone_is_not_made_anew_unless_the_loss_is_accepted(tmp_path: Path, emptied: bool) -> None:
    with opened(tmp_path) as gallery:
        enrol(gallery, people(3))
    path = tmp_path / DATABASE_NAME
    path.write_bytes(b"") if emptied else path.unlink()
    with pytest.raises(GalleryUnavailable, match="is missing"):
        SqliteGallery(tmp_path, encoder_digest=DIGEST)
    assert path.exists() == emptied
    accept_loss(tmp_path)
    with opened(tmp_path) as gallery:
        assert everyone(gallery) == set()


def test_a_position_that_cannot_be_read_is_no_loss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(tmp_path) as gallery:
        enrol(gallery, people(3))
    for content in (b"", b"\xff" * 80, b"tessera 1 x 5 00000000\n"):
        (tmp_path / SEQUENCE_NAME).write_bytes(content)
        with caplog.at_level(logging.WARNING), opened(tmp_path) as gallery:
            assert len(everyone(gallery)) == 3
        assert "damaged: whether acknowledged writes are missing" in caplog.text
        assert read_position(tmp_path) is not None
        caplog.clear()
    (tmp_path / SEQUENCE_NAME).unlink()
    with opened(tmp_path) as gallery:
        assert len(everyone(gallery)) == 3


def test_soon_after_the_last_write_the_database_alone_holds_everyone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.gallery.sqlite.upkeep.PAUSE_S", 0.05)
    with opened(tmp_path / "live") as gallery:
        enrol(gallery, people(41))
        wait_until(lambda: (tmp_path / "live" / LOG_NAME).stat().st_size == 0, "the log is empty")
        (tmp_path / "copy").mkdir()
        shutil.copy(tmp_path / "live" / DATABASE_NAME, tmp_path / "copy")
        with opened(tmp_path / "copy") as copy:
            assert everyone(copy) == set(people(41))
        enrol(gallery, people(1, 50))


def test_writes_that_never_pause_are_moved_into_the_database_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.gallery.sqlite.upkeep.PAUSE_S", 3600.0)
    monkeypatch.setattr("app.gallery.sqlite.upkeep.LONGEST_S", 0.1)
    with opened(tmp_path) as gallery:
        enrol(gallery, people(5))
        wait_until(lambda: (tmp_path / LOG_NAME).stat().st_size == 0, "the log is empty")


def replaced(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("name", [LOCK_NAME, DATABASE_NAME, LOG_NAME, SEQUENCE_NAME, "."])
@pytest.mark.parametrize("change", [Path.unlink, replaced])
def test_files_that_vanish_under_the_service_are_noticed(
    tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    directory = tmp_path / "data"
    with opened(directory) as gallery:
        enrol(gallery, people(3))
        if name == ".":
            directory.rename(tmp_path / "away")
            if change is replaced:
                shutil.copytree(tmp_path / "away", directory)
        else:
            change(directory / name)
        for call in (
            lambda: gallery.enroll("default", "late", [template(axis(0))]),
            lambda: gallery.delete_subject("default", "person-00"),
            lambda: gallery.search("default", axis(0), 1),
            lambda: gallery.subject("default", "person-00"),
            gallery.check,
        ):
            with pytest.raises(GalleryUnavailable, match=r"while the service runs.*Stop the service"):
                call()


# Others who hold the database


def test_a_lock_of_another_process_keeps_nobody_waiting_for_long(tmp_path: Path) -> None:
    with opened(tmp_path) as gallery, closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as other:
        enrol(gallery, people(1))
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()

        def write(index: int) -> float:
            with pytest.raises(GalleryUnavailable, match=r"Another process holds it|other writes have taken"):
                gallery.enroll("default", f"late-{index}", [template(axis(index))])
            return time.monotonic() - started

        with ThreadPoolExecutor(8) as pool:
            writes = [pool.submit(write, index) for index in range(8)]
            assert gallery.search("default", axis(0), 1)[0].subject_id == "person-00"
            # One after the other, they would take 16 s.
            assert max(each.result() for each in writes) < 6
        other.rollback()
        gallery.enroll("default", "late", [template(axis(0))])
        assert everyone(gallery) == {"person-00", "late"}
