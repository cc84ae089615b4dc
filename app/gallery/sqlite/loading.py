"""What the index needs of a collection, read when a service starts: as little as may be, for there may be a million.

Digests are not verified here but whenever a template is read: a search verifies what it finds, and every check of the
gallery the next subjects.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from app.embeddings import EMBEDDING_SIZE, MOST_FUSED, fused_template, have_unit_norm
from app.gallery.damage import OnDamage
from app.gallery.sqlite.index import Batch
from app.gallery.sqlite.ranking import vectors_of
from app.gallery.sqlite.templates import EMBEDDING, damage_in

_BATCH = 8192
_BYTES = 4 * EMBEDDING_SIZE
# Only keys are sorted.
_ENTRIES = f"""
    SELECT t.subject, s.crowding, {EMBEDDING}
    FROM (SELECT key AS wanted FROM templates WHERE collection = ? ORDER BY subject, key LIMIT -1)
    CROSS JOIN templates t ON t.key = wanted JOIN subjects s ON s.key = t.subject
"""  # noqa: S608

_Entry = tuple[int, Any, Any]
"""The key of a subject, its crowding and one of its embeddings; damage may have given these any type."""


def load_vectors(
    connection: sqlite3.Connection, collection: int, on_damage: OnDamage, most: int = MOST_FUSED
) -> Iterator[Batch]:
    """The index entries of all subjects in a collection, with the newest ``most`` templates of each fused.

    Those that cannot be in an index are left out and handed to ``on_damage``.
    """
    last = -1
    for entries in _whole_subjects(connection.execute(_ENTRIES, (collection,))):
        subjects = np.array([subject for subject, _, _ in entries], dtype=np.int64)
        if last >= subjects[0] or np.any(np.diff(subjects) < 0):
            raise RuntimeError("the templates of a collection were not read by subject")
        last = int(subjects[-1])
        suspects = _suspects(entries)
        for subject in suspects:
            on_damage(damage_in(connection, subject))
        sound = [entry for entry in entries if entry[0] not in suspects] if suspects else entries
        yield _batch(sound, suspects, most)


def _whole_subjects(cursor: sqlite3.Cursor) -> Iterator[list[_Entry]]:
    """The rows in lists that end where another subject begins."""
    held: list[_Entry] = []
    while rows := cursor.fetchmany(_BATCH):
        held += rows
        # More of the last subject may follow.
        end = len(held)
        while end and held[end - 1][0] == held[-1][0]:
            end -= 1
        if end:
            yield held[:end]
            held = held[end:]
    if held:
        yield held


def _suspects(entries: Sequence[_Entry]) -> list[int]:
    """The subjects, in order, with an embedding that is none, or without crowding."""
    suspects = {
        subject
        for subject, crowding, embedding in entries
        if type(embedding) is not bytes or len(embedding) != _BYTES or type(crowding) is not float
    }
    whole = [entry for entry in entries if entry[0] not in suspects] if suspects else entries
    vectors = vectors_of([embedding for _, _, embedding in whole])
    if not have_unit_norm(vectors):
        suspects.update(
            subject
            for (subject, _, _), vector in zip(whole, vectors, strict=True)
            if not have_unit_norm(vector[np.newaxis])
        )
    return sorted(suspects)


def _batch(entries: Sequence[_Entry], left_out: Sequence[int], most: int) -> Batch:
    """The rows of sound subjects as entries of the index."""
    subjects = np.array([subject for subject, _, _ in entries], dtype=np.int64)
    vectors = vectors_of([embedding for _, _, embedding in entries])
    keys, first, counts = np.unique(subjects, return_index=True, return_counts=True)
    fused: npt.NDArray[np.float32] = vectors[first]
    for place in np.flatnonzero(counts > 1).tolist():
        fused[place] = fused_template(vectors[first[place] : first[place] + counts[place]], most)
    crowding = np.array([crowding for _, crowding, _ in entries], dtype=np.float32)
    return Batch(keys, fused, crowding[first], np.minimum(counts, most), np.array(left_out, dtype=np.int64))
