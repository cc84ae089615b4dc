"""The stored templates: the only SQL that reads or writes embeddings. What does not fit its digest is never used.

Every function works inside the transaction of the connection it is given.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from app.crowding import Crowding
from app.embeddings import EMBEDDING_SIZE, MOST_FUSED, Embedding, fused_template
from app.gallery.damage import Damage, OnDamage, refuse
from app.gallery.records import NewTemplate, SubjectVectors
from app.gallery.sqlite import chips
from app.gallery.sqlite.digests import matches, template_digest
from app.gallery.sqlite.erasures import was_erased
from app.gallery.sqlite.index import Batch, Keys
from app.gallery.sqlite.ranking import StoredTemplate, vectors_of
from app.gallery.sqlite.values import is_metadata, timestamp
from app.gallery.sqlite.vault import Vault

_LOAD_BATCH = 8192


class _Row(NamedTuple):
    """A template as it is stored, with its subject; damage may have given any value any type."""

    key: int
    id: str
    embedding: bytes
    norm: float
    digest: object
    subject: int
    subject_id: str
    metadata: str
    crowding: float
    collection: str
    encoder: str


EMBEDDING = "CASE WHEN t.seal IS NULL THEN t.embedding ELSE opened(t.embedding, t.seal, t.id) END"
_COLUMNS = f"t.key, t.id, {EMBEDDING}, t.norm, t.digest, s.key, s.id, s.metadata, s.crowding, c.id, e.digest"
# Not inner joins: a damaged reference must not hide a template.
OWNERS = "LEFT JOIN collections c ON c.key = s.collection LEFT JOIN encoders e ON e.key = t.encoder"
_ROWS = f"SELECT {_COLUMNS} FROM templates t JOIN subjects s ON s.key = t.subject {OWNERS}"  # noqa: S608


def _damage_of(rows: Sequence[_Row], *, crowding: bool = True) -> Damage | None:
    """What is wrong with a subject whose templates these are. ``crowding``: whether it must have been computed."""
    first = rows[0]
    # A digest is only ever made of a unit vector, so that one that matches says it is one.
    templates = tuple(
        str(row.id)
        for row in rows
        if not matches(row.digest, row.id, row.subject_id, row.collection, row.encoder, row.embedding, row.norm)
    )
    sound = not templates and (not crowding or isinstance(first.crowding, float))
    if sound and is_metadata(first.metadata):
        return None
    return Damage(first.subject, str(first.subject_id), str(first.collection), templates)


def _rows_of(connection: sqlite3.Connection, subject: int) -> list[_Row]:
    """All templates of a subject, oldest first."""
    return list(map(_Row._make, connection.execute(f"{_ROWS} WHERE t.subject = ? ORDER BY t.key", (subject,))))


def damage_in(connection: sqlite3.Connection, subject: int) -> Damage:
    """What is wrong with a subject that is not sound; if none of its templates is, its record."""
    rows = _rows_of(connection, subject)
    return _damage_of(rows) or Damage(subject, str(rows[0].subject_id), str(rows[0].collection), ())


def damage_of(connection: sqlite3.Connection, subject: int) -> Damage | None:
    """What is wrong with a subject; None if it is sound, or gone."""
    rows = _rows_of(connection, subject)
    return _damage_of(rows) if rows else None


def find_damage(connection: sqlite3.Connection, after: int, limit: int, on_damage: OnDamage) -> int:
    """Hands over the damaged ones of at most ``limit`` subjects with greater keys than ``after``.

    Returns the last key; 0 after the last subject.
    """
    query = "SELECT key FROM subjects WHERE key > ? ORDER BY key LIMIT ?"
    keys = [key for (key,) in connection.execute(query, (after, limit))]
    if not keys:
        return 0
    rows = connection.execute(
        f"{_ROWS} WHERE t.subject > ? AND t.subject <= ? ORDER BY t.subject, t.key",
        (after, keys[-1]),
    )
    for own in _by_subject(rows):
        if (damage := _damage_of(own)) is not None:
            on_damage(damage)
    return keys[-1] if len(keys) == limit else 0


def _by_subject(cursor: Iterable[Sequence[Any]]) -> Iterator[list[_Row]]:
    """The rows of each subject, from rows that are ordered by subject."""
    for _, rows in groupby(map(_Row._make, cursor), key=attrgetter("subject")):
        yield list(rows)


def insert_templates(
    connection: sqlite3.Connection,
    subject: int,
    templates: Sequence[NewTemplate],
    encoder: int,
    now: datetime,
    keys: Vault | None = None,
) -> None:
    """Stores new templates of a subject, encrypted if there are ``keys``; ValueError when an id is taken.

    Their chips are stored with them if the collection keeps chips.
    """
    collection, collection_id, subject_id, digest = connection.execute(
        """
        SELECT c.key, c.id, s.id, e.digest FROM subjects s JOIN collections c ON c.key = s.collection, encoders e
        WHERE s.key = ? AND e.key = ?
        """,
        (subject, encoder),
    ).fetchone()
    _refuse_taken(connection, [template.id for template in templates])
    embeddings = {t.id: t.embedding.astype("<f4", copy=False).tobytes() for t in templates}
    stored: list[tuple[bytes, bytes | None]] = [(embedding, None) for embedding in embeddings.values()]
    if keys is not None:
        # In one transaction: each waits for the disk.
        pictures = chips.to_keep(connection, collection_id, templates)
        sealed = keys.seal(embeddings | pictures)
        stored = [*sealed[: len(embeddings)]]
    for template, (kept, seal) in zip(templates, stored, strict=True):
        embedding, norm = embeddings[template.id], float(template.norm)
        check = template_digest(template.id, subject_id, collection_id, digest, embedding, norm)
        connection.execute(
            """
            INSERT INTO templates (id, collection, subject, encoder, embedding, created_at, norm, digest, seal)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            (template.id, collection, subject, encoder, kept, timestamp(now), norm, check, seal),
        )
    if keys is not None and pictures:
        chips.insert_chips(connection, templates, sealed[len(embeddings) :])


