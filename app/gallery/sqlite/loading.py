"""What the index needs of a collection, read when a service starts: as lean as may be, for there may be a million.

Texts stay bytes, since they are read for their digests alone, and only keys are sorted. Whatever is not sound is read
once more, to say what is wrong with it.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import numpy as np

from app.embeddings import MOST_FUSED, fused_template
from app.gallery.sqlite.digests import digest_of
from app.gallery.sqlite.index import Batch
from app.gallery.sqlite.ranking import vectors_of
from app.gallery.sqlite.templates import EMBEDDING, OWNERS, OnDamage, damage_in
from app.gallery.sqlite.values import is_metadata

_BATCH = 8192


def _utf8(column: str) -> str:
    """SQL for a text as bytes; NULL for anything that is no text."""
    return f"CASE typeof({column}) WHEN 'text' THEN CAST({column} AS BLOB) END"


_ENTRIES = f"""
    SELECT s.key, s.crowding, {_utf8("s.metadata")}, t.digest, {_utf8("t.id")}, {_utf8("s.id")}, {_utf8("c.id")},
           {_utf8("e.digest")}, {EMBEDDING}, t.norm
    FROM (SELECT key AS wanted FROM templates WHERE collection = ? ORDER BY subject, key LIMIT -1)
    CROSS JOIN templates t ON t.key = wanted JOIN subjects s ON s.key = t.subject {OWNERS}
"""  # noqa: S608
_DIGEST, _DIGESTED, _VECTOR = 3, slice(4, None), 8
"""Columns: the digest, what it is of, and the embedding among that."""


def load_vectors(
    connection: sqlite3.Connection, collection: int, on_damage: OnDamage, most: int = MOST_FUSED
) -> Iterator[Batch]:
    """The index entries of all subjects in a collection, with the newest ``most`` templates of each fused.

    Damaged ones are left out and handed to ``on_damage``.
    """
    subjects = groupby(connection.execute(_ENTRIES, (collection,)), key=itemgetter(0))
    last = -1
    while batch := [(key, list(entries)) for key, entries in islice(subjects, _BATCH)]:
        keys = [key for key, _ in batch]
        if last >= keys[0] or keys != sorted(set(keys)):
            raise RuntimeError("the templates of a collection were not read by subject")
        last = keys[-1]
        sound = [entries for _, entries in batch if _is_sound(entries)]
        suspects = sorted(set(keys).difference(entries[0][0] for entries in sound))
        for subject in suspects:
            on_damage(damage_in(connection, subject))
        yield _batch(sound, suspects, most)


def _is_sound(entries: Sequence[Sequence[Any]]) -> bool:
    """Whether these rows are a whole subject; damage may have given any value any type."""
    _, crowding, metadata, *_ = entries[0]
    try:
        return (
            isinstance(crowding, float)
            and (metadata == b"{}" or is_metadata(metadata.decode()))
            and all(entry[_DIGEST] == digest_of(*entry[_DIGESTED]) for entry in entries)
        )
    except (TypeError, ValueError, AttributeError, struct.error):
        return False


def _batch(subjects: Sequence[Sequence[Sequence[Any]]], left_out: Sequence[int], most: int) -> Batch:
    """The rows of sound subjects as entries of the index."""
    vectors = vectors_of([entries[-1][_VECTOR] for entries in subjects])
    several = [place for place, entries in enumerate(subjects) if len(entries) > 1]
    if several:
        vectors = vectors.copy()  # what it was made of cannot be written
        for place in several:
            vectors[place] = fused_template(vectors_of([entry[_VECTOR] for entry in subjects[place]]), most)
    return Batch(
        np.array([entries[0][0] for entries in subjects], dtype=np.int64),
        vectors,
        np.array([entries[0][1] for entries in subjects], dtype=np.float32),
        np.array([min(len(entries), most) for entries in subjects], dtype=np.int64),
        np.array(left_out, dtype=np.int64),
    )
