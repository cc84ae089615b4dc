"""The SQL of receipts. Every function works inside the transaction of the connection it is given."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from app.gallery.protocol import PendingReceipt, Receipt
from app.gallery.records import Subject
from app.gallery.sqlite.receipts import RECEIPT_LIFETIME
from app.postgres import Connection

_LOCK = 0x7E55
"""The first half of the keys of advisory locks; the second is a hash of the client's key."""


def lock_key(connection: Connection, key: str) -> None:
    """Keeps other requests with this key waiting until the end of the transaction."""
    connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, key))


def find_receipt(connection: Connection, key: str, now: datetime) -> Receipt | None:
    """The receipt under this key, unless it was stored 24 hours or more from now.

    A clock that was set back leaves receipts of the future: they count for as long, not until the clock catches up.
    """
    row = connection.execute(
        "SELECT key, fingerprint, body FROM receipts WHERE key = %s AND created_at > %s AND created_at < %s",
        (key, now - RECEIPT_LIFETIME, now + RECEIPT_LIFETIME),
    ).fetchone()
    return None if row is None else Receipt(*row)


def insert_receipt(
    connection: Connection,
    receipt: PendingReceipt,
    keys: tuple[int, int],
    subject: Subject,
    enrolled: Collection[str],
    now: datetime,
) -> None:
    """Renders a receipt and keeps it while the templates that it names exist, and until it is too old.

    keys: of the collection and the subject. enrolled: the ids of the subject's own templates that it names.
    """
    owners = _lock_owners(connection, receipt.names)
    erased = frozenset(id_ for id_, owner in receipt.names.items() if owners.get(id_) != owner)
    body = receipt.render(subject, erased)
    connection.execute(
        """
        INSERT INTO receipts (key, fingerprint, body, collection, subject, created_at) VALUES (%s, %s, %s, %s, %s, %s)
        """,
        (receipt.key, receipt.fingerprint, body, *keys, now),
    )
    named = {*receipt.names, *enrolled} - erased
    connection.execute(
        "INSERT INTO receipt_templates (receipt, template) SELECT %s, key FROM templates WHERE id = ANY(%s)",
        (receipt.key, sorted(named)),
    )


def stored_templates(connection: Connection, ids: Collection[str]) -> frozenset[str]:
    """Which of these template ids are stored."""
    if not ids:
        return frozenset()
    rows = connection.execute("SELECT id FROM templates WHERE id = ANY(%s)", (list(ids),))
    return frozenset(row[0] for row in rows)


def _lock_owners(connection: Connection, ids: Collection[str]) -> dict[str, str]:
    """Whose these templates are, by their ids; keeps them from being erased or moved until the end."""
    if not ids:
        return {}
    rows = connection.execute(
        """
        SELECT t.id, s.id FROM templates t JOIN subjects s ON s.collection = t.collection AND s.key = t.subject
        WHERE t.id = ANY(%s) ORDER BY t.id FOR KEY SHARE OF t
        """,
        (list(ids),),
    )
    return dict(rows.fetchall())


def delete_receipts_naming(connection: Connection, templates: Collection[int]) -> None:
    """Erases the receipts that name one of these templates, by key."""
    connection.execute(
        "DELETE FROM receipts WHERE key IN (SELECT receipt FROM receipt_templates WHERE template = ANY(%s))",
        (list(templates),),
    )


def delete_old_receipts(connection: Connection, now: datetime) -> None:
    """Erases the receipts that do not count any more, except those that somebody else is about to erase."""
    connection.execute(
        """
        DELETE FROM receipts WHERE key IN (
            SELECT key FROM receipts WHERE created_at <= %s OR created_at >= %s FOR UPDATE SKIP LOCKED
        )
        """,
        (now - RECEIPT_LIFETIME, now + RECEIPT_LIFETIME),
    )
