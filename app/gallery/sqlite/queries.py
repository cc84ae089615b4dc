"""The SQL of the embedded gallery. Every function works inside the transaction of the connection it is given."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from app.crowding import Crowding
from app.embeddings import MOST_FUSED, Embedding, fused_template, have_unit_norm
from app.gallery.protocol import (
    CollectionNotFound,
    EncoderMismatch,
    GalleryUnavailable,
    Receipt,
    SubjectNotFound,
    TemplateNotFound,
)
from app.gallery.records import Collection, NewTemplate, Subject, SubjectVectors, Targets, Template
from app.gallery.sqlite.index import Batch, Keys
from app.gallery.sqlite.ranking import StoredTemplate, vectors_of

_LOAD_BATCH = 8192


def dump_metadata(metadata: Mapping[str, Any]) -> str:
    """JSON text; TypeError or ValueError when it is not JSON."""
    return json.dumps(dict(metadata), allow_nan=False, separators=(",", ":"))


def load_metadata(text: str) -> dict[str, Any]:
    """The inverse of ``dump_metadata``."""
    metadata: dict[str, Any] = json.loads(text)
    return metadata


def timestamp(moment: datetime) -> str:
    """UTC, ISO 8601, of constant length, so that text order is time order."""
    return moment.isoformat(timespec="microseconds")


def bind_encoder(connection: sqlite3.Connection, directory: Path, digest: str) -> int:
    """The key under which templates of this encoder are stored; a new encoder is recorded.

    Raises EncoderMismatch when there is a template of any other encoder; ``directory`` is named in its message.
    """
    _refuse_other_encoders(connection, directory, digest)
    connection.execute("INSERT OR IGNORE INTO encoders (digest) VALUES (?)", (digest,))
    return int(connection.execute("SELECT key FROM encoders WHERE digest = ?", (digest,)).fetchone()[0])


def _refuse_other_encoders(connection: sqlite3.Connection, directory: Path, digest: str) -> None:
    others: dict[str, int] = dict(
        connection.execute(
            """
            SELECT e.digest, COUNT(*) FROM encoders e JOIN templates t ON t.encoder = e.key
            WHERE e.digest <> ? GROUP BY e.digest ORDER BY e.digest
            """,
            (digest,),
        )
    )
    if not others:
        return
    templates = sum(others.values())
    raise EncoderMismatch(
        f"{templates} stored template(s) in {directory} come from encoder {', '.join(map(_short_digest, others))}, "
        f"but this server runs encoder {_short_digest(digest)}, and embeddings of two encoders cannot be compared. "
        "Serve with the encoder they come from (TESSERA_ENCODING__ENCODER chooses it), or start with a new data "
        "directory and enrol everyone again: photographs are not kept, so the templates cannot be made anew.",
        templates=templates,
        stored_encoders=list(others),
        encoder=digest,
    )


def _short_digest(digest: str) -> str:
    algorithm, separator, value = digest.rpartition(":")
    return f"{algorithm}{separator}{value[:12]}"


def collection_key(connection: sqlite3.Connection, collection: str) -> int:
    """Raises CollectionNotFound."""
    row = connection.execute("SELECT key FROM collections WHERE id = ?", (collection,)).fetchone()
    if row is None:
        raise CollectionNotFound(f"There is no collection {collection!r}.")
    return int(row[0])


def collection_ids(connection: sqlite3.Connection) -> dict[str, int]:
    """The key of every collection, by id."""
    return dict(connection.execute("SELECT id, key FROM collections"))


def insert_collection(connection: sqlite3.Connection, collection: str, now: datetime) -> int:
    """The key of a new collection; sqlite3.IntegrityError when there is one of this id."""
    cursor = connection.execute(
        "INSERT INTO collections (id, created_at) VALUES (?, ?) RETURNING key", (collection, timestamp(now))
    )
    return int(cursor.fetchone()[0])


def set_targets(connection: sqlite3.Connection, collection: int, targets: Targets) -> None:
    """Replaces the target rates of a collection."""
    connection.execute(
        "UPDATE collections SET target_fmr = ?, target_fpir = ?, claim = ? WHERE key = ?",
        (targets.fmr, targets.fpir, targets.claim, collection),
    )


def read_targets(connection: sqlite3.Connection, collection: str) -> Targets:
    """Raises CollectionNotFound."""
    key = collection_key(connection, collection)
    return Targets(
        *connection.execute("SELECT target_fmr, target_fpir, claim FROM collections WHERE key = ?", (key,)).fetchone()
    )


_COLLECTIONS = """
    SELECT c.id, c.created_at,
           (SELECT COUNT(*) FROM subjects s WHERE s.collection = c.key),
           (SELECT COUNT(*) FROM templates t WHERE t.collection = c.key),
           c.target_fmr, c.target_fpir, c.claim
    FROM collections c
