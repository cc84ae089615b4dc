"""The SQL of stored audits. Every function works inside the transaction of the connection it is given."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from app.gallery.records import AuditFinding, StoredAudit
from app.gallery.sqlite.audits import stored_audit
from app.gallery.sqlite.values import dump_metadata
from app.postgres import Connection, constant

_UNDER_WAY = "COALESCE(seen_at BETWEEN now() - interval '1 minute' AND now() + interval '1 minute', false)"
"""By the server's clock, and not for ever where that is set back."""


def write_audit(connection: Connection, collection: int, audit: StoredAudit) -> None:
    """Puts an audit in the place of the collection's earlier one; findings about erased templates are left out."""
    delete_audit(connection, collection)
    content = None if audit.content is None else dump_metadata(audit.content)
    row = connection.execute(
        """
        INSERT INTO audits (collection, status, started_at, content, error, progress, seen_at)
        VALUES (%s, %s, %s, %s, %s, %s, CASE WHEN %s THEN now() END) RETURNING key
        """,
        (collection, audit.status, audit.started_at, content, audit.error, audit.progress, audit.under_way),
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


def audit_under_way(connection: Connection, collection: int) -> StoredAudit | None:
    """The audit of a collection that some replica works on."""
    row = connection.execute(
        constant(f"SELECT status, started_at, progress FROM audits WHERE collection = %s AND {_UNDER_WAY}"),  # noqa: S608
        (collection,),
    ).fetchone()
    return None if row is None else StoredAudit(row[0], row[1], progress=row[2], under_way=True)


def renew_audit(connection: Connection, collection: int, audit: StoredAudit) -> None:
    """Says how far an audit is and whether it is under way; nothing if another one has taken its place."""
    connection.execute(
        """
        UPDATE audits SET status = %s, progress = %s, seen_at = CASE WHEN %s THEN now() END
        WHERE collection = %s AND started_at = %s AND seen_at IS NOT NULL
        """,
        (audit.status, audit.progress, audit.under_way, collection, audit.started_at),
    )


def read_audit(connection: Connection, collection: int) -> StoredAudit | None:
    """The latest audit of a collection; ValueError if it is damaged."""
    row = connection.execute(
        constant(
            f"""
            SELECT progress, {_UNDER_WAY}, key, status, started_at, content, error FROM audits WHERE collection = %s
            """  # noqa: S608
        ),
        (collection,),
    ).fetchone()
    if row is None:
        return None
    progress, under_way, key, status, started_at, content, error = row
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
    return replace(stored_audit(status, started_at, content, error, rows), progress=progress, under_way=under_way)


def delete_findings(connection: Connection, templates: Collection[int]) -> None:
    """Erases what audits found about these templates, by key."""
    connection.execute(
        "DELETE FROM audit_findings WHERE template = ANY(%(keys)s) OR other = ANY(%(keys)s)", {"keys": list(templates)}
    )


def delete_audit(connection: Connection, collection: int) -> None:
    """Erases the audit of a collection, if there is one."""
    connection.execute("DELETE FROM audits WHERE collection = %s", (collection,))
