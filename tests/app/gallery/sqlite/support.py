"""Galleries to damage, and what is in their files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from app.crowding import Crowding, NoCrowding
from app.embeddings import Embedding
from app.gallery import SqliteGallery
from app.gallery.sqlite.database import DATABASE_NAME
from tests.app.gallery.contract import Clock, random_embedding, template

DIGEST = "sha256:" + "a" * 64
ROOT = Path(__file__).parents[4]


def opened(
    directory: Path,
    digest: str = DIGEST,
    crowding: Crowding = NoCrowding(),  # noqa: B008
    clock: Clock | None = None,
) -> closing[SqliteGallery]:
    if clock is None:
        return closing(SqliteGallery(directory, encoder_digest=digest, crowding=crowding))
    return closing(SqliteGallery(directory, encoder_digest=digest, crowding=crowding, clock=clock))


def people(count: int, first: int = 0) -> dict[str, Embedding]:
    random = np.random.default_rng(first)
    return {f"person-{index:02}": random_embedding(random) for index in range(first, first + count)}


def enrol(gallery: SqliteGallery, embeddings: dict[str, Embedding]) -> None:
    for name, embedding in embeddings.items():
        gallery.enroll("default", name, [template(embedding, f"{name}-template")], metadata={"name": f"name of {name}"})


def everyone(gallery: SqliteGallery, collection: str = "default") -> set[str]:
    return {subject.id for subject in gallery.subjects(collection, after=None, limit=10_000)}


@contextmanager
def editing(directory: Path) -> Iterator[sqlite3.Connection]:
    """The database, changed past the gallery and past its constraints."""
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        yield connection


def is_on_disk(directory: Path, content: bytes) -> bool:
    return any(content in path.read_bytes() for path in directory.iterdir() if path.is_file())
