"""The SQL of receipts. Every function works inside the transaction of the connection it is given."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from datetime import datetime, timedelta

from app.gallery.protocol import PendingReceipt, Receipt
from app.gallery.records import Subject
from app.gallery.sqlite.values import timestamp

RECEIPT_LIFETIME = timedelta(hours=24)


def find_receipt(connection: sqlite3.Connection, key: str, now: datetime) -> Receipt | None:
    """The receipt under this key, unless it was stored 24 hours or more from now.

    A clock that was set back leaves receipts of the future: they count for as long, not until the clock catches up.
    """
    row = connection.execute(
        "SELECT key, fingerprint, body FROM receipts WHERE key = ? AND created_at > ? AND created_at < ?",
        (key, timestamp(now - RECEIPT_LIFETIME), timestamp(now + RECEIPT_LIFETIME)),
    ).fetchone()
    return None if row is None else Receipt(*row)


def insert_receipt(
    connection: sqlite3.Connection,
    receipt: PendingReceipt,
    subject_key: int,
    subject: Subject,
    enrolled: Collection[str],
    now: datetime,
) -> None:
    """Renders a receipt and keeps it while the templates that it names exist, and until it is too old.

    enrolled: the ids of the subject's own templates that it names.
    """
    owners = template_owners(connection, receipt.names)
    erased = frozenset(id_ for id_, owner in receipt.names.items() if owners.get(id_) != owner)
    body = receipt.render(subject, erased)
    connection.execute(
        "INSERT INTO receipts (key, fingerprint, body, subject, created_at) VALUES (?, ?, ?, ?, ?)",
        (receipt.key, receipt.fingerprint, body, subject_key, timestamp(now)),
    )
    named = {*receipt.names, *enrolled} - erased
    connection.executemany(
        "INSERT INTO receipt_templates (receipt, template) SELECT ?, key FROM templates WHERE id = ?",
        [(receipt.key, id_) for id_ in sorted(named)],
    )


def stored_templates(connection: sqlite3.Connection, ids: Collection[str]) -> frozenset[str]:
    """Which of these template ids are stored."""
    rows = connection.execute(
        "SELECT id FROM templates WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(list(ids)),)
    )
    return frozenset(row[0] for row in rows)


def template_owners(connection: sqlite3.Connection, ids: Collection[str]) -> dict[str, str]:
    """Whose these templates are: the id of the subject by that of the template, without what is not stored."""
    return dict(
        connection.execute(
            """
            SELECT t.id, s.id FROM templates t JOIN subjects s ON s.key = t.subject
            WHERE t.id IN (SELECT value FROM json_each(?))
            """,
            (json.dumps(list(ids)),),
        )
    )


def delete_receipts_naming(connection: sqlite3.Connection, subject: int) -> None:
    """Erases the receipts that name a template of a subject."""
    connection.execute(
        """
        DELETE FROM receipts WHERE key IN (
            SELECT receipt FROM receipt_templates WHERE template IN (SELECT key FROM templates WHERE subject = ?)
        )
        """,
        (subject,),
    )


def delete_old_receipts(connection: sqlite3.Connection, now: datetime) -> None:
    """Erases the receipts that do not count any more."""
    connection.execute(
        "DELETE FROM receipts WHERE created_at <= ? OR created_at >= ?",
        (timestamp(now - RECEIPT_LIFETIME), timestamp(now + RECEIPT_LIFETIME)),
    )
