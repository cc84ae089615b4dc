"""A key that is missing is an erasure only if the template is gone, too; else it is damage, and nobody is dropped."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.crowding import NoCrowding
from app.gallery import BackupError, SqliteGallery, TemplateDamaged
from app.gallery.records import Targets
from app.gallery.sqlite.backup import back_up, restore
from app.gallery.sqlite.database import DATABASE_NAME
from app.gallery.sqlite.inspection import inspect_directory
from app.gallery.sqlite.migration import migrate
from app.gallery.sqlite.snapshot import GalleryCopy
from app.gallery.sqlite.vault import FileKeyWrapper, Vault, require_vault
from tests.app.gallery.contract import MadeUpCrowding, axis, template
from tests.app.gallery.sqlite.support import DIGEST, enrol, everyone, people
from tests.app.gallery.sqlite.test_chips import pictured
from tests.app.gallery.sqlite.test_vault import encrypted, master_key

pytestmark = pytest.mark.slow

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PEOPLE = people(3)


@pytest.fixture
def wrapper(tmp_path: Path) -> FileKeyWrapper:
    return master_key(tmp_path / "master.key")


def lose_key(directory: Path, wrapper: FileKeyWrapper, template_id: str, table: str = "templates") -> None:
    """As damage would: the key of a template, or of its chip, is gone, and what it opens is not."""
    query = {
        "templates": "SELECT seal FROM templates WHERE id = ?",
        "chips": "SELECT h.seal FROM chips h JOIN templates t ON t.key = h.template WHERE t.id = ?",
    }[table]
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection:
        [(seal,)] = connection.execute(query, (template_id,))
    with closing(Vault(directory, wrapper)) as keys:
        keys.forget([seal])


@pytest.mark.parametrize("table", ["templates", "chips"])
def test_a_gallery_that_lacks_a_key_gives_no_backup(tmp_path: Path, wrapper: FileKeyWrapper, table: str) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery:
        gallery.update_collection("default", Targets(), keep_chips=True)
        for number in range(3):
            gallery.enroll("default", f"person-{number}", [pictured(number, f"t{number}")])
    lose_key(data, wrapper, "t1", table)
    with closing(Vault(data, wrapper)) as keys:
        with pytest.raises(BackupError, match=r"lacks the keys of 1 .*that nobody erased"):
            back_up(data, tmp_path / "backup", keys)
        assert not (tmp_path / "backup").exists()
        assert any("'person-1'" in problem for problem in inspect_directory(data, keys).problems)


def test_keys_of_another_gallery_restore_nothing(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    with encrypted(data, wrapper) as gallery, closing(Vault(data, wrapper)) as keys:
        enrol(gallery, PEOPLE)
        back_up(data, tmp_path / "backup", keys)
    with encrypted(other, wrapper) as gallery:
        enrol(gallery, people(2, 50))
    with closing(Vault(other, wrapper)) as keys, pytest.raises(BackupError, match="none of the keys of the 3"):
        restore(tmp_path / "backup", other, replace=True, now=NOW, keys=keys)
    with encrypted(other, wrapper) as gallery:
        assert everyone(gallery) == set(people(2, 50))


def test_a_restoration_says_how_many_are_left_out(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data, crowding = tmp_path / "data", MadeUpCrowding()
    with encrypted(data, wrapper) as gallery, closing(Vault(data, wrapper)) as keys:
        enrol(gallery, PEOPLE)
        gallery.enroll("default", "person-02", [template(axis(2), "second")])
        back_up(data, tmp_path / "backup", keys)
        gallery.delete_subject("default", "person-01")
        gallery.delete_template("default", "person-02", "second")
    with closing(Vault(data, wrapper)) as keys:
        assert restore(tmp_path / "backup", data, replace=True, now=NOW, keys=keys).left_out == 2
    keys = Vault(data, wrapper)
    with closing(SqliteGallery(data, encoder_digest=DIGEST, keys=keys, crowding=crowding)) as gallery:
        assert everyone(gallery) == {"person-00", "person-02"}
        found = gallery.compare("default", "person-02", PEOPLE["person-02"])
        assert found.crowding == pytest.approx(float(crowding(PEOPLE["person-02"][None])[0]))


# Erasures while a command reads


def fill(gallery: SqliteGallery) -> None:
    """Of ada both templates go, of eve one, of grace only the chip."""
    gallery.update_collection("default", Targets(), keep_chips=True)
    gallery.enroll("default", "ada", [pictured(0, "a0"), pictured(1, "a1")])
    gallery.enroll("default", "eve", [pictured(2, "e0"), pictured(3, "e1")])
    gallery.create_collection("staff", keep_chips=True)
    gallery.enroll("staff", "grace", [pictured(4, "g0")])


def erase(gallery: SqliteGallery) -> None:
    gallery.delete_subject("default", "ada")
    gallery.delete_template("default", "eve", "e0")
    gallery.update_collection("staff", Targets(), keep_chips=False)


@pytest.fixture
def after_snapshot(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Does something once an inspection has its snapshot, before it reads anyone."""

    def do(work: Callable[[], None]) -> None:
        def wait(connection: sqlite3.Connection, keys: Vault | None) -> None:
            require_vault(connection, keys)
            if connection.in_transaction:
                monkeypatch.setattr("app.gallery.sqlite.inspection.require_vault", require_vault)
                work()

        monkeypatch.setattr("app.gallery.sqlite.inspection.require_vault", wait)

    return do