"""


def read_collections(connection: sqlite3.Connection) -> list[Collection]:
    """All collections by id, with their counts."""
    return [_collection(row) for row in connection.execute(f"{_COLLECTIONS} ORDER BY c.id")]


def read_collection(connection: sqlite3.Connection, collection: int) -> Collection:
    """One collection, with its counts."""
    return _collection(connection.execute(f"{_COLLECTIONS} WHERE c.key = ?", (collection,)).fetchone())


def _collection(row: tuple[Any, ...]) -> Collection:
    id_, created_at, subjects, templates, *targets = row
    return Collection(id_, datetime.fromisoformat(created_at), subjects, templates, Targets(*targets))


def subject_key(connection: sqlite3.Connection, collection: str, subject_id: str) -> int:
    """Raises CollectionNotFound, SubjectNotFound."""
    row = connection.execute(
        "SELECT key FROM subjects WHERE collection = ? AND id = ?", (collection_key(connection, collection), subject_id)
    ).fetchone()
    if row is None:
        raise SubjectNotFound(f"There is no subject {subject_id!r} in collection {collection!r}.")
    return int(row[0])


def insert_subject(
    connection: sqlite3.Connection, collection: int, subject_id: str, metadata: str, now: datetime
) -> int:
    """The key of a new subject."""
    cursor = connection.execute(
        """
        INSERT INTO subjects (collection, id, metadata, created_at, updated_at) VALUES (?, ?, ?, ?, ?) RETURNING key
        """,
        (collection, subject_id, metadata, timestamp(now), timestamp(now)),
    )
    return int(cursor.fetchone()[0])


def touch_subject(connection: sqlite3.Connection, subject: int, metadata: str | None, now: datetime) -> None:
    """Records that the subject was changed; metadata None keeps the stored value."""
    connection.execute(
        "UPDATE subjects SET metadata = COALESCE(?, metadata), updated_at = ? WHERE key = ?",
        (metadata, timestamp(now), subject),
    )


_SUBJECTS = """
    SELECT s.id, s.metadata, s.created_at, s.updated_at, t.id, t.created_at
    FROM subjects s LEFT JOIN templates t ON t.subject = s.key
"""


def read_subject(connection: sqlite3.Connection, collection: str, subject_id: str) -> Subject:
    """Raises CollectionNotFound, SubjectNotFound."""
    key = subject_key(connection, collection, subject_id)
    rows = connection.execute(f"{_SUBJECTS} WHERE s.key = ? ORDER BY t.key", (key,)).fetchall()
    return _subject(collection, rows)


def read_subjects(connection: sqlite3.Connection, collection: str, after: str, limit: int) -> list[Subject]:
    """At most ``limit`` subjects with greater ids, by id. Raises CollectionNotFound."""
    rows = connection.execute(
        f"""
        {_SUBJECTS}
        WHERE s.key IN (SELECT key FROM subjects WHERE collection = ? AND id > ? ORDER BY id LIMIT ?)
        ORDER BY s.id, t.key
        """,  # noqa: S608
        (collection_key(connection, collection), after, limit),
    )
    return [_subject(collection, list(own)) for _, own in groupby(rows, key=itemgetter(0))]


def _subject(collection: str, rows: Sequence[tuple[Any, ...]]) -> Subject:
    """A subject from its rows, one per template."""
    id_, metadata, created_at, updated_at, *_ = rows[0]
    return Subject(
        id=id_,
        collection=collection,
        metadata=load_metadata(metadata),
        created_at=datetime.fromisoformat(created_at),
        updated_at=datetime.fromisoformat(updated_at),
        templates=tuple(Template(id=row[4], created_at=datetime.fromisoformat(row[5])) for row in rows if row[4]),
    )


def insert_templates(
    connection: sqlite3.Connection,
    collection: int,
    subject: int,
    templates: Sequence[NewTemplate],
    encoder: int,
    now: datetime,
) -> None:
    """Stores new templates; ValueError when an id is taken."""
    for template in templates:
        try:
            connection.execute(
                """
                INSERT INTO templates (id, collection, subject, encoder, embedding, created_at, norm)
                VALUES (?, ?, ?, ?, ?, ?, ?)
                """,
                (
                    template.id,
                    collection,
                    subject,
                    encoder,
                    template.embedding.astype("<f4", copy=False).tobytes(),
                    timestamp(now),
                    float(template.norm),
                ),
            )
        except sqlite3.IntegrityError as error:
            raise ValueError(f"The template id {template.id!r} is empty or taken.") from error


def subject_keys(connection: sqlite3.Connection, collection: int) -> Keys:
    """The keys of all subjects in a collection, int64 [N]."""
    rows = connection.execute("SELECT key FROM subjects WHERE collection = ?", (collection,))
    return np.array([row[0] for row in rows], dtype=np.int64)


def renew_crowding(connection: sqlite3.Connection, subject: int, crowding: Crowding) -> Batch:
    """Stores the crowding of the subject's current fused template; returns its entry for the index."""
    rows = connection.execute("SELECT embedding FROM templates WHERE subject = ? ORDER BY key", (subject,))
    fused = fused_template(templates := vectors_of([row[0] for row in rows]))
    crowded = crowding(fused[np.newaxis])
    connection.execute("UPDATE subjects SET crowding = ? WHERE key = ?", (float(crowded[0]), subject))
    return Batch(
        np.array([subject], dtype=np.int64),
        fused[np.newaxis],
        crowded,
        np.array([min(len(templates), MOST_FUSED)], dtype=np.int64),
    )


