"""Chips: kept only where asked and encrypted, and gone with the template, in backups, too."""

from __future__ import annotations

import os
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from app.crowding import NoCrowding
from app.gallery import (
    ChipsNeedEncryption,
    EncryptionKeyMissing,
    NewTemplate,
    OnConflict,
    SqliteGallery,
    TemplateDamaged,
)
from app.gallery.records import Targets
from app.gallery.sqlite import chips
from app.gallery.sqlite.backup import back_up, restore
from app.gallery.sqlite.database import DATABASE_NAME, connect
from app.gallery.sqlite.inspection import inspect_directory
from app.gallery.sqlite.snapshot import GalleryCopy
from app.gallery.sqlite.transfer import OnImportConflict, exporting, import_records
from app.gallery.sqlite.vault import FileKeyWrapper, Vault
from app.gallery.transfer import SubjectLine
from app.types import CHIP_SIDE, Pixels
from tests.app.gallery.contract import axis, chip
from tests.app.gallery.sqlite.support import DIGEST, editing, opened
from tests.app.gallery.sqlite.test_vault import encrypted, kept_keys, master_key

pytestmark = pytest.mark.slow

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def wrapper(tmp_path: Path) -> FileKeyWrapper:
    return master_key(tmp_path / "master.key")


def pictured(number: int, id_: str) -> NewTemplate:
    return NewTemplate(id_, axis(number), 10.0, chip(number))


def fill(gallery: SqliteGallery) -> None:
    """Four with chips, one of them with two templates; two without."""
    gallery.enroll("default", "before", [pictured(20, "b0")])
    gallery.update_collection("default", Targets(), keep_chips=True)
    for number, name in enumerate(("ada", "grace", "eve")):
        gallery.enroll("default", name, [pictured(number, f"{name}-0")])
    gallery.enroll("default", "eve", [pictured(9, "eve-1")])
    gallery.create_collection("staff")
    gallery.enroll("staff", "ada", [pictured(0, "staff-0")])


def kept(directory: Path, wrapper: FileKeyWrapper) -> dict[str, Pixels]:
    """Every chip that can be opened, by template."""
    with (
        closing(Vault(directory, wrapper)) as keys,
        closing(connect(directory / DATABASE_NAME, read_only=True)) as connection,
    ):
        rows = connection.execute(
            "SELECT t.id, c.id, h.chip, h.seal FROM chips h JOIN templates t ON t.key = h.template "
            "JOIN collections c ON c.key = t.collection"
        )
        opened = {id_: keys.open(chip, seal, chips.purpose(id_, collection)) for id_, collection, chip, seal in rows}
    return {id_: chips.unpack(packed) for id_, packed in opened.items() if packed is not None}


def stored_chips(directory: Path) -> dict[str, bytes]:
    """The encrypted chips as they are in the database."""
    with closing(connect(directory / DATABASE_NAME, read_only=True)) as connection:
        return dict(
            connection.execute("SELECT t.id, h.chip FROM chips h JOIN templates t ON t.key = h.template").fetchall()
        )


def parts_on_disk(directory: Path, stored: bytes) -> bool:
    """Whether any file of a directory still holds a piece of it; SQLite keeps large values in pieces of a page."""
    pieces = [stored[start : start + 32] for start in range(0, len(stored) - 32, 512)]
    contents = [path.read_bytes() for path in directory.iterdir() if path.is_file()]
    return any(piece in content for piece in pieces for content in contents)


@pytest.mark.parametrize("seed", range(3))
def test_a_chip_is_the_same_after_it_is_packed(seed: int) -> None:
    for picture in (
        chip(seed),
        np.random.default_rng(seed).integers(0, 256, (CHIP_SIDE, CHIP_SIDE, 3), dtype=np.uint8),
    ):
        np.testing.assert_array_equal(chips.unpack(chips.pack(picture)), picture)


