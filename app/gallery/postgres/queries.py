"""The SQL of collections and subjects. Every function works inside the transaction of the connection it is given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

from app.gallery.protocol import (
    CollectionNotFound,
    EncoderMismatch,
    GalleryUnavailable,
    SubjectDamaged,
    SubjectNotFound,
    TemplateNotFound,
)
from app.gallery.records import Collection, CollectionSize, Subject, Targets, Template
from app.gallery.sqlite.values import load_metadata
from app.postgres import Connection, constant

_SHARDS = 16


def bind_encoder(connection: Connection, place: str, digest: str) -> int:
    """The key under which templates of this encoder are stored; a new encoder is recorded.

    Raises EncoderMismatch when there is a template of any other encoder; ``place`` is named in its message.
    """
    others = connection.execute(
        """
        SELECT digest FROM encoders e
        WHERE digest <> %s AND EXISTS (SELECT 1 FROM templates t WHERE t.encoder = e.key) ORDER BY digest
        """,
        (digest,),
    ).fetchall()
    if others:
        names = [str(other) for (other,) in others]
        raise EncoderMismatch(
            f"Stored templates in {place} come from encoder {', '.join(map(short, names))}, but this server runs "
            f"encoder {short(digest)}, and embeddings of two encoders cannot be compared. Serve with the encoder they "
            "come from (TESSERA_ENCODING__ENCODER chooses it), or start with a new database and enrol everyone again.",
            stored_encoders=names,
            encoder=digest,
        )
    connection.execute("INSERT INTO encoders (digest) VALUES (%s) ON CONFLICT DO NOTHING", (digest,))
    return _one(connection, "SELECT key FROM encoders WHERE digest = %s", digest)


def stored_encoder(connection: Connection) -> str:
    """The digest of the encoder whose templates are stored. Raises GalleryUnavailable if there is none."""
    row = connection.execute(
        """
        SELECT digest FROM encoders e
        ORDER BY EXISTS (SELECT 1 FROM templates t WHERE t.encoder = e.key) DESC, key DESC LIMIT 1
        """
    ).fetchone()
    if row is None:
        raise GalleryUnavailable("The gallery has never been opened with an encoder.")
    return str(row[0])


def short(digest: str) -> str:
    """A digest as messages name it."""
    algorithm, separator, value = digest.rpartition(":")
    return f"{algorithm}{separator}{value[:12]}"


def _one(connection: Connection, query: str, *values: object) -> int:
    row = connection.execute(constant(query), values).fetchone()
    assert row is not None
    return int(row[0])


def collection_key(connection: Connection, collection: str, lock: str = "") -> int:
    """Raises CollectionNotFound.

    lock: ``FOR KEY SHARE`` keeps the collection from being erased meanwhile, ``FOR UPDATE`` everybody from writing.
    """
    row = connection.execute(
        constant(f"SELECT key FROM collections WHERE id = %s {lock}"),  # noqa: S608
        (collection,),
    ).fetchone()
    if row is None:
        raise CollectionNotFound(f"There is no collection {collection!r}.")
    return int(row[0])


def insert_collection(connection: Connection, collection: str, now: datetime) -> int | None:
    """The key of a new collection; None when there is one of this id."""
    row = connection.execute(
        "INSERT INTO collections (id, created_at) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING key",
        (collection, now),
    ).fetchone()
    return None if row is None else int(row[0])


def set_targets(connection: Connection, collection: int, targets: Targets) -> None:
    """Replaces the target rates of a collection."""
    connection.execute(
        "UPDATE collections SET target_fmr = %s, target_fpir = %s, claim = %s WHERE key = %s",
        (targets.fmr, targets.fpir, targets.claim, collection),
    )


def read_targets(connection: Connection, collection: str) -> Targets:
    """Raises CollectionNotFound."""
    row = connection.execute(
        "SELECT target_fmr, target_fpir, claim FROM collections WHERE id = %s", (collection,)
    ).fetchone()
    if row is None:
        raise CollectionNotFound(f"There is no collection {collection!r}.")
    return Targets(*row)


_COLLECTIONS = """
    SELECT c.id, c.created_at, COALESCE(SUM(s.subjects), 0)::bigint, COALESCE(SUM(s.templates), 0)::bigint,
           c.target_fmr, c.target_fpir, c.claim
    FROM collections c LEFT JOIN sizes s ON s.collection = c.key