def bind_cohort(connection: sqlite3.Connection, crowding: Crowding) -> None:
    """Makes sure that the crowding of every subject is from this cohort; recomputes it where it is not."""
    row = connection.execute("SELECT digest FROM cohorts").fetchone()
    if row is None or row[0] != crowding.digest:
        connection.execute("DELETE FROM cohorts")
        connection.execute("INSERT INTO cohorts (digest) VALUES (?)", (crowding.digest,))
        connection.execute("UPDATE subjects SET crowding = NULL")
    # Advance by key: the crowding of a damaged embedding is NaN, which is stored as NULL.
    after, query = 0, "SELECT key FROM subjects WHERE crowding IS NULL AND key > ? ORDER BY key LIMIT ?"
    while keys := [key for (key,) in connection.execute(query, (after, _LOAD_BATCH))]:
        after = keys[-1]
        by_subject = _fused(connection, keys)
        crowded = crowding(np.stack(list(by_subject.values()))).tolist()
        connection.executemany(
            "UPDATE subjects SET crowding = ? WHERE key = ?", zip(crowded, by_subject.keys(), strict=True)
        )


def _fused(connection: sqlite3.Connection, subjects: Sequence[int]) -> dict[int, Embedding]:
    """The fused template of each subject."""
    stored = connection.execute(
        """
        SELECT t.subject, t.embedding FROM json_each(?) wanted JOIN templates t ON t.subject = wanted.value
        ORDER BY t.subject, t.key
        """,
        (json.dumps(list(subjects)),),
    )
    return {
        subject: fused_template(vectors_of([blob for _, blob in rows]))
        for subject, rows in groupby(stored, key=itemgetter(0))
    }


def template_key(connection: sqlite3.Connection, subject: int, template_id: str) -> int:
    """Raises TemplateNotFound."""
    row = connection.execute(
        "SELECT key FROM templates WHERE subject = ? AND id = ?", (subject, template_id)
    ).fetchone()
    if row is None:
        raise TemplateNotFound(f"The subject has no template {template_id!r}.")
    return int(row[0])


def count_templates(connection: sqlite3.Connection, collection: int) -> int:
    """How many templates a collection has."""
    return int(connection.execute("SELECT COUNT(*) FROM templates WHERE collection = ?", (collection,)).fetchone()[0])


def count_templates_of_subject(connection: sqlite3.Connection, subject: int) -> int:
    """How many templates a subject has."""
    return int(connection.execute("SELECT COUNT(*) FROM templates WHERE subject = ?", (subject,)).fetchone()[0])


def count_subjects(connection: sqlite3.Connection, collection: int) -> int:
    """How many subjects a collection has."""
    return int(connection.execute("SELECT COUNT(*) FROM subjects WHERE collection = ?", (collection,)).fetchone()[0])


