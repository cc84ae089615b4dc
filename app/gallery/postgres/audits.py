"""The SQL of stored audits. Every function works inside the transaction of the connection it is given."""

from __future__ import annotations

from collections.abc import Collection

from app.gallery.records import AuditFinding, StoredAudit
from app.gallery.sqlite.audits import stored_audit
from app.gallery.sqlite.values import dump_metadata
from app.postgres import Connection


def write_audit(connection: Connection, collection: int, audit: StoredAudit) -> None:
    """Puts an audit in the place of the collection's earlier one; findings about erased templates are left out."""
    delete_audit(connection, collection)
    content = None if audit.content is None else dump_metadata(audit.content)
    row = connection.execute(
        "INSERT INTO audits (collection, status, started_at, content, error) VALUES (%s, %s, %s, %s, %s) RETURNING key",
        (collection, audit.status, audit.started_at, content, audit.error),
    ).fetchone()
    assert row is not None
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO audit_findings (audit, place, kind, template, other, content)
            SELECT %(audit)s, %(place)s, %(kind)s, t.key, o.key, %(content)s
            FROM templates t LEFT JOIN templates o ON o.id = %(other)s
            WHERE t.id = %(first)s AND (o.id IS NOT NULL OR %(other)s::text IS NULL)
            FOR KEY SHARE OF t
            """,
            [_row(row[0], place, finding) for place, finding in enumerate(audit.findings)],
        )


def _row(audit: int, place: int, finding: AuditFinding) -> dict[str, object]:
    first, other = (*finding.templates, None)[:2]
    content = dump_metadata(finding.numbers)
    return {"audit": audit, "place": place, "kind": finding.kind, "content": content, "first": first, "other": other}


def read_audit(connection: Connection, collection: int) -> StoredAudit | None:
    """The latest audit of a collection; ValueError if it is damaged."""
    row = connection.execute(
        "SELECT key, status, started_at, content, error FROM audits WHERE collection = %s", (collection,)
    ).fetchone()
    if row is None:
        return None
    key, status, started_at, content, error = row
    rows = connection.execute(
        """
        SELECT f.kind, f.content, t.id, s.id, o.id, p.id FROM audit_findings f
        JOIN templates t ON t.key = f.template
        JOIN subjects s ON s.collection = t.collection AND s.key = t.subject
        LEFT JOIN templates o ON o.key = f.other
        LEFT JOIN subjects p ON p.collection = o.collection AND p.key = o.subject
        -- Of an audit that was under way when two subjects were merged.
        WHERE f.audit = %s AND t.subject IS DISTINCT FROM o.subject ORDER BY f.place
        """,
        (key,),
    )
    return stored_audit(status, started_at, content, error, rows)


def delete_findings(connection: Connection, templates: Collection[int]) -> None:
    """Erases what audits found about these templates, by key."""
    connection.execute(
        "DELETE FROM audit_findings WHERE template = ANY(%(keys)s) OR other = ANY(%(keys)s)", {"keys": list(templates)}
    )


def delete_audit(connection: Connection, collection: int) -> None:
    """Erases the audit of a collection, if there is one."""
    connection.execute("DELETE FROM audits WHERE collection = %s", (collection,))