"""


def read_collections(connection: Connection) -> list[Collection]:
    """All collections by id, with their counts."""
    rows = connection.execute(constant(f"{_COLLECTIONS} GROUP BY c.key ORDER BY c.id"))
    return [_collection(row) for row in rows]


def read_collection(connection: Connection, collection: int) -> Collection:
    """One collection, with its counts."""
    row = connection.execute(constant(f"{_COLLECTIONS} WHERE c.key = %s GROUP BY c.key"), (collection,)).fetchone()
    assert row is not None
    return _collection(row)


def _collection(row: Sequence[Any]) -> Collection:
    id_, created_at, subjects, templates, *targets = row
    return Collection(id_, created_at, subjects, templates, Targets(*targets))


def read_size(connection: Connection, collection: str) -> tuple[int, CollectionSize, int]:
    """The key of a collection, its size, and how many templates it has. Raises CollectionNotFound."""
    row = connection.execute(
        """
        SELECT c.key, COALESCE(SUM(s.subjects), 0)::bigint, COALESCE(MAX(s.fused) FILTER (WHERE s.subjects > 0), 0),
               COALESCE(SUM(s.templates), 0)::bigint
        FROM collections c LEFT JOIN sizes s ON s.collection = c.key WHERE c.id = %s GROUP BY c.key
        """,
        (collection,),
    ).fetchone()
    if row is None:
        raise CollectionNotFound(f"There is no collection {collection!r}.")
    return row[0], CollectionSize(row[1], row[2]), row[3]


def count(connection: Connection, collection: int, subject: int, changes: Sequence[tuple[int, int, int]]) -> None:
    """Adds to the size of a collection, for each number of compared templates: (that, subjects, templates)."""
    # In one order everywhere, so that nobody waits for somebody who waits for him.
    for fused, subjects, templates in sorted(changes):
        connection.execute(
            """
            INSERT INTO sizes (collection, shard, fused, subjects, templates) VALUES (%s, %s, %s, %s, %s)
            ON CONFLICT (collection, shard, fused) DO UPDATE
            SET subjects = sizes.subjects + excluded.subjects, templates = sizes.templates + excluded.templates
            """,
            (collection, subject % _SHARDS, fused, subjects, templates),
        )


def lock_subject(connection: Connection, collection: int, subject_id: str) -> None:
    """Keeps other enrolments of this subject waiting until the end of the transaction, whether or not it is there."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, %s))", (subject_id, collection))


def find_subject(connection: Connection, collection: int, subject_id: str, lock: str = "") -> int | None:
    """The key of a subject. lock: ``FOR UPDATE`` keeps others from changing it meanwhile."""
    row = connection.execute(
        constant(f"SELECT key FROM subjects WHERE collection = %s AND id = %s {lock}"),  # noqa: S608
        (collection, subject_id),
    ).fetchone()
    return None if row is None else int(row[0])


def subject_key(connection: Connection, collection: str, subject_id: str, lock: str = "") -> tuple[int, int]:
    """The keys of a collection and of a subject. Raises CollectionNotFound, SubjectNotFound."""
    key = collection_key(connection, collection, "FOR KEY SHARE" if lock else "")
    found = find_subject(connection, key, subject_id, lock)
    if found is None:
        raise SubjectNotFound(f"There is no subject {subject_id!r} in collection {collection!r}.")
    return key, found


def insert_subject(
    connection: Connection, collection: int, subject_id: str, values: tuple[str, datetime, int, float, str]
) -> int:
    """The key of a new subject. values: metadata, the time, and what it is found by."""
    metadata, now, fused, crowding, mean = values
    row = connection.execute(
        """
        INSERT INTO subjects (collection, id, metadata, created_at, updated_at, fused, crowding, mean)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s::halfvec) RETURNING key
        """,
        (collection, subject_id, metadata, now, now, fused, crowding, mean),
    ).fetchone()
    assert row is not None
    return int(row[0])


def touch_subject(connection: Connection, collection: int, subject: int, metadata: str | None, now: datetime) -> None:
    """Records that the subject was changed; metadata None keeps the stored value."""
    connection.execute(
        "UPDATE subjects SET metadata = COALESCE(%s, metadata), updated_at = %s WHERE collection = %s AND key = %s",
        (metadata, now, collection, subject),
    )


_SUBJECTS = """
    SELECT s.id, s.metadata, s.created_at, s.updated_at, t.id, t.created_at, t.norm
    FROM subjects s LEFT JOIN templates t ON t.collection = s.collection AND t.subject = s.key
"""


def read_subject(connection: Connection, collection: str, subject_id: str) -> Subject:
    """Raises CollectionNotFound, SubjectNotFound."""
    rows = connection.execute(
        constant(f"{_SUBJECTS} WHERE s.collection = %s AND s.id = %s ORDER BY t.key"),
        (collection_key(connection, collection), subject_id),
    ).fetchall()
    if not rows:
        raise SubjectNotFound(f"There is no subject {subject_id!r} in collection {collection!r}.")
    return _subject(collection, rows)


def read_subjects(connection: Connection, collection: str, after: str, limit: int) -> list[Subject]:
    """At most ``limit`` subjects with greater ids, by id. Raises CollectionNotFound."""
    key = collection_key(connection, collection)
    rows = connection.execute(
        constant(
            f"""
            {_SUBJECTS} JOIN (SELECT key FROM subjects WHERE collection = %s AND id > %s ORDER BY id LIMIT %s) page
            ON page.key = s.key WHERE s.collection = %s ORDER BY s.id, t.key
            """  # noqa: S608
        ),
        (key, after, limit, key),
    )
    return [_subject(collection, list(own)) for _, own in groupby(rows, key=itemgetter(0))]