def _refuse_taken(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    """Before anything is encrypted: the key of a template that is there must not be replaced."""
    query = "SELECT id FROM templates WHERE id IN (SELECT value FROM json_each(?))"
    taken = [id_ for (id_,) in connection.execute(query, (json.dumps(ids),))]
    taken += [id_ for number, id_ in enumerate(ids) if not id_ or id_ in ids[:number]]
    if taken:
        raise ValueError(f"The template id {taken[0]!r} is empty or taken.")


def seal_templates(connection: sqlite3.Connection, keys: Vault) -> int:
    """Encrypts all templates that are not yet; returns how many."""
    count, query = 0, "SELECT key, id, embedding FROM templates WHERE seal IS NULL ORDER BY key LIMIT ?"
    while rows := connection.execute(query, (_LOAD_BATCH,)).fetchall():
        sealed = keys.seal({id_: embedding for _, id_, embedding in rows})
        connection.executemany(
            "UPDATE templates SET embedding = ?, seal = ? WHERE key = ?",
            [(*pair, key) for (key, _, _), pair in zip(rows, sealed, strict=True)],
        )
        count += len(rows)
    return count


def renew_crowding(
    connection: sqlite3.Connection,
    subject: int,
    crowding: Crowding,
    on_damage: OnDamage = refuse,
    *,
    most: int = MOST_FUSED,
) -> Batch:
    """Stores the crowding of the subject's current fused template; returns its entry for the index.

    most: how many of its templates are fused. Where one is damaged, the entry says that the subject is left out, if
    ``on_damage`` returns.
    """
    rows = _rows_of(connection, subject)
    if (damage := _damage_of(rows, crowding=False)) is not None:
        on_damage(damage)
        return _batch([], [subject], most)
    crowded = float(crowding(_fused(rows, most)[np.newaxis])[0])
    connection.execute("UPDATE subjects SET crowding = ? WHERE key = ?", (crowded, subject))
    return _batch([[row._replace(crowding=crowded) for row in rows]], [], most)


def _fused(rows: Sequence[_Row], most: int) -> Embedding:
    return fused_template(vectors_of([row.embedding for row in rows]), most)


def _batch(subjects: Sequence[Sequence[_Row]], left_out: Sequence[int], most: int) -> Batch:
    return Batch(
        np.array([rows[0].subject for rows in subjects], dtype=np.int64),
        np.stack([_fused(rows, most) for rows in subjects])
        if subjects
        else np.empty((0, EMBEDDING_SIZE), dtype=np.float32),
        np.array([rows[0].crowding for rows in subjects], dtype=np.float32),
        np.array([min(len(rows), most) for rows in subjects], dtype=np.int64),
        np.array(left_out, dtype=np.int64),
    )


def cohort_digest(crowding: Crowding, most: int) -> str:
    """What the stored crowding depends on: the cohort, and how many templates of a subject are fused at most."""
    return crowding.digest if most == MOST_FUSED else f"{crowding.digest} of {most}"


def bind_cohort(connection: sqlite3.Connection, crowding: Crowding, most: int = MOST_FUSED) -> None:
    """Makes sure that the crowding of every subject is from this cohort; recomputes it where it is not.

    And that it is of the newest ``most`` templates. Damaged subjects get none.
    """
    row, digest = connection.execute("SELECT digest FROM cohorts").fetchone(), cohort_digest(crowding, most)
    if row is None or row[0] != digest:
        connection.execute("DELETE FROM cohorts")
        connection.execute("INSERT INTO cohorts (digest) VALUES (?)", (digest,))
        connection.execute("UPDATE subjects SET crowding = NULL")
    # Advance by key: damaged subjects keep NULL.
    after, query = 0, "SELECT key FROM subjects WHERE crowding IS NULL AND key > ? ORDER BY key LIMIT ?"
    while keys := [key for (key,) in connection.execute(query, (after, _LOAD_BATCH))]:
        after = keys[-1]
        stored = connection.execute(
            f"{_ROWS} WHERE t.subject IN (SELECT value FROM json_each(?)) ORDER BY t.subject, t.key",  # noqa: S608
            (json.dumps(keys),),
        )
        sound = [rows for rows in _by_subject(stored) if _damage_of(rows, crowding=False) is None]
        if sound:
            crowded = crowding(np.stack([_fused(rows, most) for rows in sound])).tolist()
            connection.executemany(
                "UPDATE subjects SET crowding = ? WHERE key = ?",
                zip(crowded, (rows[0].subject for rows in sound), strict=True),
            )


def read_templates(
    connection: sqlite3.Connection, subjects: Sequence[int], on_damage: OnDamage = refuse, *, most: int = MOST_FUSED
) -> list[StoredTemplate]:
    """The newest ``most`` templates of the subjects with these keys, by subject and age.

    Damaged subjects are left out if ``on_damage`` returns.
    """
    rows = connection.execute(
        f"""
        SELECT {_COLUMNS}
        FROM json_each(?) wanted CROSS JOIN subjects s ON s.key = wanted.value CROSS JOIN templates t
        ON t.key IN (SELECT key FROM templates WHERE subject = s.key ORDER BY key DESC LIMIT ?)
        {OWNERS}
        ORDER BY s.key, t.key
        """,  # noqa: S608
        (json.dumps(list(subjects)), most),
    )
    found: list[StoredTemplate] = []
    for own in _by_subject(rows):
        if (damage := _damage_of(own)) is not None:
            on_damage(damage)
            continue
        found += [
            StoredTemplate(r.key, r.id, r.subject, r.subject_id, r.metadata, r.embedding, r.norm, r.crowding)
            for r in own
        ]
    return found


def read_vectors(connection: sqlite3.Connection, collection: int, after: str, limit: int) -> list[SubjectVectors]:
    """The newest ``MOST_FUSED`` templates of at most ``limit`` subjects with greater ids, by id.

    Raises TemplateDamaged.
    """
    found = connection.execute(
        "SELECT key FROM subjects WHERE collection = ? AND id > ? ORDER BY id LIMIT ?", (collection, after, limit)
    )
    stored = sorted(read_templates(connection, [row[0] for row in found]), key=lambda t: (t.subject_id, t.key))
    return [_vectors(list(own)) for _, own in groupby(stored, key=lambda t: t.subject_id)]


def all_vectors(connection: sqlite3.Connection, subject: int) -> SubjectVectors:
    """All templates of a subject, not only those to fuse. Raises TemplateDamaged, SubjectDamaged."""
    rows = _rows_of(connection, subject)
    if (damage := _damage_of(rows)) is not None:
        raise damage.error()
    return _vectors(rows)


def move_templates(connection: sqlite3.Connection, source: int, target: int) -> None:
    """Makes all templates of one subject those of another one of the same collection.

    Their digests are made anew, so whoever calls this has read them with ``all_vectors``. What they are sealed for
    names no subject, so that seals and chips stay as they are.
    """
    [(owner,)] = connection.execute("SELECT id FROM subjects WHERE key = ?", (target,))
    rows = _rows_of(connection, source)
    connection.executemany(
        "UPDATE templates SET subject = ?, digest = ? WHERE key = ?",
        [
            (target, template_digest(row.id, owner, row.collection, row.encoder, row.embedding, row.norm), row.key)
            for row in rows
        ],
    )


def _vectors(templates: Sequence[StoredTemplate | _Row]) -> SubjectVectors:
    return SubjectVectors(
        subject_id=templates[0].subject_id,
        template_ids=tuple(template.id for template in templates),
        embeddings=vectors_of([template.embedding for template in templates]),
        norms=np.array([template.norm for template in templates], dtype=np.float32),
        crowding=templates[0].crowding,
    )


def _went(connection: sqlite3.Connection, row: _Row, present: sqlite3.Connection) -> bool:
    """Whether a template does not open because it has been erased since the transaction began."""
    if row.embedding is not None:
        return False
    [(seal,)] = connection.execute("SELECT seal FROM templates WHERE key = ?", (row.key,))
    return isinstance(seal, bytes) and was_erased(present, seal)


def all_templates(
    connection: sqlite3.Connection, subject: int, present: sqlite3.Connection
) -> list[tuple[NewTemplate, str]]:
    """Every template of a subject with its time as stored, oldest first. Raises TemplateDamaged, SubjectDamaged.

    Encrypted templates that were erased since the transaction began, as ``present`` sees it, are left out.
    """
    query = f"SELECT t.created_at, {_COLUMNS} FROM templates t JOIN subjects s ON s.key = t.subject {OWNERS}"  # noqa: S608
    times, rows = [], []
    for created_at, *values in connection.execute(f"{query} WHERE t.subject = ? ORDER BY t.key", (subject,)):
        row = _Row._make(values)
        if _went(connection, row, present):
            continue
        times.append(created_at)
        rows.append(row)
    if rows and (damage := _damage_of(rows, crowding=False)) is not None:
        raise damage.error()
    return [
        (NewTemplate(row.id, vectors_of([row.embedding])[0], row.norm), time)
        for row, time in zip(rows, times, strict=True)
    ]


def damaged_subjects(connection: sqlite3.Connection, present: sqlite3.Connection | None = None) -> Iterator[Damage]:
    """Every subject with a damaged template or record, whether or not its crowding has been computed.

    present: reads the same database as it is now; encrypted templates that were erased since are not damaged.
    """
    for rows in _by_subject(connection.execute(f"{_ROWS} ORDER BY t.subject, t.key")):
        damage = _damage_of(rows, crowding=False)
        if damage is not None and present is not None:
            rest = [row for row in rows if not _went(connection, row, present)]
            damage = _damage_of(rest, crowding=False) if rest else None
        if damage is not None:
            yield damage


def subject_keys(connection: sqlite3.Connection, collection: int) -> Keys:
    """The keys of all subjects in a collection, int64 [N]."""
    rows = connection.execute("SELECT key FROM subjects WHERE collection = ?", (collection,))
    return np.array([row[0] for row in rows], dtype=np.int64)
