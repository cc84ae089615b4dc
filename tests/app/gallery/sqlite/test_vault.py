"""Templates encrypted at rest: the same answers, nothing readable, and erasure that reaches into backups."""

from __future__ import annotations

import base64
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.gallery import (
    BackupError,
    EncryptionKeyMissing,
    Gallery,
    GalleryUnavailable,
    OnConflict,
    SqliteGallery,
    TemplateDamaged,
)
from app.gallery.sqlite.backup import back_up, back_up_keys, restore
from app.gallery.sqlite.inspection import inspect_directory
from app.gallery.sqlite.vault import VAULT_NAME, FileKeyWrapper, Vault, load_wrapper
from tests.app.gallery.contract import Clock, GalleryContract, MadeUpCrowding, OpenedWith, axis, template
from tests.app.gallery.sqlite.support import DIGEST, editing, enrol, everyone, is_on_disk, opened, people

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PEOPLE = people(12)


def master_key(path: Path, *keys: bytes) -> FileKeyWrapper:
    path.write_text("\n".join(key.hex() for key in keys or (os.urandom(32),)) + "\n")
    return FileKeyWrapper(path)


@pytest.fixture
def wrapper(tmp_path: Path) -> FileKeyWrapper:
    return master_key(tmp_path / "master.key")


def encrypted(directory: Path, wrapper: FileKeyWrapper) -> closing[SqliteGallery]:
    return closing(SqliteGallery(directory, encoder_digest=DIGEST, keys=Vault(directory, wrapper)))


def readable(directory: Path) -> list[str]:
    """Whose embedding lies open in a file of the directory."""
    return [name for name, embedding in PEOPLE.items() if is_on_disk(directory, embedding.tobytes()[:64])]


