"""The stored templates: the only SQL that reads or writes embeddings. What does not fit its digest is never used.

Every function works inside the transaction of the connection it is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from app.crowding import Crowding
from app.embeddings import MOST_FUSED, Embedding, fused_template
from app.gallery.damage import Damage, OnDamage, refuse
from app.gallery.postgres import queries
from app.gallery.postgres.binding import Binding, refuse_other
from app.gallery.records import NewTemplate, SubjectVectors
from app.gallery.sqlite.digests import matches, template_digest
from app.gallery.sqlite.ranking import StoredTemplate, vectors_of
from app.gallery.sqlite.templates import cohort_digest
from app.gallery.sqlite.values import is_metadata
from app.postgres import Connection, constant

_BATCH = 2048
NO_SUBJECT = (0, 0)
"""Collection and key before those of all subjects."""
"""Before the first subject."""


class Row(NamedTuple):
    """A template as it is stored, with its subject, and the cohort that the gallery is bound to."""

    key: int
    id: str
    embedding: bytes
    norm: float
    digest: bytes
    created_at: datetime
    encoder: str
    subject: int
    subject_id: str
    metadata: str
    crowding: float
    collection: str
    cohort: str


COLUMNS = """
    t.key, t.id, t.embedding, t.norm, t.digest, t.created_at, e.digest, s.key, s.id, s.metadata, s.crowding, c.id,
    (SELECT digest FROM cohorts)
"""
OWNERS = "JOIN collections c ON c.key = s.collection JOIN encoders e ON e.key = t.encoder"
NEWEST = f"""
    CROSS JOIN LATERAL (
        SELECT * FROM templates WHERE collection = s.collection AND subject = s.key ORDER BY key DESC LIMIT {MOST_FUSED}
    ) t {OWNERS}
"""  # noqa: S608
"""Joins a subject ``s`` with the templates to fuse."""
_ALL = f"""
    SELECT {COLUMNS} FROM subjects s JOIN templates t ON t.collection = s.collection AND t.subject = s.key {OWNERS}
"""  # noqa: S608


def _damage_of(rows: Sequence[Row]) -> Damage | None:
    first = rows[0]
    templates = tuple(
        r.id
        for r in rows
        if r.id is not None and not matches(r.digest, r.id, r.subject_id, r.collection, r.encoder, r.embedding, r.norm)
    )
    # Nothing but damage takes a subject's only template from it.
    sound = not templates and first.id is not None and is_metadata(first.metadata)
    return None if sound else Damage(first.subject, first.subject_id, first.collection, templates)


def by_subject(rows: Iterable[Sequence[Any]]) -> Iterator[list[Row]]:
    """The rows of each subject, from rows that are grouped by subject."""
    for _, own in groupby(map(Row._make, rows), key=attrgetter("subject")):
        yield sorted(own)


class Reading(NamedTuple):
    """How stored templates are read to be compared.

    mine: the encoder and cohort that they have to come from; None: from any. most: how many of a subject, the newest.
    on_damage: gets subjects that are damaged; they are left out if it returns.
    """

    mine: Binding | None
    most: int = MOST_FUSED
    on_damage: OnDamage = refuse


def sound(rows: Iterable[Sequence[Any]], reading: Reading) -> list[StoredTemplate]:
    """The templates to compare of each subject, from rows that are grouped by subject.

    Raises GalleryUnavailable for templates of another encoder or cohort, which cannot be compared.
    """
    found: list[StoredTemplate] = []
    for own in by_subject(rows):
        if reading.mine is not None:
            for row in own:
                refuse_other(reading.mine, Binding(row.encoder, row.cohort))
        if (damage := _damage_of(own)) is not None:
            reading.on_damage(damage)
            continue
        found += [
            StoredTemplate(r.key, r.id, r.subject, r.subject_id, r.metadata, r.embedding, r.norm, r.crowding)
            for r in own[-reading.most :]
        ]
    return found


def read_templates(connection: Connection, collection: str, subject_id: str, reading: Reading) -> list[StoredTemplate]:
    """The templates to compare of a subject, oldest first.

    Raises CollectionNotFound, TemplateDamaged, SubjectDamaged; GalleryUnavailable as ``sound`` does.
    """
    key = queries.collection_key(connection, collection)
    query = f"SELECT {COLUMNS} FROM subjects s {NEWEST} WHERE s.collection = %s AND s.id = %s"  # noqa: S608
    return sound(connection.execute(constant(query), (key, subject_id)), reading)


def read_vectors(
    connection: Connection, collection: str, after: str, limit: int, mine: Binding
) -> list[SubjectVectors]:
    """The newest ``MOST_FUSED`` templates of at most ``limit`` subjects with greater ids, by id.

    Raises TemplateDamaged; GalleryUnavailable as ``sound`` does.
    """
    key = queries.collection_key(connection, collection)
    rows = connection.execute(
        constant(
            f"""
            SELECT {COLUMNS}
            FROM (SELECT * FROM subjects WHERE collection = %s AND id > %s ORDER BY id LIMIT %s) s {NEWEST}
            ORDER BY s.id
            """  # noqa: S608
        ),
        (key, after, limit),
    )
    return [vectors_of_rows(list(own)) for _, own in groupby(sound(rows, Reading(mine)), key=lambda t: t.subject_id)]


def vectors_of_rows(templates: Sequence[StoredTemplate | Row]) -> SubjectVectors:
    """A subject's templates, from its rows."""
    return SubjectVectors(
        subject_id=templates[0].subject_id,
        template_ids=tuple(template.id for template in templates),
        embeddings=vectors_of([template.embedding for template in templates]),
        norms=np.array([template.norm for template in templates], dtype=np.float32),
        crowding=templates[0].crowding,
    )


