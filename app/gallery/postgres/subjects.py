"""Stores and erases subjects with their templates, inside the transaction of the connection that is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np

from app.crowding import Crowding
from app.embeddings import MOST_FUSED
from app.gallery.damage import Damage
from app.gallery.postgres import queries
from app.gallery.postgres.audits import delete_findings
from app.gallery.postgres.receipts import delete_receipts_naming
from app.gallery.postgres.templates import (
    compared,
    insert_templates,
    move_templates,
    set_compared,
    stored_rows,
    vectors_of_rows,
)
from app.gallery.records import NewTemplate, SubjectVectors
from app.gallery.sqlite.ranking import vectors_of
from app.postgres import Connection


class Maker(NamedTuple):
    """What templates come from: the key of their encoder, its digest, and the crowding that goes with it.

    most: how many templates of a subject are fused.
    """

    encoder: int
    digest: str
    crowding: Crowding
    most: int


class SubjectRecord(NamedTuple):
    """A subject that is locked: keys and ids of its collection and its own; no key: there is none yet."""

    collection: int
    collection_id: str
    key: int | None
    id: str


@dataclass(frozen=True, slots=True)
class Held:
    """What a subject keeps, oldest first, and how many templates it had."""

    embeddings: tuple[bytes, ...]
    counted: int


def hold(connection: Connection, subject: SubjectRecord, *, replace: bool) -> Held:
    """The templates that a subject keeps: none if they are to be replaced, which erases them.

    Raises TemplateDamaged, SubjectDamaged for those that cannot be added to.
    """
    if subject.key is None:
        return Held((), 0)
    if replace:
        return Held((), queries.delete_templates(connection, subject.collection, subject.key))
    rows = stored_rows(connection, subject.collection, subject.key)
    return Held(tuple(row.embedding for row in rows), len(rows))


def store_subject(
    connection: Connection,
    subject: SubjectRecord,
    held: Held,
    new: Sequence[tuple[NewTemplate, datetime]],
    maker: Maker,
    metadata: str | None,
    now: datetime,
) -> int:
    """Adds templates, each with its time, to what the subject keeps; returns its key. ValueError for a taken id.

    metadata: JSON text; None keeps what is stored, {} for a new subject.
    """
    embeddings = np.concatenate([vectors_of(held.embeddings), np.stack([t.embedding for t, _ in new])])
    found = compared(embeddings, maker.crowding, maker.most)
    if subject.key is None:
        key = queries.insert_subject(connection, subject.collection, subject.id, (metadata or "{}", now, *found))
        changes = [(found.fused, 1, len(embeddings))]
    else:
        key = subject.key
        queries.touch_subject(connection, subject.collection, key, metadata, now)
        set_compared(connection, subject.collection, key, found)
        before = min(held.counted, MOST_FUSED)
        changes = [(before, -1, -held.counted), (found.fused, 1, len(embeddings))]
    insert_templates(
        connection, (subject.collection, subject.collection_id), (key, subject.id), new, (maker.encoder, maker.digest)
    )
    queries.count(connection, subject.collection, key, changes)
    return key


def merge_subjects(
    connection: Connection,
    kept: SubjectRecord,
    gone: SubjectRecord,
    maker: Maker,
    agree: Callable[[SubjectVectors, SubjectVectors], None] | None,
) -> None:
    """Makes the templates of one locked subject another's, and erases what else there is of the first one.

    Raises TemplateDamaged, SubjectDamaged for either, and what ``agree`` raises.
    """
    assert kept.key is not None
    assert gone.key is not None
    # Whoever is about to store something that names the duplicate does so before, or sees that it is gone.
    queries.lock_templates(connection, gone.collection, gone.key)
    ours, theirs = (stored_rows(connection, kept.collection, key) for key in (kept.key, gone.key))
    if agree is not None:
        agree(vectors_of_rows(ours), vectors_of_rows(theirs))
    moved = [row.key for row in theirs]
    delete_receipts_naming(connection, moved)
    delete_findings(connection, moved)
    move_templates(connection, theirs, (kept.key, kept.id))
    queries.delete_subject(connection, gone.collection, gone.key)
    found = compared(vectors_of([row.embedding for row in sorted(ours + theirs)]), maker.crowding, maker.most)
    set_compared(connection, kept.collection, kept.key, found)
    held, added = len(ours), len(theirs)
    together = [(min(held, MOST_FUSED), -1, -held), (found.fused, 1, held + added)]
    queries.count(connection, kept.collection, kept.key, together)
    queries.count(connection, gone.collection, gone.key, [(min(added, MOST_FUSED), -1, -added)])


def erase_subject(connection: Connection, collection: int, subject: int) -> int:
    """Erases a locked subject with everything of it; returns how many templates that were."""
    templates = queries.delete_templates(connection, collection, subject)
    queries.delete_subject(connection, collection, subject)
    queries.count(connection, collection, subject, [(min(templates, MOST_FUSED), -1, -templates)])
    return templates


def erase_template(connection: Connection, collection: int, subject: int, template: int, maker: Maker) -> None:
    """Erases one of several templates of a locked subject."""
    queries.delete_template(connection, template)
    damage: list[Damage] = []
    rows = stored_rows(connection, collection, subject, damaged=damage.append)
    if not damage:
        found = compared(vectors_of([r.embedding for r in rows]), maker.crowding, maker.most)
        set_compared(connection, collection, subject, found)
    before, after = len(rows) + 1, len(rows)
    queries.count(
        connection,
        collection,
        subject,
        [(min(before, MOST_FUSED), -1, -before), (min(after, MOST_FUSED), 1, after)],
    )
