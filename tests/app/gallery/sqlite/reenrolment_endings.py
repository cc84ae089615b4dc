"""Ends a change of encoder before every single statement and change of a file, and looks at what is left.

    python -m tests.app.gallery.sqlite.reenrolment_endings FOLDER

Whatever is left is the whole old gallery or the whole new one; the change can be made, and taken back. Exit code 1 if
not.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from app.gallery import NewTemplate, OnConflict, SqliteGallery
from app.gallery.sqlite import backup, reenrolment
from app.gallery.sqlite.database import DATABASE_NAME, connect
from app.gallery.sqlite.inspection import inspect_directory
from app.gallery.sqlite.queries import stored_encoder
from app.gallery.sqlite.vault import FileKeyWrapper, Vault
from app.types import Pixels
from tests.app.gallery.contract import chip, unit
from tests.app.gallery.sqlite.statements import ENDED, SOUND, WRONG, Ending, in_child

OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
NOW = datetime(2026, 3, 1, tzinfo=UTC)
PEOPLE = 5

Floats = np.ndarray[Any, np.dtype[np.float32]]


def embed(chips: Pixels, seed: int) -> tuple[Floats, Floats]:
    """An encoder of sorts: random projections of the pixels, so that each chip and each seed gives another vector."""
    projection = np.random.default_rng(seed).standard_normal((chips[0].size // 64, 128))
    values = chips.reshape(len(chips), -1)[:, ::64].astype(np.float64) - 128
    vectors = values[:, : len(projection)] @ projection
    norms = np.linalg.norm(vectors, axis=1)
    return (vectors / norms[:, None]).astype(np.float32), norms.astype(np.float32)


def embed_old(chips: Pixels) -> tuple[Floats, Floats]:
    return embed(chips, 1)


def embed_new(chips: Pixels) -> tuple[Floats, Floats]:
    return embed(chips, 2)


def pictured(number: int) -> NewTemplate:
    """A template of the old encoder with its chip."""
    picture = chip(number)
    [embedding], [norm] = embed_old(picture[None])
    return NewTemplate(f"t{number}", unit(embedding), float(norm), picture)


def fill(gallery: SqliteGallery) -> None:
    """``PEOPLE`` with chips, one of them with a second template that has none, and somebody without any."""
    gallery.enroll("default", "before", [pictured(90)], metadata={"n": 90})
    gallery.enroll("default", "p0", [pictured(80)])
    gallery.update_collection("default", gallery.targets("default"), keep_chips=True)
    for number in range(PEOPLE):
        gallery.enroll("default", f"p{number}", [pictured(number)], metadata={"n": number})
    gallery.enroll("default", "erased", [pictured(70)])
    gallery.enroll("default", "p1", [pictured(71)], on_conflict=OnConflict.REPLACE, metadata={"n": 1})
    gallery.delete_subject("default", "erased")


CHIPS = [0, 2, 3, 4, 71]
"""The templates of ``fill`` that have one."""


def keys_of(folder: Path) -> Vault:
    key = folder / "master.key"
    if not key.exists():
        key.write_text("5a" * 32)
    return Vault(folder / "data", FileKeyWrapper(key))


def served(folder: Path, encoder: str) -> closing[SqliteGallery]:
    return closing(SqliteGallery(folder / "data", encoder_digest=encoder, keys=keys_of(folder)))


def change(folder: Path, *, leave_out: bool = True, now: datetime = NOW) -> Path:
    """Changes the encoder."""
    with closing(keys_of(folder)) as keys, reenrolment.reenrolling(folder / "data", keys) as work:
        return work.run(NEW, embed_new, now, leave_out=leave_out, progress=lambda done, of: None)


def go_back(folder: Path, aside: Path, now: datetime = NOW + timedelta(days=1)) -> None:
    with closing(keys_of(folder)) as keys:
        backup.restore(aside / DATABASE_NAME, folder / "data", replace=True, now=now, keys=keys)


def state(folder: Path, encoder: str) -> dict[str, object]:
    """Everybody, and that each is found by the embeddings of this encoder. Raises EncoderMismatch."""
    with served(folder, encoder) as gallery:
        gallery.check()
        subjects = gallery.subjects("default", after=None, limit=100)
        for number in CHIPS:
            [embedding], [norm] = (embed_old if encoder == OLD else embed_new)(chip(number)[None])
            vectors = {v.subject_id: v for v in gallery.subject_vectors("default", after=None, limit=100)}
            [own] = [v for v in vectors.values() if f"t{number}" in v.template_ids]
            at = own.template_ids.index(f"t{number}")
            np.testing.assert_allclose(own.embeddings[at], embedding, atol=1e-6)
            assert own.norms[at] == norm
            near = gallery.search("default", embedding, 1)[0]
            assert near.subject_id == own.subject_id
            assert near.distance == gallery.compare("default", own.subject_id, embedding).distance
        [collection] = gallery.collections()
    with closing(keys_of(folder)) as keys:
        assert inspect_directory(folder / "data", keys).problems == ()
    return {subject.id: subject for subject in subjects} | {"collection": collection}


def asides(folder: Path) -> list[Path]:
    return sorted((folder / "data").glob("replaced-*"))


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    def ending(*arguments: Any, **named: Any) -> Any:
        Ending._count("")
        return function(*arguments, **named)

    return ending


def changed_until(folder: Path, end_before: int) -> int:
    """Changes the encoder, or ends before a statement or a change of a file."""
    sqlite3.connect = lambda *a, **n: Ending(*a, **{k: v for k, v in n.items() if k != "factory"})  # type: ignore[assignment]
    os.link = counted(os.link)
    for name in ("rename", "mkdir", "unlink"):
        setattr(Path, name, counted(getattr(Path, name)))
    reenrolment.sync = counted(reenrolment.sync)  # type: ignore[attr-defined]
    reenrolment.BATCH = 2
    Ending.left = end_before
    change(folder)
    return SOUND


def looked_at(folder: Path, end_before: int) -> int:
    """Whether what is left is whole, and can be changed and changed back. Every second time it is served first."""
    old, new = state(folder.parent / "old", OLD), state(folder.parent / "new", NEW)

    encoder = encoder_of(folder)
    if end_before % 2:
        assert state(folder, encoder) == (old if encoder == OLD else new)
    if encoder == OLD:
        change(folder, now=NOW + timedelta(hours=1))
    assert state(folder, NEW) == new
    assert not list((folder / "data").glob(f"{reenrolment.PARTIAL_NAME}*"))
    [aside] = asides(folder)
    go_back(folder, aside)
    assert state(folder, OLD) == old
    return SOUND


def encoder_of(folder: Path) -> str:
    """Whose templates are in place."""
    with closing(connect(folder / "data" / DATABASE_NAME, read_only=True)) as connection:
        return stored_encoder(connection)


def prepared(folder: Path) -> int:
    """The gallery before, and another one after the change."""
    for name in ("old", "new"):
        place = folder / name
        if name == "new":
            shutil.copytree(folder / "old", place)
            change(place)
        else:
            place.mkdir(parents=True)
            with served(place, OLD) as gallery:
                fill(gallery)
    return SOUND


def main(folder: Path, every: int) -> int:
    """How many of the endings left something wrong."""
    assert in_child(lambda: prepared(folder)) == SOUND
    wrong, number, ends = 0, 0, 0
    while True:
        here = folder / str(number)
        shutil.copytree(folder / "old", here)
        code = in_child(lambda: changed_until(here, number))  # noqa: B023
        left = in_child(lambda: looked_at(here, number))  # noqa: B023
        if code not in (ENDED, SOUND) or left != SOUND:
            sys.stderr.write(f"ended before change {number}: {code} {left}\n")
            wrong += 1
        shutil.rmtree(here)
        ends += 1
        if code == SOUND:
            break
        number += every
    print(f"ended {ends} times, up to change {number}: {wrong} wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)) and WRONG)