def _subject(collection: str, rows: Sequence[Sequence[Any]]) -> Subject:
    """A subject from its rows, one per template."""
    id_, metadata, created_at, updated_at, *_ = rows[0]
    try:
        return Subject(
            id=id_,
            collection=collection,
            metadata=load_metadata(metadata),
            created_at=created_at,
            updated_at=updated_at,
            templates=tuple(Template(id=row[4], created_at=row[5], norm=row[6]) for row in rows if row[4] is not None),
        )
    except ValueError as error:
        raise SubjectDamaged(
            f"The stored record of subject {id_!r} in collection {collection!r} is damaged: {error} Replace its "
            "metadata; else erase the subject, or restore a backup.",
            collection=collection,
            subject_id=id_,
        ) from error


def template_key(connection: Connection, collection: int, subject: int, template_id: str) -> int:
    """Raises TemplateNotFound."""
    row = connection.execute(
        "SELECT key FROM templates WHERE collection = %s AND subject = %s AND id = %s",
        (collection, subject, template_id),
    ).fetchone()
    if row is None:
        raise TemplateNotFound(f"The subject has no template {template_id!r}.")
    return int(row[0])


def count_templates(connection: Connection, collection: int, subject: int) -> int:
    """How many templates a subject has."""
    query = "SELECT COUNT(*) FROM templates WHERE collection = %s AND subject = %s"
    return _one(connection, query, collection, subject)


def lock_templates(connection: Connection, collection: int, subject: int) -> None:
    """Waits for those who refer to a template of a subject, and keeps others from it until the end."""
    query = "SELECT 1 FROM templates WHERE collection = %s AND subject = %s ORDER BY key FOR UPDATE"
    connection.execute(query, (collection, subject))


def delete_templates(connection: Connection, collection: int, subject: int) -> int:
    """Erases all templates of a subject; returns how many."""
    query = "DELETE FROM templates WHERE collection = %s AND subject = %s"
    return connection.execute(query, (collection, subject)).rowcount


def delete_template(connection: Connection, template: int) -> None:
    """Erases one template."""
    connection.execute("DELETE FROM templates WHERE key = %s", (template,))


def delete_subject(connection: Connection, collection: int, subject: int) -> None:
    """Erases a subject with its receipts."""
    connection.execute("DELETE FROM subjects WHERE collection = %s AND key = %s", (collection, subject))


def delete_all(connection: Connection, table: str, collection: int) -> None:
    """Erases the rows of a collection from ``templates``, ``subjects`` or ``sizes``."""
    connection.execute(constant(f"DELETE FROM {table} WHERE collection = %s"), (collection,))  # noqa: S608


def delete_collection(connection: Connection, collection: int) -> None:
    """Erases a collection with everything in it."""
    connection.execute("DELETE FROM collections WHERE key = %s", (collection,))


def broken_indexes(connection: Connection) -> list[str]:
    """For each index that PostgreSQL does not use because its building failed, a sentence with what to do."""
    # A REINDEX CONCURRENTLY under way holds this lock on the indexes that it makes and replaces, and nobody else does.
    rows = connection.execute(
        """
        SELECT format('%I.%I', n.nspname, i.relname), i.relname ~ '_cc(new|old)[0-9]*$'
        FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = i.relnamespace
        WHERE n.nspname = 'tessera' AND NOT x.indisvalid AND NOT EXISTS (
            SELECT 1 FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
            WHERE l.relation = x.indexrelid AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted
        ) ORDER BY 1
        """
    )
    return [
        f"The index {name} was left over by a REINDEX that failed: DROP INDEX {name} removes it."
        if left_over
        else f"The index {name} is not valid: REINDEX INDEX {name} builds it anew."
        for name, left_over in rows
    ]


def miscounted(connection: Connection, most_fused: int) -> list[tuple[str, int, int]]:
    """Collections whose counts do not fit: id, subjects that are there, subjects that are counted."""
    rows = connection.execute(
        """
        SELECT c.id, COALESCE(stored.subjects, 0), COALESCE(counted.subjects, 0) FROM collections c
        LEFT JOIN (
            SELECT collection, COUNT(*) AS subjects, SUM(templates)::bigint AS templates,
                   SUM(LEAST(templates, %s)) AS fused
            FROM (SELECT collection, COUNT(*) AS templates FROM templates GROUP BY collection, subject) t
            GROUP BY collection
        ) stored ON stored.collection = c.key
        LEFT JOIN (
            SELECT collection, SUM(subjects)::bigint AS subjects, SUM(templates)::bigint AS templates,
                   SUM(subjects * fused) AS fused
            FROM sizes GROUP BY collection
        ) counted ON counted.collection = c.key
        WHERE (COALESCE(stored.subjects, 0), COALESCE(stored.templates, 0), COALESCE(stored.fused, 0))
           <> (COALESCE(counted.subjects, 0), COALESCE(counted.templates, 0), COALESCE(counted.fused, 0))
        ORDER BY c.id
        """,
        (most_fused,),
    )
    return [(str(id_), int(stored), int(counted)) for id_, stored, counted in rows]
