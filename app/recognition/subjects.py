"""Subjects: reads, changes, merges and erases what is stored about a person."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.crowding import Crowding
from app.decisions import Calibration
from app.embeddings import fused_template, squared_distance
from app.errors import TesseraError
from app.gallery import Gallery, PendingReceipt, ReceiptExists, Subject, SubjectVectors
from app.recognition.results import Idempotency, Merger, Replay
from app.recognition.service import MOST_TEMPLATES, replay_of


@dataclass(frozen=True, slots=True)
class SubjectPage:
    """Subjects by id, and the id after which the next page begins; None on the last one."""

    subjects: tuple[Subject, ...]
    next_after: str | None


class SubjectsNotAlike(TesseraError):
    """Two subjects that are to be merged are not alike enough to be taken for one person."""

    code = "subjects_not_alike"


class SubjectService:
    """Lists, changes, merges and erases subjects. Every method may be called from several threads at once.

    Methods raise CollectionNotFound and SubjectNotFound for what is not there.
    """

    def __init__(self, gallery: Gallery, calibration: Calibration, crowding: Crowding) -> None:
        self._gallery, self._calibration, self._crowding = gallery, calibration, crowding

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

    def merge(
        self,
        collection: str,
        subject_id: str,
        duplicate: str,
        *,
        force: bool = False,
        idempotency: Idempotency[Merger] | None = None,
    ) -> Merger | Replay:
        """Gives a subject the templates of its duplicate, who is gone then; metadata of the duplicate are erased.

        Raises SubjectsNotAlike, unless ``force``, for two whom an audit would not call possible duplicates;
        TooManyTemplates; IdempotencyMismatch; TemplateDamaged, SubjectDamaged; ValueError if both are the same.
        """
        if idempotency is not None and (replay := replay_of(self._gallery, idempotency)) is not None:
            return replay
        found: tuple[tuple[str, ...], float, float] | None = None

        def agree(kept: SubjectVectors, gone: SubjectVectors) -> None:
            nonlocal found
            distance, threshold = self._likeness(kept, gone)
            if distance > threshold and not force:
                raise _not_alike(subject_id, duplicate, distance, threshold)
            found = gone.template_ids, distance, threshold

        def outcome(subject: Subject) -> Merger:
            assert found is not None
            return Merger(subject, *found)

        receipt = None
        if idempotency is not None:
            render = idempotency.render
            receipt = PendingReceipt(
                idempotency.key, idempotency.fingerprint, lambda subject, _: render(outcome(subject))
            )
        try:
            return outcome(
                self._gallery.merge_subjects(
                    collection, subject_id, duplicate, agree=agree, receipt=receipt, most=MOST_TEMPLATES
                )
            )
        except ReceiptExists:
            # The same request arrived twice at once, and the other one was first.
            if idempotency is None or (replay := replay_of(self._gallery, idempotency)) is None:
                raise
            return replay

    def _likeness(self, one: SubjectVectors, other: SubjectVectors) -> tuple[float, float]:
        """The squared distance of two subjects as audits measure it, and up to which they call them duplicates.

        The newest template of the one with fewer is compared with those of the other.
        """
        most = self._calibration.most_templates

        def compared(subject: SubjectVectors) -> int:
            return min(len(subject.template_ids), most)

        fewer, more = sorted((one, other), key=lambda subject: (compared(subject), subject.subject_id))
        probe = fewer.embeddings[-1]
        distance = squared_distance(probe, fused_template(more.embeddings, most))
        threshold = self._calibration.default_point(compared(more)).threshold
        return distance, threshold - float(self._crowding(probe[np.newaxis])[0]) - more.crowding

    def delete_template(self, collection: str, subject_id: str, template_id: str) -> Subject:
        """Erases one template. Raises TemplateNotFound, LastTemplate."""
        return self._gallery.delete_template(collection, subject_id, template_id)


def _not_alike(subject_id: str, duplicate: str, distance: float, threshold: float) -> SubjectsNotAlike:
    # Rounded away from each other, so that they never look as if they fitted.
    distance, threshold = math.ceil(1e4 * distance) / 1e4, math.floor(1e4 * threshold) / 1e4
    return SubjectsNotAlike(
        f"The subjects {subject_id!r} and {duplicate!r} are {distance:.4f} apart; up to {threshold:.4f} two "
        "are taken for possibly the same person. A merger cannot be undone: if you know that they are one, force it.",
        distance=distance,
        threshold=threshold,
    )
