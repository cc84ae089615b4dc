"""A change of encoder: everybody with a chip is there as before, nothing is half done, and there is a way back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.gallery import BackupError, GalleryInUse, GalleryUnavailable, Subject
from app.gallery.sqlite import reenrolment
from app.gallery.sqlite.backup import back_up, restore
from app.gallery.sqlite.database import DATABASE_NAME, connect
from app.gallery.sqlite.reenrolment import PARTIAL_NAME, Missing, forget_others, list_missing, reenrolling
from app.gallery.sqlite.vault import Vault
from tests.app.gallery.sqlite import reenrolment_endings
from tests.app.gallery.sqlite.reenrolment_endings import (
    CHIPS,
    NEW,
    NOW,
    OLD,
    asides,
    change,
    embed_new,
    encoder_of,
    fill,
    go_back,
    keys_of,
    pictured,
    served,
    state,
)
from tests.app.gallery.sqlite.support import editing, everyone, is_on_disk
from tests.app.gallery.sqlite.test_vault import kept_keys
from tests.shared_data import ROOT

pytestmark = pytest.mark.slow

LATER = NOW + timedelta(days=2)
MISSING = [Missing("default", "before", 1, 1), Missing("default", "p0", 2, 1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with served(tmp_path, OLD) as gallery:
        fill(gallery)
    return tmp_path


def without_norms(subject: Any) -> Subject:
    return replace(subject, templates=tuple(replace(template, norm=0.0) for template in subject.templates))


def test_everything_but_the_embeddings_stays_as_it_was(folder: Path) -> None:
    data, before = folder / "data", state(folder, OLD)
    keys = kept_keys(data)
    aside = change(folder)
    after = state(folder, NEW)
    assert before.keys() - after.keys() == {"before"}
    for name in ("p1", "p2", "p3", "p4"):
        assert without_norms(after[name]) == without_norms(before[name]), "all but what the encoder gives"
    assert [t.id for t in after["p0"].templates] == ["t0"]  # type: ignore[attr-defined]
    assert kept_keys(data) == keys
    assert asides(folder) == [aside]
    assert aside.stat().st_mode & 0o777 == 0o700
    assert (data / DATABASE_NAME).stat().st_mode & 0o777 == 0o600
    # What is enrolled from now on is kept, too.
    with served(folder, NEW) as gallery:
        enrolled = gallery.enroll("default", "later", [pictured(50)])
        assert [t.chip for t in enrolled.templates] == [True]


def test_a_way_back_and_forth(folder: Path) -> None:
    before = state(folder, OLD)
    go_back(folder, change(folder))
    assert state(folder, OLD) == before
    change(folder, now=LATER)
    state(folder, NEW)


def test_nobody_is_left_out_unless_told_to(folder: Path) -> None:
    before = state(folder, OLD)
    assert list_missing(folder / "data") == MISSING
    with pytest.raises(BackupError, match=r"2 subject.*--leave-out-missing.*Nothing was changed"):
        change(folder, leave_out=False)
    assert state(folder, OLD) == before
    with served(folder, OLD) as gallery:
        gallery.delete_subject("default", "before")
        gallery.delete_template("default", "p0", "t80")
    assert list_missing(folder / "data") == []
    change(folder, leave_out=False)
    state(folder, NEW)


def test_what_is_erased_after_the_change_does_not_come_back(folder: Path) -> None:
    data, backup = folder / "data", folder / "backup"
    with closing(keys_of(folder)) as keys:
        back_up(data, backup, keys)
    aside = change(folder)
    with served(folder, NEW) as gallery:
        gallery.delete_subject("default", "p2")
    for number, source in enumerate((aside / DATABASE_NAME, backup), start=1):
        with closing(keys_of(folder)) as keys:
            restore(source, data, replace=True, now=NOW + timedelta(days=number), keys=keys)
        with served(folder, OLD) as gallery:
            assert everyone(gallery) == {"before", "p0", "p1", "p3", "p4"}


def test_giving_up_the_way_back_destroys_what_was_left_out(folder: Path) -> None:
    data = folder / "data"
    aside = change(folder)
    with served(folder, NEW), closing(keys_of(folder)) as keys, pytest.raises(GalleryInUse):
        forget_others(data, keys)
    with closing(keys_of(folder)) as keys:
        assert forget_others(data, keys) == 2
        assert forget_others(data, keys) == 0
    state(folder, NEW)
    go_back(folder, aside)
    with served(folder, OLD) as gallery:
        assert everyone(gallery) == {"p0", "p1", "p2", "p3", "p4"}
        assert [t.id for t in gallery.subject("default", "p0").templates] == ["t0"]


def test_a_copy_that_was_left_is_gone_on_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reenrolment, "BATCH", 2)
    asked: list[int] = []

    def run(*, fail_at: int | None = None, encoder: str = NEW) -> None:
        def embed(chips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if fail_at is not None and len(asked) >= fail_at:
                raise KeyboardInterrupt
            asked.append(len(chips))
            return embed_new(chips)

        with closing(keys_of(folder)) as keys, reenrolling(folder / "data", keys) as work:
            work.run(encoder, embed, NOW, leave_out=True, progress=lambda done, of: seen.append((done, of)))

    seen: list[tuple[int, int]] = []
    with pytest.raises(KeyboardInterrupt):
        run(fail_at=2)
    assert (asked, seen) == ([2, 2], [(2, 5), (4, 5)])
    assert encoder_of(folder) == OLD
    run()
    assert (asked, seen[-1]) == ([2, 2, 1], (5, 5))
    state(folder, NEW)


@pytest.mark.parametrize("change_meanwhile", ["served", "encoder", "cut"])
def test_a_copy_of_another_gallery_is_begun_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change_meanwhile: str
) -> None:
    monkeypatch.setattr(reenrolment, "BATCH", 2)
    asked: list[int] = []

    def embed(chips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(len(chips))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return embed_new(chips)

    def run(encoder: str) -> None:
        with closing(keys_of(folder)) as keys, reenrolling(folder / "data", keys) as work:
            work.run(encoder, embed, NOW, leave_out=True, progress=lambda done, of: None)

    with pytest.raises(KeyboardInterrupt):
        run("sha256:other" if change_meanwhile == "encoder" else NEW)
    partial = folder / "data" / PARTIAL_NAME
    assert partial.exists()
    expected = set(CHIPS)
    if change_meanwhile == "served":
        with served(folder, OLD) as gallery:
            assert not partial.exists(), "it may hold what is erased from now on"
            gallery.delete_subject("default", "p4")
        expected.remove(4)
    elif change_meanwhile == "cut":
        os.truncate(partial, partial.stat().st_size // 2)
    run(NEW)
    assert sum(asked[2:]) == len(expected), "all are embedded again"
    with served(folder, NEW) as gallery:
        found = gallery.subjects("default", after=None, limit=100)
        assert {t.id for s in found for t in s.templates} == {f"t{number}" for number in expected}
        gallery.check()


def test_a_gallery_that_is_used_by_others_is_not_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(folder, OLD), pytest.raises(GalleryInUse):
        change(folder)
    with closing(connect(folder / "data" / DATABASE_NAME, read_only=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM templates").fetchone()
        with pytest.raises(BackupError, match="Another process reads"):
            change(folder)
    assert encoder_of(folder) == OLD
    assert asides(folder) == []
    assert (folder / "data" / PARTIAL_NAME).exists()
    # The work was done already.
    monkeypatch.setattr(reenrolment_endings, "embed_new", _cut_off)
    change(folder)
    monkeypatch.undo()
    state(folder, NEW)


def test_what_cannot_be_changed_is_refused_and_stays(folder: Path) -> None:
    data = folder / "data"

    def run(vault: Vault | None, encoder: str = NEW, size: float = 1.0) -> None:
        def embed(chips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            embeddings, norms = embed_new(chips)
            return np.float32(size) * embeddings, norms

        with reenrolling(data, vault) as work:
            work.run(encoder, embed, NOW, leave_out=True, progress=lambda done, of: None)

    with closing(keys_of(folder)) as keys:
        with pytest.raises(BackupError, match="of this encoder already"):
            run(keys, OLD)
        for size in (1.1, np.nan):
            with pytest.raises(BackupError, match="no embeddings of unit length"):
                run(keys, size=size)
        with pytest.raises(BackupError, match="no gallery"), reenrolling(folder / "none", keys):
            pass
        with editing(data) as connection:
            connection.execute("UPDATE chips SET chip = zeroblob(length(chip)) WHERE template = 3")
        with pytest.raises(BackupError, match=r"not sound.*chip of template"):
            run(keys)
        with editing(data) as connection:
            connection.execute("UPDATE state SET sequence = sequence - 1")
        with pytest.raises(GalleryUnavailable, match="lacks the last 1"):
            run(keys)
    assert encoder_of(folder) == OLD


def test_without_any_chip_everybody_is_enrolled_again(tmp_path: Path) -> None:
    with served(tmp_path, OLD) as gallery:
        gallery.enroll("default", "ada", [pictured(0)])
    with pytest.raises(BackupError, match="No chip was kept"):
        change(tmp_path)
    assert list_missing(tmp_path / "data") == [Missing("default", "ada", 1, 1)]


def test_no_name_of_the_erased_stays_in_a_copy(folder: Path) -> None:
    """Served once more after a change was cut off: nothing of the copy is left that an erasure would not reach."""
    with closing(keys_of(folder)) as keys, reenrolling(folder / "data", keys) as work, pytest.raises(KeyboardInterrupt):
        work.run(NEW, _cut_off, NOW, leave_out=True, progress=lambda done, of: None)
    with served(folder, OLD) as gallery:
        gallery.enroll("default", "the-erased", [pictured(60)])
        gallery.delete_subject("default", "the-erased")
        gallery.delete_subject("default", "before")
    assert not is_on_disk(folder / "data", b"the-erased")
    assert not is_on_disk(folder / "data", b"before")


def _cut_off(_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    raise KeyboardInterrupt


def test_ending_before_any_change_leaves_a_whole_gallery(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.app.gallery.sqlite.reenrolment_endings", str(tmp_path / "endings"), "9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [count] = re.findall(r"ended (\d+) times", done.stdout)
    assert int(count) > 10, done.stdout
