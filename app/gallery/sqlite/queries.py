"""The SQL of the embedded gallery. Every function works inside the transaction of the connection it is given."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from app.gallery.protocol import (
    CollectionNotFound,
    EncoderMismatch,
    GalleryUnavailable,
    SubjectDamaged,
    SubjectNotFound,
    TemplateNotFound,
)
from app.gallery.records import Collection, Subject, Targets, Template
from app.gallery.sqlite.sequence import Position
from app.gallery.sqlite.values import load_metadata, load_timestamp, timestamp


def read_position(connection: sqlite3.Connection) -> Position:
    """Which database this is, and the number of its last write."""
    return Position(*connection.execute("SELECT database, sequence FROM state").fetchone())


def bind_encoder(connection: sqlite3.Connection, directory: Path, digest: str) -> int:
    """The key under which templates of this encoder are stored; a new encoder is recorded.

    Raises EncoderMismatch when there is a template of any other encoder; ``directory`` is named in its message.
    """
    _refuse_other_encoders(connection, directory, digest)
    connection.execute("INSERT OR IGNORE INTO encoders (digest) VALUES (?)", (digest,))
    return int(connection.execute("SELECT key FROM encoders WHERE digest = ?", (digest,)).fetchone()[0])


def stored_encoder(connection: sqlite3.Connection) -> str:
    """The digest of the encoder whose templates are stored. Raises GalleryUnavailable if there is none."""
    row = connection.execute(
        """
        SELECT digest FROM encoders e
        ORDER BY EXISTS (SELECT 1 FROM templates t WHERE t.encoder = e.key) DESC, key DESC
        """
    ).fetchone()
    if row is None:
        raise GalleryUnavailable("The gallery has never been opened with an encoder.")
    return str(row[0])


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
        "directory and enrol everyone again. Where collections keep chips, `tessera gallery reenroll --to` makes the "
        "templates anew; otherwise no picture is kept that they could be made of.",
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
           (SELECT COUNT(*) FROM chips h WHERE h.collection = c.key),
           c.keep_chips, c.target_fmr, c.target_fpir, c.claim
    FROM collections c
"""


def read_collections(connection: sqlite3.Connection) -> list[Collection]:
    """All collections by id, with their counts."""
    return [_collection(row) for row in connection.execute(f"{_COLLECTIONS} ORDER BY c.id")]


def read_collection(connection: sqlite3.Connection, collection: int) -> Collection:
    """One collection, with its counts."""
    return _collection(connection.execute(f"{_COLLECTIONS} WHERE c.key = ?", (collection,)).fetchone())


def _collection(row: tuple[Any, ...]) -> Collection:
    id_, created_at, subjects, templates, chips, keep_chips, *targets = row
    try:
        moment = load_timestamp(created_at)
        return Collection(id_, moment, subjects, templates, Targets(*targets), bool(keep_chips), chips)
    except ValueError as error:
        raise GalleryUnavailable(
            f"The stored record of collection {id_!r} is damaged: {error} Erase the collection or restore a backup."
        ) from error


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
    SELECT s.id, s.metadata, s.created_at, s.updated_at, t.id, t.created_at, t.norm, h.template IS NOT NULL
    FROM subjects s LEFT JOIN templates t ON t.subject = s.key LEFT JOIN chips h ON h.template = t.key
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
    try:
        return Subject(
            id=id_,
            collection=collection,
            metadata=load_metadata(metadata),
            created_at=load_timestamp(created_at),
            updated_at=load_timestamp(updated_at),
            templates=tuple(
                Template(row[4], load_timestamp(row[5]), row[6], chip=bool(row[7])) for row in rows if row[4]
            ),
        )
    except ValueError as error:
        raise SubjectDamaged(
            f"The stored record of subject {id_!r} in collection {collection!r} is damaged: {error} Replace its "
            "metadata if that is what is damaged; else erase the subject, or restore a backup.",
            collection=collection,
            subject_id=id_,
        ) from error


def forget_crowding(connection: sqlite3.Connection, subject: int) -> None:
    """Has the crowding of a subject computed at the next opening."""
    connection.execute("UPDATE subjects SET crowding = NULL WHERE key = ?", (subject,))


def template_ids(connection: sqlite3.Connection, subject: int) -> set[str]:
    """The ids of all templates of a subject."""
    return {row[0] for row in connection.execute("SELECT id FROM templates WHERE subject = ?", (subject,))}


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
