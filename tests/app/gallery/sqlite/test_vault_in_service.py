"""The database of keys while a service runs: it is watched, kept in one file, and rid of what was erased."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from app.gallery import EncryptionKeyMissing, GalleryUnavailable
from app.gallery.sqlite.database import DATABASE_NAME
from app.gallery.sqlite.vault import VAULT_NAME, FileKeyWrapper, Vault
from tests.app.gallery.contract import axis, template
from tests.app.gallery.sqlite.support import enrol, everyone, is_on_disk, people
from tests.app.gallery.sqlite.test_loss import replaced
from tests.app.gallery.sqlite.test_vault import encrypted, kept_keys, master_key, raises
from tests.app.process import wait_until

pytestmark = pytest.mark.slow

PEOPLE = people(5)


@pytest.fixture
def wrapper(tmp_path: Path) -> FileKeyWrapper:
    return master_key(tmp_path / "master.key")


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows writes follows them at once."""
    monkeypatch.setattr("app.gallery.sqlite.upkeep.PAUSE_S", 0.05)


@pytest.fixture
def no_upkeep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.gallery.sqlite.upkeep.PAUSE_S", 3600.0)
    monkeypatch.setattr("app.gallery.sqlite.upkeep.LONGEST_S", 3600.0)


def pending(directory: Path) -> int:
    """How many erased seals wait for their keys to be destroyed."""
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM erased_seals").fetchone()[0])


def wrapped_key(directory: Path, template_id: str) -> bytes:
    """The key of a template as it lies in the database of keys."""
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection:
        [(seal,)] = connection.execute("SELECT seal FROM templates WHERE id = ?", (template_id,))
    with closing(sqlite3.connect(directory / VAULT_NAME)) as connection:
        [(wrapped,)] = connection.execute("SELECT wrapped FROM keys WHERE id = ?", (seal[:16],))
    return bytes(wrapped)


@pytest.mark.parametrize("name", [VAULT_NAME, f"{VAULT_NAME}-wal"])
@pytest.mark.parametrize("change", [Path.unlink, replaced])
def test_keys_that_vanish_under_the_service_are_noticed(
    tmp_path: Path, wrapper: FileKeyWrapper, name: str, change: Callable[[Path], None]
) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery:
        enrol(gallery, PEOPLE)
        change(data / name)
        for call in (
            lambda: gallery.enroll("default", "late", [template(axis(0))]),
            lambda: gallery.delete_subject("default", "person-00"),
            lambda: gallery.search("default", axis(0), 1),
            gallery.check,
        ):
            with pytest.raises(GalleryUnavailable, match=r"template-keys.*while the service runs.*Stop the service"):
                call()


def test_keys_that_are_put_back_open_everyone_who_was_acknowledged(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery:
        enrol(gallery, PEOPLE)
        (data / VAULT_NAME).rename(tmp_path / "away")
        with pytest.raises(GalleryUnavailable, match="while the service runs"):
            gallery.enroll("default", "late", [template(axis(0))])
    (tmp_path / "away").rename(data / VAULT_NAME)
    with encrypted(data, wrapper) as gallery:
        assert everyone(gallery) == set(PEOPLE)
        gallery.check()


@pytest.mark.usefixtures("short_pause")
def test_soon_after_the_last_write_the_file_of_keys_alone_holds_them_all(
    tmp_path: Path, wrapper: FileKeyWrapper
) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    copy.mkdir()
    logs = [data / f"{name}-wal" for name in (DATABASE_NAME, VAULT_NAME)]
    with encrypted(data, wrapper) as gallery:
        enrol(gallery, PEOPLE)
        wait_until(lambda: all(log.stat().st_size == 0 for log in logs), "both logs are empty")
        for name in (DATABASE_NAME, VAULT_NAME):
            shutil.copy(data / name, copy)
    with encrypted(copy, wrapper) as gallery:
        assert everyone(gallery) == set(PEOPLE)
        gallery.check()


@pytest.mark.usefixtures("no_upkeep")
def test_keys_whose_destruction_was_interrupted_are_destroyed_when_it_starts_again(
    tmp_path: Path, wrapper: FileKeyWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery:
        enrol(gallery, PEOPLE)
        with monkeypatch.context() as broken:
            broken.setattr(Vault, "forget", raises)
            gallery.delete_subject("default", "person-01")
    assert kept_keys(data) == len(PEOPLE)
    with encrypted(data, wrapper):
        assert kept_keys(data) == len(PEOPLE) - 1
        assert pending(data) == 0


@pytest.mark.usefixtures("short_pause")
def test_if_that_fails_it_is_tried_again_without_a_write(
    tmp_path: Path, wrapper: FileKeyWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    with monkeypatch.context() as broken:
        broken.setattr(Vault, "forget", raises)
        with encrypted(data, wrapper) as gallery:
            enrol(gallery, PEOPLE)
            gallery.delete_subject("default", "person-01")
    with monkeypatch.context() as broken:
        broken.setattr(Vault, "forget", raises)
        opened = encrypted(data, wrapper)
    with opened:
        wait_until(lambda: kept_keys(data) == len(PEOPLE) - 1, "the key is destroyed")


@pytest.mark.usefixtures("short_pause")
def test_a_key_that_the_log_still_holds_counts_as_one_to_destroy(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery:
        enrol(gallery, PEOPLE)
        key = wrapped_key(data, "person-01-template")
        with closing(sqlite3.connect(data / VAULT_NAME, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT COUNT(*) FROM keys").fetchone()
            gallery.delete_subject("default", "person-01")
            assert is_on_disk(data, key)
            assert pending(data) == 1
            gallery.enroll("default", "meanwhile", [template(axis(0))])
            reader.rollback()
        wait_until(lambda: pending(data) == 0, "the key is destroyed")
        assert not is_on_disk(data, key)
        gallery.check()


def test_a_rotation_says_that_the_log_still_holds_old_keys(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery, closing(Vault(data, wrapper)) as keys:
        enrol(gallery, PEOPLE)
        with closing(sqlite3.connect(data / VAULT_NAME, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT COUNT(*) FROM keys").fetchone()
            assert keys.rotate() == len(PEOPLE)
            with pytest.raises(GalleryUnavailable, match="another process reads it"):
                keys.require_empty_log()
            reader.rollback()
        keys.require_empty_log()
        assert gallery.compare("default", "person-01", PEOPLE["person-01"]).distance < 1e-6


def test_a_service_that_was_not_given_the_new_master_key_says_so(tmp_path: Path) -> None:
    data, own, edited = tmp_path / "data", tmp_path / "credential", tmp_path / "master.key"
    old, new = os.urandom(32), os.urandom(32)
    with encrypted(data, master_key(own, old)) as gallery:
        enrol(gallery, PEOPLE)
        with closing(Vault(data, master_key(edited, new, old))) as command:
            command.rotate()
        for call in (
            gallery.check,
            lambda: gallery.search("default", axis(0), 1),
            lambda: gallery.compare("default", "person-01", PEOPLE["person-01"]),
            lambda: gallery.enroll("default", "late", [template(axis(0))]),
        ):
            with pytest.raises(EncryptionKeyMissing, match="not the one given"):
                call()
        # As soon as it has the key, it needs no restart.
        master_key(own, new)
        gallery.check()
        assert gallery.compare("default", "person-01", PEOPLE["person-01"]).distance < 1e-6
        assert everyone(gallery) == set(PEOPLE)
