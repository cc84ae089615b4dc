"""Subjects: reads, changes and erases what is stored about a person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.gallery import Gallery, Subject


@dataclass(frozen=True, slots=True)
class SubjectPage:
    """Subjects by id, and the id after which the next page begins; None on the last one."""

    subjects: tuple[Subject, ...]
    next_after: str | None


class SubjectService:
    """Lists, changes and erases subjects. Every method may be called from several threads at once.

    Methods raise CollectionNotFound and SubjectNotFound for what is not there.
    """

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery

    def list(self, collection: str, *, after: str | None, limit: int) -> SubjectPage:
        """At most ``limit`` subjects with ids greater than ``after``."""
        found = self._gallery.subjects(collection, after=after, limit=limit + 1)
        page = tuple(found[:limit])
        return SubjectPage(page, page[-1].id if len(found) > limit else None)

    def get(self, collection: str, subject_id: str) -> Subject:
        """Metadata, times and templates."""
        return self._gallery.subject(collection, subject_id)

    def update(self, collection: str, subject_id: str, metadata: Mapping[str, Any]) -> Subject:
        """Replaces the metadata."""
        return self._gallery.update_subject(collection, subject_id, metadata)

    def delete(self, collection: str, subject_id: str) -> int:
        """Erases a subject; returns how many templates it had."""
        return self._gallery.delete_subject(collection, subject_id)

    def delete_template(self, collection: str, subject_id: str, template_id: str) -> Subject:
        """Erases one template. Raises TemplateNotFound, LastTemplate."""
        return self._gallery.delete_template(collection, subject_id, template_id)
