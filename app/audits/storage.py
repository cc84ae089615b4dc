"""A report as a gallery keeps it: what it found about people refers to their templates, and names nobody."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from app.audits.report import AuditReport
from app.gallery import AuditFinding

KINDS = {"duplicates": "duplicate_count", "confusable": None, "outliers": "outlier_count", "weak": "weak_count"}
"""Lists of a report, each with the field that counts what it is the head of."""
_LISTED = "listed"

_REPORT: TypeAdapter[AuditReport] = TypeAdapter(AuditReport)


def to_stored(report: AuditReport) -> tuple[dict[str, Any], tuple[AuditFinding, ...]]:
    """Counts and rates, and the findings."""
    content: dict[str, Any] = _REPORT.dump_python(report, mode="json")
    del content["collection"]
    lists = {kind: content.pop(kind) for kind in KINDS}
    content[_LISTED] = {kind: len(rows) for kind, rows in lists.items()}
    return content, tuple(_finding(kind, row) for kind, rows in lists.items() for row in rows)


def _finding(kind: str, row: dict[str, Any]) -> AuditFinding:
    named = {"first", "second", "templates", "subject_id", "template_id"}
    templates = row["templates"] if "templates" in row else [row["template_id"]]
    return AuditFinding(kind, tuple(templates), {name: value for name, value in row.items() if name not in named})


def from_stored(collection: str, content: dict[str, Any], findings: tuple[AuditFinding, ...]) -> AuditReport:
    """The report, without what has been erased since; ValueError for what ``to_stored`` does not give."""
    values = {name: value for name, value in content.items() if name != _LISTED}
    for kind, count in KINDS.items():
        values[kind] = [_row(finding) for finding in findings if finding.kind == kind]
        if count is not None:
            values[count] -= content[_LISTED][kind] - len(values[kind])
    return _REPORT.validate_python(values | {"collection": collection})


def _row(finding: AuditFinding) -> dict[str, Any]:
    if len(finding.templates) == 1:
        return finding.numbers | {"subject_id": finding.subjects[0], "template_id": finding.templates[0]}
    first, second = finding.subjects
    return finding.numbers | {"first": first, "second": second, "templates": finding.templates}