class Compared(NamedTuple):
    """What a subject is found by: how many templates it has, up to ``MOST_FUSED``, and of those that are fused the
    crowding and the vector to search for.
    """

    fused: int
    crowding: float
    mean: str


def compared(embeddings: npt.NDArray[np.float32], crowding: Crowding, most: int) -> Compared:
    """From all templates of a subject, unit-length [K, 128], oldest first; the newest ``most`` are fused."""
    fused = fused_template(embeddings, most)
    crowded = float(crowding(fused[np.newaxis])[0])
    return Compared(min(len(embeddings), MOST_FUSED), crowded, vector_text(fused, -crowded / 2))


def vector_text(embedding: Embedding, last: float) -> str:
    """An embedding and one more number as pgvector reads them."""
    return f"[{','.join(map(repr, embedding.tolist()))},{last!r}]"


def stored_rows(connection: Connection, collection: int, subject: int, *, damaged: OnDamage = refuse) -> list[Row]:
    """All templates of a subject, oldest first. Raises TemplateDamaged, SubjectDamaged if ``damaged`` does."""
    query = constant(f"{_ALL} WHERE s.collection = %s AND s.key = %s ORDER BY t.key")
    rows = [Row._make(row) for row in connection.execute(query, (collection, subject))]
    if rows and (damage := _damage_of(rows)) is not None:
        damaged(damage)
    return rows


def move_templates(connection: Connection, rows: Sequence[Row], subject: tuple[int, str]) -> None:
    """Makes sound templates those of another subject, by key and id, of the same collection."""
    digests = [template_digest(r.id, subject[1], r.collection, r.encoder, r.embedding, r.norm) for r in rows]
    connection.execute(
        """
        UPDATE templates t SET subject = %s, digest = n.digest
        FROM unnest(%s::bigint[], %s::bytea[]) AS n (key, digest) WHERE t.key = n.key
        """,
        (subject[0], [row.key for row in rows], digests),
    )


def page_of_rows(connection: Connection, collection: int, after: str, limit: int) -> Iterator[list[Row]]:
    """All templates of each of at most ``limit`` subjects with greater ids, by id. Raises TemplateDamaged."""
    query = constant(
        f"""
        {_ALL} WHERE s.collection = %s AND s.key IN (
            SELECT key FROM subjects WHERE collection = %s AND id > %s ORDER BY id LIMIT %s
        ) ORDER BY s.id
        """  # noqa: S608
    )
    for rows in by_subject(connection.execute(query, (collection, collection, after, limit))):
        if (damage := _damage_of(rows)) is not None:
            refuse(damage)
        yield rows


def insert_templates(
    connection: Connection,
    collection: tuple[int, str],
    subject: tuple[int, str],
    templates: Sequence[tuple[NewTemplate, datetime]],
    encoder: tuple[int, str],
) -> None:
    """Stores templates of a subject with their times; owners come by key and id. ValueError when an id is taken."""
    rows = []
    for template, time in templates:
        embedding, norm = template.embedding.astype("<f4", copy=False).tobytes(), float(template.norm)
        digest = template_digest(template.id, subject[1], collection[1], encoder[1], embedding, norm)
        rows.append((template.id, embedding, norm, digest, time))
    ids, embeddings, norms, digests, created = zip(*rows, strict=True)
    if "" in ids or len(set(ids)) < len(ids):
        raise ValueError("A template id is empty or given twice.")
    stored = connection.execute(
        """
        INSERT INTO templates (collection, subject, encoder, id, embedding, norm, digest, created_at)
        SELECT %s, %s, %s, n.id, n.embedding, n.norm, n.digest, n.created_at
        FROM unnest(%s::text[], %s::bytea[], %s::float8[], %s::bytea[], %s::timestamptz[]) WITH ORDINALITY
             AS n (id, embedding, norm, digest, created_at, place)
        ORDER BY n.place ON CONFLICT (id) DO NOTHING
        """,
        (collection[0], subject[0], encoder[0], *map(list, (ids, embeddings, norms, digests, created))),
    ).rowcount
    if stored < len(rows):
        raise ValueError("A template id is taken.")


