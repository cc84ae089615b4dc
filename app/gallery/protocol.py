"""What every gallery does, whatever keeps its templates; one contract test suite holds all of them to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from app.embeddings import Embedding
from app.errors import TesseraError
from app.gallery.records import Candidate, Collection, CollectionSize, NewTemplate, Subject, SubjectVectors, Targets

DEFAULT_COLLECTION = "default"
PAGE = 256


class OnConflict(StrEnum):
    """What to do when the subject to be enrolled exists already."""

    APPEND = "append"
    REPLACE = "replace"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer given to a request, kept under the client's idempotency key with a digest of the request."""

    key: str
    fingerprint: str
    body: str


@dataclass(frozen=True, slots=True)
class PendingReceipt:
    """A receipt to be stored in the same transaction as the enrolment that it answers for."""

    key: str
    fingerprint: str
    render: Callable[[Subject], str]


class GalleryError(TesseraError):
    """Base of what a gallery refuses."""


class CollectionNotFound(GalleryError):
    """There is no collection of this id."""

    code = "collection_not_found"


class CollectionExists(GalleryError):
    """There is a collection of this id already."""

    code = "collection_exists"


class SubjectNotFound(GalleryError):
    """The collection has no subject of this id."""

    code = "subject_not_found"


class SubjectExists(GalleryError):
    """The collection has a subject of this id already."""

    code = "subject_exists"


class TemplateNotFound(GalleryError):
    """The subject has no template of this id."""

    code = "template_not_found"


class LastTemplate(GalleryError):
    """The last template of a subject cannot be deleted alone; delete the subject."""

    code = "last_template"


class ReceiptExists(GalleryError):
    """Another request has stored a receipt under this key in the meantime; read it."""

    code = "idempotency_conflict"


class GalleryInUse(GalleryError):
    """Another process has this data directory open."""

    code = "gallery_in_use"


class EncoderMismatch(GalleryError):
    """The stored templates come from another encoder and cannot be compared with this one's."""

    code = "encoder_mismatch"


class GalleryUnavailable(GalleryError):
    """The store does not answer or is damaged."""

    code = "gallery_unavailable"


class Gallery(Protocol):
    """Templates at rest and in search. Every method may be called from several threads at once.

    A write returns only when it is durable and every later search, from any thread, sees it. A method that raises has
    changed nothing. Every method that takes a collection raises CollectionNotFound for an unknown one. Every method
    raises GalleryUnavailable when the store fails. ValueError means a mistake of the caller: an embedding that is not
    float32 [128], finite and of unit length within 1e-3; an empty id; a template id that is taken; metadata that is not
    JSON (TypeError when it has values of other types); a ``limit`` or ``top_k`` below 1.
    """

    def create_collection(self, collection: str, targets: Targets = Targets()) -> Collection:  # noqa: B008
        """Raises CollectionExists."""
        ...

    def update_collection(self, collection: str, targets: Targets) -> Collection:
        """Replaces the targets."""
        ...

    def targets(self, collection: str) -> Targets:
        """What decisions in this collection aim at."""
        ...

    def collections(self) -> list[Collection]:
        """All collections by id, with their counts; ``default`` always exists."""
        ...

    def delete_collection(self, collection: str) -> int:
        """Erases a collection with all that is in it; returns how many templates that were.

        The default collection is emptied, not removed.
        """
        ...

    def enroll(
        self,
        collection: str,
        subject_id: str,
        templates: Sequence[NewTemplate],
        *,
        metadata: Mapping[str, Any] | None = None,
        on_conflict: OnConflict = OnConflict.APPEND,
        receipt: PendingReceipt | None = None,
    ) -> Subject:
        """Stores templates (one or more) of a subject, all or none, and the receipt with them.

        For a subject that exists, ``append`` adds templates, ``replace`` erases the old ones first, ``reject`` raises
        SubjectExists. ``metadata`` None keeps what is stored ({} for a new subject); a mapping replaces it. During
        ``replace`` every search finds either the old templates or the new ones.

        Raises ReceiptExists when there is a receipt under the key, rather than SubjectExists: the twin of a request may
        have created the subject. What ``receipt.render`` raises comes through, and nothing is stored; it must be quick
        and must not call the gallery.
        """
        ...

    def receipt(self, key: str) -> Receipt | None:
        """The receipt stored under this key in the last 24 hours, unless its subject has been erased since.

        Older receipts are not kept: they are erased at the next write.
        """
        ...

    def subject(self, collection: str, subject_id: str) -> Subject:
        """Raises SubjectNotFound."""
        ...

    def subjects(self, collection: str, *, after: str | None, limit: int) -> list[Subject]:
        """At most ``limit`` subjects with ids greater than ``after``, by id (code point order)."""
        ...

    def update_subject(self, collection: str, subject_id: str, metadata: Mapping[str, Any]) -> Subject:
        """Replaces the metadata. Raises SubjectNotFound."""
        ...

    def delete_subject(self, collection: str, subject_id: str) -> int:
        """Erases a subject with its templates and receipts; returns how many templates those were.

        Raises SubjectNotFound.
        """
        ...

    def delete_template(self, collection: str, subject_id: str, template_id: str) -> Subject:
        """Erases one template. Raises SubjectNotFound, TemplateNotFound, LastTemplate."""
        ...

    def subject_vectors(self, collection: str, *, after: str | None, limit: int) -> list[SubjectVectors]:
        """The templates that are compared of at most ``limit`` subjects with ids greater than ``after``, by id."""
        ...

    def size(self, collection: str) -> CollectionSize:
        """How many subjects a collection has, and of how many templates."""
        ...

    def search(self, collection: str, probe: Embedding, top_k: int, *, crowded: bool = True) -> list[Candidate]:
        """The ``top_k`` best subjects, one candidate each, the best first; ties by subject id.

        Best is what has the smallest sum of distance and crowding, or, unless ``crowded``, the smallest distance.

        The distance of a subject is that of ``app.embeddings.fused_template`` of its templates: exact squared L2 in
        float32, 0..4, the same that ``compare`` gives. An empty gallery gives [].
        """
        ...

    def compare(self, collection: str, subject_id: str, probe: Embedding) -> Candidate:
        """One subject compared with the probe. Raises SubjectNotFound."""
        ...

    def check(self) -> None:
        """Reads the store and searches the index. Raises GalleryUnavailable."""
        ...

    def close(self) -> None:
        """Finishes what is under way and gives the store free; a second call does nothing.

        No other method may be called afterwards.
        """
        ...


def every_subject(gallery: Gallery, collection: str) -> Iterator[SubjectVectors]:
    """The compared templates of all subjects by id, read in pages: those that come or go meanwhile may be missed."""
    after = None
    while page := gallery.subject_vectors(collection, after=after, limit=PAGE):
        yield from page
        after = page[-1].subject_id