@pytest.mark.parametrize("shape", [(112, 112), (112, 111, 3), (1, 112, 112, 3)])
def test_what_is_no_chip_is_not_packed(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="A chip is uint8"):
        chips.pack(np.zeros(shape, dtype=np.uint8))
    with pytest.raises(ValueError, match="A chip is uint8"):
        chips.pack(np.zeros((112, 112, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="no picture"):
        chips.unpack(b"no picture at all")


def test_an_open_gallery_keeps_no_chips(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as gallery:
        for refused in (
            lambda: gallery.create_collection("staff", keep_chips=True),
            lambda: gallery.update_collection("default", Targets(fmr=1e-3), keep_chips=True),
        ):
            with pytest.raises(ChipsNeedEncryption, match="MASTER_KEY_FILE"):
                refused()
        assert [(c.id, c.keep_chips, c.targets) for c in gallery.collections()] == [("default", False, Targets())]
        gallery.enroll("default", "ada", [pictured(0, "t")])
    assert stored_chips(tmp_path / "data") == {}


def test_only_new_templates_of_collections_that_ask_have_one(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery:
        fill(gallery)
        counts = {c.id: (c.keep_chips, c.templates, c.chips) for c in gallery.collections()}
        assert counts == {"default": (True, 5, 4), "staff": (False, 1, 0)}
        assert [t.chip for t in gallery.subject("default", "before").templates] == [False]
        assert [t.chip for t in gallery.subject("default", "eve").templates] == [True, True]
        assert gallery.update_collection("default", Targets(fmr=1e-3)).chips == 4, "what is not named is left as it is"
    expected = {"ada-0": 0, "grace-0": 1, "eve-0": 2, "eve-1": 9}
    found = kept(data, wrapper)
    assert found.keys() == expected.keys()
    assert all((found[id_] == chip(number)).all() for id_, number in expected.items())
    assert not any(parts_on_disk(data, chips.pack(chip(number))) for number in (*expected.values(), 20))


def test_a_merged_duplicate_brings_its_chips_and_keys(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery:
        fill(gallery)
        before, keys = stored_chips(data), kept_keys(data)
        merged = gallery.merge_subjects("default", "ada", "eve")
        assert [(t.id, t.chip) for t in merged.templates] == [("ada-0", True), ("eve-0", True), ("eve-1", True)]
        assert stored_chips(data) == before
        assert kept_keys(data) == keys
    found = kept(data, wrapper)
    assert (found["eve-1"] == chip(9)).all()
    with encrypted(data, wrapper) as gallery:
        assert gallery.compare("default", "ada", axis(9)).distance < 2
        gallery.check()
    with closing(Vault(data, wrapper)) as vault:
        assert not inspect_directory(data, vault).problems


def test_what_is_erased_is_nowhere_and_its_key_neither(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    with encrypted(data, wrapper) as gallery:
        fill(gallery)
        stored = stored_chips(data)
        assert len(stored) == 4
        assert all(parts_on_disk(data, content) for content in stored.values())
        with closing(Vault(data, wrapper)) as keys:
            back_up(data, backup, keys)
        gallery.delete_subject("default", "ada")
        gallery.delete_template("default", "eve", "eve-1")
        gallery.enroll("default", "grace", [pictured(5, "grace-1")], on_conflict=OnConflict.REPLACE)
        erased = {id_: content for id_, content in stored.items() if id_ != "eve-0"}
        assert not any(parts_on_disk(data, content) for content in erased.values())
        assert gallery.collections()[0].chips == 2
    assert kept(data, wrapper).keys() == {"eve-0", "grace-1"}
    # Of four templates and two chips.
    assert kept_keys(data) == 6
    with closing(Vault(data, wrapper)) as keys:
        restore(backup, data, replace=True, now=NOW, keys=keys)
    assert kept(data, wrapper).keys() == {"eve-0"}
    with encrypted(data, wrapper) as gallery:
        gallery.check()


@pytest.mark.parametrize("whole", [True, False])
def test_opting_out_erases_the_chips_and_keeps_the_templates(
    tmp_path: Path, wrapper: FileKeyWrapper, whole: bool
) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    with encrypted(data, wrapper) as gallery:
        fill(gallery)
        stored = stored_chips(data)
        with closing(Vault(data, wrapper)) as keys:
            back_up(data, backup, keys)
        if whole:
            gallery.delete_collection("default", force=True)
        else:
            updated = gallery.update_collection("default", Targets(), keep_chips=False)
            assert (updated.keep_chips, updated.chips, updated.templates) == (False, 0, 5)
            gallery.enroll("default", "later", [pictured(7, "later")])
            assert gallery.search("default", axis(0), 1)[0].subject_id == "ada"
        assert not any(parts_on_disk(data, content) for content in stored.values())
    assert kept(data, wrapper) == {}
    assert kept_keys(data) == (1 if whole else 7)
    # Nor does the backup give them back.
    with closing(Vault(data, wrapper)) as keys:
        restore(backup, data, replace=True, now=NOW, keys=keys)
    assert kept(data, wrapper) == stored_chips(data) == {}


def test_backups_hold_chips_and_check_finds_damaged_ones(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    with encrypted(data, wrapper) as gallery:
        fill(gallery)
    with closing(Vault(data, wrapper)) as keys:
        back_up(data, backup, keys)
        with editing(data) as connection:
            connection.execute("UPDATE chips SET chip = zeroblob(length(chip)) WHERE template = 3")
        [found] = inspect_directory(data, keys).problems
        assert "chip of template 'grace-0' of subject 'grace'" in found
        restore(backup, data, replace=True, now=NOW, keys=keys)
        assert inspect_directory(data, keys).problems == ()
        # A chip that was moved to another template does not open.
        with editing(data) as connection:
            connection.execute(
                "UPDATE chips SET chip = o.chip, seal = o.seal FROM chips o WHERE chips.template = 3 AND o.template = 4"
            )
        assert any("'grace-0'" in problem for problem in inspect_directory(data, keys).problems)


def test_a_new_master_key_opens_the_chips(tmp_path: Path) -> None:
    data, path, old, new = tmp_path / "data", tmp_path / "master.key", os.urandom(32), os.urandom(32)
    with encrypted(data, master_key(path, old)) as gallery:
        fill(gallery)
    with closing(Vault(data, master_key(path, new, old))) as keys:
        assert keys.rotate() == 10
    assert len(kept(data, master_key(path, new))) == 4


def test_a_collection_that_keeps_chips_is_not_opened_without_keys(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    with encrypted(tmp_path / "data", wrapper) as gallery:
        gallery.create_collection("staff", keep_chips=True)
    with pytest.raises(EncryptionKeyMissing, match="'staff' keeps chips"):
        opened(tmp_path / "data")


def test_a_copy_for_commands_is_searched_though_chips_are_kept(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery:
        fill(gallery)
        expected = gallery.search("default", axis(1), 3)
    with closing(GalleryCopy(data, encoder_digest=DIGEST, crowding=NoCrowding(), keys=Vault(data, wrapper))) as copy:
        assert copy.search("default", axis(1), 3) == expected
        assert [c.keep_chips for c in copy.collections()] == [True, False]
    with pytest.raises(EncryptionKeyMissing):
        GalleryCopy(data, encoder_digest=DIGEST, crowding=NoCrowding())


def test_exports_leave_chips_out(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    with encrypted(data, wrapper) as gallery:
        fill(gallery)
    with closing(Vault(data, wrapper)) as keys, exporting(data, keys) as (encoder, records):
        lines = list(records)
    with closing(Vault(other, wrapper)) as keys:
        assert import_records(other, encoder, lines, OnImportConflict.REJECT, NOW, keys) == 5
    assert stored_chips(other) == {}
    with encrypted(other, wrapper) as gallery:
        assert [(c.id, c.keep_chips, c.templates) for c in gallery.collections()] == [
            ("default", False, 5),
            ("staff", False, 1),
        ]
    # What an import replaces is erased with its chips.
    with closing(Vault(data, wrapper)) as keys:
        import_records(data, encoder, lines, OnImportConflict.REPLACE, NOW, keys)
    assert stored_chips(data) == {}
    with encrypted(data, wrapper):
        assert kept_keys(data) == 6


def test_who_is_erased_during_an_export_is_left_out(tmp_path: Path, wrapper: FileKeyWrapper) -> None:
    data = tmp_path / "data"
    with encrypted(data, wrapper) as gallery, closing(Vault(data, wrapper)) as keys:
        fill(gallery)
        with exporting(data, keys) as (_, records):
            next(records)
            gallery.delete_subject("default", "ada")
            gallery.delete_template("default", "eve", "eve-0")
            exported = {r.id: [t.id for t in r.templates] for r in records if isinstance(r, SubjectLine)}
            # The subject of this name in the other collection is still there.
            assert exported == {"before": ["b0"], "eve": ["eve-1"], "grace": ["grace-0"], "ada": ["staff-0"]}
        # What was damaged and not erased is no more left out than before.
        with editing(data) as connection:
            connection.execute("UPDATE templates SET embedding = zeroblob(512) WHERE id = 'grace-0'")
        with exporting(data, keys) as (_, records), pytest.raises(TemplateDamaged, match="grace"):
            list(records)
        with editing(data) as connection:
            [(seal,)] = connection.execute("SELECT seal FROM templates WHERE id = 'grace-0'").fetchall()
        keys.forget([seal])
        with exporting(data, keys) as (_, records), pytest.raises(TemplateDamaged, match="grace"):
            list(records)