def load_vectors(connection: sqlite3.Connection, collection: int) -> Iterator[Batch]:
    """The index entries of all subjects in a collection. Raises GalleryUnavailable if an embedding is damaged."""
    cursor = connection.execute(
        """
        SELECT t.subject, s.crowding, t.embedding FROM templates t JOIN subjects s ON s.key = t.subject
        WHERE t.collection = ? ORDER BY t.subject, t.key
        """,
        (collection,),
    )
    subjects = groupby(cursor, key=itemgetter(0, 1))
    while batch := [(subject, [blob for _, _, blob in rows]) for subject, rows in islice(subjects, _LOAD_BATCH)]:
        if not have_unit_norm(vectors_of([blob for _, blobs in batch for blob in blobs])):
            raise GalleryUnavailable(
                "The gallery's database is damaged: a stored embedding is not of unit length. Put a backup in "
                "its place."
            )
        yield Batch(
            np.array([key for (key, _), _ in batch], dtype=np.int64),
            np.stack([fused_template(vectors_of(blobs)) for _, blobs in batch]),
            np.array([crowding for (_, crowding), _ in batch], dtype=np.float32),
            np.array([min(len(blobs), MOST_FUSED) for _, blobs in batch], dtype=np.int64),
        )


def read_templates(connection: sqlite3.Connection, subjects: Sequence[int]) -> list[StoredTemplate]:
    """The templates to fuse of the subjects with these keys, in no particular order."""
    rows = connection.execute(
        """
        SELECT t.key, t.id, s.key, s.id, s.metadata, t.embedding, t.norm, s.crowding
        FROM json_each(?) wanted CROSS JOIN subjects s ON s.key = wanted.value CROSS JOIN templates t
        ON t.key IN (SELECT key FROM templates WHERE subject = s.key ORDER BY key DESC LIMIT ?)
        """,
        (json.dumps(list(subjects)), MOST_FUSED),
    )
    return [StoredTemplate(*row) for row in rows]


def read_vectors(connection: sqlite3.Connection, collection: int, after: str, limit: int) -> list[SubjectVectors]:
    """The templates to fuse of at most ``limit`` subjects with greater ids, by id."""
    found = connection.execute(
        "SELECT key FROM subjects WHERE collection = ? AND id > ? ORDER BY id LIMIT ?", (collection, after, limit)
    )
    stored = sorted(read_templates(connection, [row[0] for row in found]), key=lambda t: (t.subject_id, t.key))
    return [_vectors(list(own)) for _, own in groupby(stored, key=lambda t: t.subject_id)]


def _vectors(templates: Sequence[StoredTemplate]) -> SubjectVectors:
    return SubjectVectors(
        subject_id=templates[0].subject_id,
        template_ids=tuple(template.id for template in templates),
        embeddings=vectors_of([template.embedding for template in templates]),
        norms=np.array([template.norm for template in templates], dtype=np.float32),
        crowding=templates[0].crowding,
    )


def delete_collection(connection: sqlite3.Connection, collection: int) -> None:
    """Erases a collection with everything in it."""
    connection.execute("DELETE FROM collections WHERE key = ?", (collection,))


def delete_subjects(connection: sqlite3.Connection, collection: int) -> None:
    """Erases all subjects of a collection with their templates and receipts."""
    connection.execute("DELETE FROM subjects WHERE collection = ?", (collection,))


def delete_subject(connection: sqlite3.Connection, subject: int) -> None:
    """Erases a subject with its templates and receipts."""
    connection.execute("DELETE FROM subjects WHERE key = ?", (subject,))


def delete_templates(connection: sqlite3.Connection, subject: int) -> None:
    """Erases all templates of a subject."""
    connection.execute("DELETE FROM templates WHERE subject = ?", (subject,))


def delete_template(connection: sqlite3.Connection, template: int) -> None:
    """Erases one template."""
    connection.execute("DELETE FROM templates WHERE key = ?", (template,))


def find_receipt(connection: sqlite3.Connection, key: str, stored_after: datetime) -> Receipt | None:
    """The receipt under this key, unless it is too old."""
    row = connection.execute(
        "SELECT key, fingerprint, body FROM receipts WHERE key = ? AND created_at > ?", (key, timestamp(stored_after))
    ).fetchone()
    return None if row is None else Receipt(*row)


def insert_receipt(connection: sqlite3.Connection, receipt: Receipt, subject: int, now: datetime) -> None:
    """Keeps a receipt for as long as its subject exists and it is not too old."""
    connection.execute(
        "INSERT INTO receipts (key, fingerprint, body, subject, created_at) VALUES (?, ?, ?, ?, ?)",
        (receipt.key, receipt.fingerprint, receipt.body, subject, timestamp(now)),
    )


def delete_old_receipts(connection: sqlite3.Connection, stored_until: datetime) -> None:
    """Erases the receipts that are too old."""
    connection.execute("DELETE FROM receipts WHERE created_at <= ?", (timestamp(stored_until),))