def test_who_is_erased_during_a_check_is_not_damaged(
    tmp_path: Path, wrapper: FileKeyWrapper, after_snapshot: Callable[[Callable[[], None]], None]
) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery, closing(Vault(data, wrapper)) as keys:
        fill(gallery)
        gallery.enroll("default", "lost", [pictured(5, "l0")])
        after_snapshot(lambda: erase(gallery))
        found = inspect_directory(data, keys)
        assert found.problems == ()
        assert found.subjects == 4, "as it was when the check began"
        assert everyone(gallery) == {"eve", "lost"}
    lose_key(data, wrapper, "l0")
    with closing(Vault(data, wrapper)) as keys:
        [problem] = inspect_directory(data, keys).problems
        assert "'lost'" in problem


def test_who_is_erased_during_a_backup_does_not_spoil_it(
    tmp_path: Path, wrapper: FileKeyWrapper, after_snapshot: Callable[[Callable[[], None]], None]
) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery, closing(Vault(data, wrapper)) as keys:
        fill(gallery)
        after_snapshot(lambda: erase(gallery))
        assert back_up(data, tmp_path / "backup", keys).problems == ()
    with closing(Vault(data, wrapper)) as keys:
        assert restore(tmp_path / "backup", data, replace=True, now=NOW, keys=keys).left_out == 3
    with encrypted(data, wrapper) as gallery:
        assert everyone(gallery) == {"eve"}
        assert everyone(gallery, "staff") == {"grace"}
        gallery.check()


def test_who_is_erased_while_a_backup_is_copied_is_left_out(
    tmp_path: Path, wrapper: FileKeyWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery, closing(Vault(data, wrapper)) as keys:
        fill(gallery)

        def wait(connection: sqlite3.Connection, scripts: Sequence[str]) -> None:
            erase(gallery)
            migrate(connection, scripts)

        monkeypatch.setattr("app.gallery.sqlite.backup.migrate", wait)
        found = back_up(data, tmp_path / "backup", keys)
        assert (found.subjects, found.templates, found.problems) == (2, 2, ())


def test_a_copy_in_memory_answers_although_its_keys_are_destroyed(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data, crowding = tmp_path / "data", MadeUpCrowding()
    keys = Vault(data, wrapper)
    with closing(SqliteGallery(data, encoder_digest=DIGEST, keys=keys, crowding=crowding)) as gallery:
        fill(gallery)
        expected = gallery.search("default", axis(0), 5)
        copy = GalleryCopy(data, encoder_digest=DIGEST, crowding=crowding, keys=Vault(data, wrapper))
        with closing(copy):
            erase(gallery)
            copy.check()
            assert copy.search("default", axis(0), 5) == expected
            assert [len(s.template_ids) for s in copy.subject_vectors("default", after=None, limit=9)] == [2, 2]


def test_who_is_erased_before_a_copy_is_decrypted_is_left_out(
    tmp_path: Path, wrapper: FileKeyWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, crowding = tmp_path / "data", MadeUpCrowding()
    keys = Vault(data, wrapper)
    with closing(SqliteGallery(data, encoder_digest=DIGEST, keys=keys, crowding=crowding)) as gallery:
        fill(gallery)

        def wait(connection: sqlite3.Connection, keys: Vault | None) -> None:
            erase(gallery)
            require_vault(connection, keys)

        monkeypatch.setattr("app.gallery.sqlite.snapshot.require_vault", wait)
        copy = GalleryCopy(data, encoder_digest=DIGEST, crowding=crowding, keys=Vault(data, wrapper))
        with closing(copy):
            copy.check()
            assert everyone(copy) == {"eve"}
            assert copy.search("default", axis(3), 5) == gallery.search("default", axis(3), 5)


def test_a_copy_names_a_template_that_lacks_its_key(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery:
        enrol(gallery, PEOPLE)
    lose_key(data, wrapper, "person-01-template")
    copy = GalleryCopy(data, encoder_digest=DIGEST, crowding=NoCrowding(), keys=Vault(data, wrapper))
    with closing(copy), pytest.raises(TemplateDamaged, match="person-01"):
        copy.compare("default", "person-01", PEOPLE["person-01"])
