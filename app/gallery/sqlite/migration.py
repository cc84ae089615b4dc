"""Brings a database to the schema that this code knows; the version is SQLite's own ``user_version``."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from app.gallery.protocol import GalleryUnavailable
from app.gallery.sqlite import digests

_SCRIPT_NAME = re.compile(r"(\d{4})_\w+\.sql")


def shipped_scripts(package: str = "app.gallery.sqlite") -> tuple[str, ...]:
    """The SQL of a package's ``migrations``, in order; script n leads from version n - 1 to version n.

    Raises RuntimeError when the numbers are not 1, 2, 3, ..., each once.
    """
    numbered: dict[int, str] = {}
    for entry in files(package).joinpath("migrations").iterdir():
        if match := _SCRIPT_NAME.fullmatch(entry.name):
            if int(match[1]) in numbered:
                raise RuntimeError(
                    f"Two of the gallery's migrations are numbered {match[1]}, one of them {entry.name}."
                )
            numbered[int(match[1])] = entry.read_text(encoding="utf-8")
    if not numbered or sorted(numbered) != list(range(1, len(numbered) + 1)):
        raise RuntimeError(f"The gallery's migrations are not numbered 1, 2, 3, ...: {sorted(numbered)}.")
    return tuple(numbered[number] for number in sorted(numbered))


def refuse_other_schema(connection: sqlite3.Connection, directory: Path) -> None:
    """Raises GalleryUnavailable if the database of a data directory is not of the schema that this code reads."""
    version, known = connection.execute("PRAGMA user_version").fetchone()[0], len(shipped_scripts())
    if version != known:
        raise GalleryUnavailable(
            f"The gallery in {directory} has schema version {version}, this release has {known}: start the service "
            "on it once to bring an older one up, or use the release that wrote a newer one."
        )


def migrate(connection: sqlite3.Connection, scripts: Sequence[str]) -> None:
    """Applies the scripts that the database has not seen, each in its own transaction.

    ``connection`` must be in autocommit mode (``isolation_level=None``). Raises GalleryUnavailable when the database
    is newer than the scripts, sqlite3.Error when a script fails (the database then stays at the version before it).
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(scripts):
        raise GalleryUnavailable(
            f"The gallery's database has schema version {version}, but this release knows versions up to "
            f"{len(scripts)}. Run the release that wrote it, or a newer one.",
            database_version=version,
            known_version=len(scripts),
        )
    digests.install(connection)
    for number, script in enumerate(scripts[version:], start=version + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
        except sqlite3.Error:
            connection.rollback()
            raise