def kept_keys(directory: Path) -> int:
    with closing(sqlite3.connect(directory / VAULT_NAME)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM keys").fetchone()[0])


@pytest.mark.slow
class TestEncryptedGallery(GalleryContract):
    """Everything that holds for a gallery holds for an encrypted one."""

    @pytest.fixture
    def gallery(self, tmp_path: Path, clock: Clock, wrapper: FileKeyWrapper) -> Iterator[Gallery]:
        data = tmp_path / "data"
        with closing(SqliteGallery(data, encoder_digest=DIGEST, clock=clock, keys=Vault(data, wrapper))) as gallery:
            yield gallery

    @pytest.fixture
    def crowded(
        self, tmp_path: Path, clock: Clock, crowding: MadeUpCrowding, wrapper: FileKeyWrapper
    ) -> Iterator[Gallery]:
        data = tmp_path / "crowded"
        keys = Vault(data, wrapper)
        with closing(SqliteGallery(data, encoder_digest=DIGEST, clock=clock, crowding=crowding, keys=keys)) as gallery:
            yield gallery
            gallery.check()

    @pytest.fixture
    def opened_with(self, tmp_path: Path, crowding: MadeUpCrowding, wrapper: FileKeyWrapper) -> OpenedWith:
        data = tmp_path / "again"
        return lambda most: closing(
            SqliteGallery(data, encoder_digest=DIGEST, crowding=crowding, most_fused=most, keys=Vault(data, wrapper))
        )


def test_nothing_is_readable_and_everybody_is_found_again(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery:
        enrol(gallery, PEOPLE)
        expected = [gallery.search("default", embedding, 3) for embedding in PEOPLE.values()]
        assert readable(data) == []
    assert readable(data) == []
    assert kept_keys(data) == len(PEOPLE)
    with encrypted(data, wrapper) as gallery:
        assert [gallery.search("default", embedding, 3) for embedding in PEOPLE.values()] == expected
        gallery.check()
        assert inspect_directory(data, Vault(data, wrapper)).problems == ()


def test_an_open_gallery_is_encrypted_when_it_is_opened_with_keys(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data = tmp_path / "data"
    with opened(data) as gallery:
        enrol(gallery, PEOPLE)
    assert len(readable(data)) == len(PEOPLE)
    with encrypted(data, wrapper) as gallery:
        assert everyone(gallery) == set(PEOPLE)
        gallery.check()
    assert readable(data) == []


def test_without_its_master_key_it_is_refused_and_stays_as_it_is(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery:
        enrol(gallery, PEOPLE)
    with pytest.raises(EncryptionKeyMissing, match="MASTER_KEY_FILE"):
        opened(data)
    for command in (inspect_directory, lambda d: back_up(d, tmp_path / "backup")):
        with pytest.raises(EncryptionKeyMissing):
            command(data)
    with pytest.raises(EncryptionKeyMissing, match="not the one given"):
        Vault(data, master_key(tmp_path / "other.key"))
    with encrypted(data, wrapper) as gallery:
        assert everyone(gallery) == set(PEOPLE)


def test_erasing_destroys_keys_and_what_backups_hold(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    with encrypted(data, wrapper) as gallery:
        enrol(gallery, PEOPLE)
        gallery.enroll("default", "person-03", [template(axis(3), "second")])
        gallery.create_collection("staff")
        gallery.enroll("staff", "ada", [template(axis(1), "staff-template")])
        keys = Vault(data, wrapper)
        back_up(data, backup, keys)
        keys.close()
        gallery.delete_subject("default", "person-01")
        gallery.enroll("default", "person-02", [template(axis(2), "new")], on_conflict=OnConflict.REPLACE)
        gallery.delete_template("default", "person-03", "second")
        gallery.delete_collection("staff", force=True)
    # Of the erased templates there is no key any more; one was made for the replacement.
    assert kept_keys(data) == len(PEOPLE) - 1
    keys = Vault(data, wrapper)
    restore(backup, data, replace=True, now=NOW, keys=keys)
    keys.close()
    with encrypted(data, wrapper) as gallery:
        assert everyone(gallery) == set(PEOPLE) - {"person-01", "person-02"}
        assert [t.id for t in gallery.subject("default", "person-03").templates] == ["person-03-template"]
        assert everyone(gallery, "staff") == set()
        gallery.check()


def test_a_key_that_cannot_be_destroyed_now_is_destroyed_later(
    tmp_path: Path, wrapper: FileKeyWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery:
        enrol(gallery, PEOPLE)
        with monkeypatch.context() as broken:
            broken.setattr(Vault, "forget", raises)
            gallery.delete_subject("default", "person-01")
            assert kept_keys(data) == len(PEOPLE)
        gallery.delete_subject("default", "person-02")
        assert kept_keys(data) == len(PEOPLE) - 2


def raises(*_: object) -> None:
    raise GalleryUnavailable("The disk is full.")


def test_going_back_to_what_a_restoration_replaced_loses_nobody(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    with encrypted(data, wrapper) as gallery:
        enrol(gallery, dict(list(PEOPLE.items())[:3]))
        keys = Vault(data, wrapper)
        back_up(data, backup, keys)
        enrol(gallery, dict(list(PEOPLE.items())[3:]))
    aside = restore(backup, data, replace=True, now=NOW, keys=keys).aside
    assert aside is not None
    with encrypted(data, wrapper) as gallery:
        assert len(everyone(gallery)) == 3
    restore(aside / "gallery.sqlite3", data, replace=True, now=NOW.replace(day=2), keys=keys)
    keys.close()
    with encrypted(data, wrapper) as gallery:
        assert everyone(gallery) == set(PEOPLE)
        gallery.check()


def test_lost_keys_are_not_taken_for_erasures(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    with encrypted(data, wrapper) as gallery:
        enrol(gallery, PEOPLE)
        keys = Vault(data, wrapper)
        back_up(data, backup, keys)
        keys.close()
    for path in data.glob(f"{VAULT_NAME}*"):
        path.unlink()
    with pytest.raises(EncryptionKeyMissing, match="no keys"):
        encrypted(data, wrapper)
    keys = Vault(tmp_path / "elsewhere", wrapper)
    with pytest.raises(BackupError, match=r"none of the keys .* If all were erased since"):
        restore(backup, tmp_path / "elsewhere", replace=False, now=NOW, keys=keys)
    keys.close()


@pytest.mark.parametrize(("before", "after"), [(4000, 1), (4000, 200), (300, 3)])
def test_a_copy_of_the_keys_beside_the_log_of_later_ones_is_refused(
    tmp_path: Path, wrapper: FileKeyWrapper, before: int, after: int
) -> None:
    data, again = tmp_path / "data", tmp_path / "again"
    with closing(Vault(data, wrapper)) as keys:
        keys.seal({f"t{number}": bytes(512) for number in range(500)})
        back_up_keys(keys, tmp_path / "keys")
        keys.seal({f"u{number}": bytes(512) for number in range(before)})
        # The pages of these lie in the data directory's file alone, those of later ones in its log.
        assert keys.empty_log()
        keys.seal({f"v{number}": bytes(512) for number in range(after)})
        # As after a crash: the log is still there when the copy is put in the place of the file.
        again.mkdir()
        shutil.copy(tmp_path / "keys", again / VAULT_NAME)
        shutil.copy(data / f"{VAULT_NAME}-wal", again / f"{VAULT_NAME}-wal")
    with pytest.raises(GalleryUnavailable, match=r"damaged: .*remove template-keys.sqlite3-wal"):
        Vault(again, wrapper)


@pytest.mark.parametrize("column", ["embedding", "seal"])
def test_a_changed_template_is_damaged(tmp_path: Path, wrapper: FileKeyWrapper, column: str) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery:
        enrol(gallery, PEOPLE)
    with editing(data) as connection:
        value = bytearray(connection.execute(f"SELECT {column} FROM templates WHERE key = 3").fetchone()[0])
        value[5] ^= 1
        connection.execute(f"UPDATE templates SET {column} = ? WHERE key = 3", (bytes(value),))
    with encrypted(data, wrapper) as gallery, pytest.raises(TemplateDamaged, match="person-02"):
        gallery.compare("default", "person-02", PEOPLE["person-02"])


def test_a_template_moved_to_another_row_does_not_open(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery:
        enrol(gallery, PEOPLE)
    with editing(data) as connection:
        connection.execute(
            "UPDATE templates SET embedding = o.embedding, seal = o.seal, digest = o.digest "
            "FROM templates o WHERE templates.key = 1 AND o.key = 2"
        )
    with encrypted(data, wrapper) as gallery, pytest.raises(TemplateDamaged):
        gallery.compare("default", "person-00", PEOPLE["person-01"])


def test_the_master_key_is_rotated_while_a_service_runs(tmp_path: Path) -> None:
    data, path = tmp_path / "data", tmp_path / "master.key"
    old, new = os.urandom(32), os.urandom(32)
    with encrypted(data, master_key(path, old)) as gallery:
        enrol(gallery, PEOPLE)
        command = Vault(data, master_key(path, new, old))
        assert command.rotate() == len(PEOPLE)
        command.close()
        # The service finds what it has read before, and what it writes now.
        gallery.enroll("default", "later", [template(axis(7), "later-template")])
        master_key(path, new)
        assert gallery.search("default", axis(7), 1)[0].subject_id == "later"
        assert gallery.compare("default", "person-05", PEOPLE["person-05"]).distance < 1e-6
    with pytest.raises(EncryptionKeyMissing, match="not the one given"):
        Vault(data, master_key(path, old))
    with encrypted(data, master_key(path, new)) as gallery:
        assert everyone(gallery) == {*PEOPLE, "later"}
        gallery.check()


@pytest.mark.parametrize("text", ["", "\n", "abc", "00" * 31, "00" * 32 + "\n" + "zz" * 32])
def test_a_master_key_file_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "master.key"
    path.write_text(text)
    with pytest.raises(EncryptionKeyMissing, match="master key file"):
        FileKeyWrapper(path)
    with pytest.raises(EncryptionKeyMissing, match="cannot be read"):
        FileKeyWrapper(tmp_path / "nothing")


class Service:
    """A key management service, as far as this process needs one."""

    key_id = "arn:key/1"
    asked = 0

    def wrap(self, key: bytes) -> bytes:
        return base64.b64encode(key)

    def unwrap(self, wrapped: bytes, key_id: str) -> bytes:
        assert key_id == self.key_id
        Service.asked += 1
        return base64.b64decode(wrapped)


def test_a_key_management_service_is_asked_once(tmp_path: Path) -> None:
    wrapper = load_wrapper(f"{__name__}:Service")
    with closing(SqliteGallery(tmp_path, encoder_digest=DIGEST, keys=Vault(tmp_path, wrapper))) as gallery:
        enrol(gallery, PEOPLE)
        gallery.search("default", axis(0), 5)
    assert Service.asked == 1


@pytest.mark.parametrize("name", ["nowhere:function", "os:nothing", "os:getcwd"])
def test_a_key_wrapper_that_is_none(name: str) -> None:
    with pytest.raises(EncryptionKeyMissing, match=name):
        load_wrapper(name)
