"""The SQL of stored audits. Every function works inside the transaction of the connection it is given."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from app.gallery.records import AuditFinding, StoredAudit
from app.gallery.sqlite.values import dump_metadata, load_metadata, load_timestamp, timestamp


def write_audit(connection: sqlite3.Connection, collection: int, audit: StoredAudit) -> None:
    """Puts an audit in the place of the collection's earlier one; findings about erased templates are left out."""
    delete_audit(connection, collection)
    content = None if audit.content is None else dump_metadata(audit.content)
    key = connection.execute(
        "INSERT INTO audits (collection, status, started_at, content, error) VALUES (?, ?, ?, ?, ?) RETURNING key",
        (collection, audit.status, timestamp(audit.started_at), content, audit.error),
    ).fetchone()[0]
    connection.executemany(
        """
        INSERT INTO audit_findings (audit, place, kind, template, other, content)
        SELECT ?, ?, ?, t.key, o.key, ? FROM templates t LEFT JOIN templates o ON o.id = ?
        WHERE t.id = ? AND (o.id IS NOT NULL OR ? IS NULL)
        """,
        [_row(key, place, finding) for place, finding in enumerate(audit.findings)],
    )


def _row(audit: int, place: int, finding: AuditFinding) -> tuple[object, ...]:
    first, other = (*finding.templates, None)[:2]
    return (audit, place, finding.kind, dump_metadata(finding.numbers), other, first, other)


def read_audit(connection: sqlite3.Connection, collection: int) -> StoredAudit | None:
    """The latest audit of a collection; ValueError if it is damaged."""
    row = connection.execute(
        "SELECT key, status, started_at, content, error FROM audits WHERE collection = ?", (collection,)
    ).fetchone()
    if row is None:
        return None
    key, status, started_at, content, error = row
    rows = connection.execute(
        """
        SELECT f.kind, f.content, t.id, s.id, o.id, p.id FROM audit_findings f
        JOIN templates t ON t.key = f.template JOIN subjects s ON s.key = t.subject
        LEFT JOIN templates o ON o.key = f.other LEFT JOIN subjects p ON p.key = o.subject
        -- Of an audit that was under way when two subjects were merged.
        WHERE f.audit = ? AND t.subject IS NOT o.subject ORDER BY f.place
        """,
        (key,),
    )
    return stored_audit(status, load_timestamp(started_at), content, error, rows)


def stored_audit(
    status: str, started_at: datetime, content: object, error: str | None, rows: Iterable[Sequence[Any]]
) -> StoredAudit:
    """An audit from what a database holds; ValueError if that is damaged.

    ``rows``: kind, numbers, template, subject, other template, its subject; the last two None for a single template.
    """
    findings = tuple(
        AuditFinding(
            kind,
            (first,) if other is None else (first, other),
            load_metadata(numbers),
            (subject,) if other is None else (subject, partner),
        )
        for kind, numbers, first, subject, other, partner in rows
    )
    return StoredAudit(status, started_at, None if content is None else load_metadata(content), error, findings)


def delete_findings(connection: sqlite3.Connection, subject: int) -> None:
    """Erases what audits found about the templates of a subject."""
    connection.execute(
        """
        WITH own AS (SELECT key FROM templates WHERE subject = ?)
        DELETE FROM audit_findings WHERE template IN own OR other IN own
        """,
        (subject,),
    )


def delete_audit(connection: sqlite3.Connection, collection: int) -> None:
    """Erases the audit of a collection, if there is one."""
    connection.execute("DELETE FROM audits WHERE collection = ?", (collection,))