def set_compared(connection: Connection, collection: int, subject: int, found: Compared) -> None:
    """Stores what a subject is found by."""
    connection.execute(
        "UPDATE subjects SET fused = %s, crowding = %s, mean = %s::halfvec WHERE collection = %s AND key = %s",
        (*found, collection, subject),
    )


def bind_cohort(connection: Connection, crowding: Crowding, most: int) -> None:
    """Makes sure that what every subject is found by is from this cohort; recomputes it where it is not.

    And that it is of the newest ``most`` templates. Damaged subjects keep what they have.
    """
    row, digest = connection.execute("SELECT digest FROM cohorts").fetchone(), cohort_digest(crowding, most)
    if row is not None and row[0] == digest:
        return
    # The row stays: who waits for it finds what it says then.
    if row is None:
        connection.execute("INSERT INTO cohorts (digest) VALUES (%s)", (digest,))
    else:
        connection.execute("UPDATE cohorts SET digest = %s", (digest,))
    for (collection,) in connection.execute("SELECT key FROM collections").fetchall():
        after = -1
        while keys := connection.execute(
            "SELECT key FROM subjects WHERE collection = %s AND key > %s ORDER BY key LIMIT %s",
            (collection, after, _BATCH),
        ).fetchall():
            after = keys[-1][0]
            rows = connection.execute(
                constant(f"{_ALL} WHERE s.collection = %s AND s.key = ANY(%s) ORDER BY s.key"),
                (collection, [key for (key,) in keys]),
            )
            for own in by_subject(rows.fetchall()):
                if _damage_of(own) is None:
                    found = compared(vectors_of([r.embedding for r in own]), crowding, most)
                    set_compared(connection, collection, own[0].subject, found)


def damaged_subjects(connection: Connection) -> Iterator[Damage]:
    """Every subject with a damaged template or record."""
    with connection.cursor(name="damage") as cursor:
        for rows in by_subject(cursor.execute(constant(f"{_ALL} ORDER BY s.collection, s.key"))):
            if (damage := _damage_of(rows)) is not None:
                yield damage


# Not inner joins: a reference that is damaged, or templates that are gone, must not hide a subject.
_REVIEWED = """
    LEFT JOIN templates t ON t.collection = s.collection AND t.subject = s.key
    LEFT JOIN collections c ON c.key = s.collection LEFT JOIN encoders e ON e.key = t.encoder
"""


def find_damage(connection: Connection, after: tuple[int, int], limit: int, on_damage: OnDamage) -> tuple[int, int]:
    """Hands over the damaged ones of at most ``limit`` subjects beyond a place, by collection and key.

    Returns how far that came; ``NO_SUBJECT`` after the last subject.
    """
    subjects = connection.execute(
        """
        SELECT collection, key FROM subjects WHERE (collection, key) > (%s, %s) ORDER BY collection, key LIMIT %s
        """,
        (*after, limit),
    ).fetchall()
    if not subjects:
        return NO_SUBJECT
    query = f"""
        SELECT {COLUMNS} FROM subjects s {_REVIEWED}
        WHERE (s.collection, s.key) > (%s, %s) AND (s.collection, s.key) <= (%s, %s) ORDER BY s.key
    """  # noqa: S608
    rows = connection.execute(constant(query), (*after, *subjects[-1])).fetchall()
    for own in by_subject(rows):
        if (damage := _damage_of(own)) is not None:
            on_damage(damage)
    return NO_SUBJECT if len(subjects) < limit else subjects[-1]


def is_damaged(connection: Connection, damage: Damage) -> bool:
    """Whether a subject that was damaged still is; one that is gone is not."""
    query = f"SELECT {COLUMNS} FROM subjects s {_REVIEWED} WHERE c.id = %s AND s.key = %s"  # noqa: S608
    rows = connection.execute(constant(query), (damage.collection, damage.subject)).fetchall()
    return any(_damage_of(own) is not None for own in by_subject(rows))
