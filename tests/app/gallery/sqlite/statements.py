"""Ends a process before every single statement of a script of writes, and looks at what is left.

    python -m tests.app.gallery.sqlite.statements FOLDER

Everything happens in forked children, so that each begins with no thread and no open file. Exit code 1 if anything that
was acknowledged is not there, or something is half there.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from app.gallery import OnConflict, SqliteGallery
from app.gallery.sqlite.inspection import inspect_directory
from app.gallery.sqlite.vault import FileKeyWrapper, Vault
from tests.app.gallery.contract import axis, pending, template
from tests.app.gallery.sqlite.support import DIGEST

ENDED, SOUND, WRONG = 9, 0, 1

Step = Callable[[SqliteGallery], object]

STEPS: tuple[Step, ...] = (
    lambda g: g.enroll("default", "ada", [template(axis(0), "a0"), template(axis(1), "a1")], metadata={"n": 1}),
    lambda g: g.create_collection("staff"),
    lambda g: g.enroll("staff", "grace", [template(axis(2), "g0")], receipt=pending("k1")),
    lambda g: g.enroll("default", "ada", [template(axis(3), "a2")], receipt=pending("k2")),
    lambda g: g.enroll("default", "ada", [template(axis(4), "a3")], on_conflict=OnConflict.REPLACE),
    lambda g: g.enroll("default", "eve", [template(axis(5), "e0"), template(axis(6), "e1")]),
    lambda g: g.delete_template("default", "eve", "e0"),
    lambda g: g.update_subject("default", "eve", {"n": 2}),
    lambda g: g.enroll("default", "eve-2", [template(axis(7), "e2"), template(axis(8), "e3")], receipt=pending("k3")),
    lambda g: g.merge_subjects("default", "eve", "eve-2", receipt=pending("k4")),
    lambda g: g.delete_subject("default", "ada"),
    lambda g: g.delete_collection("staff", force=True),
)


class Ending(sqlite3.Connection):
    """A connection that ends the process before the statement with a certain number, of all connections."""

    left: int | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.set_trace_callback(self._count)

    @classmethod
    def _count(cls, _: str) -> None:
        if cls.left is not None:
            cls.left -= 1
            if cls.left < 0:
                os._exit(ENDED)


def in_child(work: Callable[[], int]) -> int:
    """Runs work in a forked process; its exit code."""
    child = os.fork()
    if child == 0:
        code = WRONG
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def opened(folder: Path, *, encrypted: bool) -> closing[SqliteGallery]:
    data, key = folder / "data", folder / "master.key"
    if encrypted and not key.exists():
        key.write_text("5a" * 32)
    keys = Vault(data, FileKeyWrapper(key)) if encrypted else None
    return closing(SqliteGallery(data, encoder_digest=DIGEST, keys=keys))


def write(folder: Path, end_before: int | None, *, encrypted: bool) -> int:
    """Takes all steps, noting each that was acknowledged, or ends before a statement."""
    sqlite3.connect = lambda *a, **n: Ending(*a, **{k: v for k, v in n.items() if k != "factory"})  # type: ignore[assignment]
    Ending.left = end_before
    acknowledged = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with opened(folder, encrypted=encrypted) as gallery:
        os.write(acknowledged, b".")
        for step in STEPS:
            step(gallery)
            os.write(acknowledged, b".")
    return SOUND


def state(gallery: SqliteGallery) -> object:
    """Everything that the gallery holds, and what searches find of it."""
    found = {}
    for collection in gallery.collections():
        gallery.check()
        subjects = gallery.subjects(collection.id, after=None, limit=100)
        ids = {s.id: (tuple(t.id for t in s.templates), dict(s.metadata)) for s in subjects}
        assert {c.subject_id for c in gallery.search(collection.id, axis(0), 100)} == set(ids)
        found[collection.id] = ids
    return found, [key for key in ("k1", "k2", "k3", "k4") if gallery.receipt(key) is not None]


def states(folder: Path) -> list[object]:
    """What is there after each step."""
    with opened(folder, encrypted=False) as gallery:
        after = [state(gallery)]
        for step in STEPS:
            step(gallery)
            after.append(state(gallery))
    return after


def look(folder: Path, end_before: int, *, encrypted: bool) -> int:
    """Whether what is left is what was acknowledged, or that and the step under way."""
    expected = states(folder / "reference")
    path = folder / "acknowledged"
    done = max(len(path.read_bytes()) - 1, 0) if path.exists() else 0
    with opened(folder, encrypted=encrypted) as gallery:
        left = state(gallery)
        keys = Vault(folder / "data", FileKeyWrapper(folder / "master.key")) if encrypted else None
        problems = inspect_directory(folder / "data", keys).problems
    if left not in expected[done : done + 2] or problems:
        sys.stderr.write(f"ended before statement {end_before}, {done} steps done: {left} {problems}\n")
        return WRONG
    return SOUND


def main(folder: Path, *, encrypted: bool, every: int) -> int:
    """How many statements there are, and how many of the endings left something wrong."""
    wrong, number, ends = 0, 0, 0
    while True:
        here = folder / f"{encrypted}-{number}"
        here.mkdir(parents=True)
        code = in_child(lambda: write(here, number, encrypted=encrypted))  # noqa: B023
        if code not in (ENDED, SOUND):
            wrong += 1
        wrong += in_child(lambda: look(here, number, encrypted=encrypted)) != SOUND  # noqa: B023
        ends += 1
        if code == SOUND:
            break
        number += every
    print(f"{'encrypted' if encrypted else 'open'}: ended {ends} times, up to statement {number}: {wrong} wrong")
    return wrong


if __name__ == "__main__":
    place, step = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    sys.exit(bool(sum(main(place, encrypted=encrypted, every=step) for encrypted in (False, True))))
