"""The interface of every gallery, whatever its store; one contract test suite checks all implementations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Collection as AnyOf
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from app.embeddings import Embedding
from app.errors import TesseraError
from app.gallery.records import (
    Candidate,
    Collection,
    CollectionSize,
    GalleryStatistics,
    NewTemplate,
    StoredAudit,
    Subject,
    SubjectVectors,
    Targets,
)

DEFAULT_COLLECTION = "default"
PAGE = 256


class OnConflict(StrEnum):
    """What to do if the subject to enrol already exists."""

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
    """A receipt to store in the same transaction as its enrolment or merger.

    names: templates that the answer names of other subjects: the id of the subject by that of the template. render:
    gives the answer, of the subject as it is then and those templates of ``names`` that have meanwhile been erased or
    become another subject's, which it must not name.
    """

    key: str
    fingerprint: str
    render: Callable[[Subject, frozenset[str]], str]
    names: Mapping[str, str] = field(default_factory=dict)


class GalleryError(TesseraError):
    """Base class of gallery errors."""


class CollectionNotFound(GalleryError):
    """There is no collection with this id."""

    code = "collection_not_found"


class CollectionExists(GalleryError):
    """A collection with this id already exists."""

    code = "collection_exists"


class CollectionNotEmpty(GalleryError):
    """The collection has subjects, and their erasure was not asked for."""

    code = "collection_not_empty"


class SubjectNotFound(GalleryError):
    """The collection has no subject with this id."""

    code = "subject_not_found"


class SubjectExists(GalleryError):
    """The collection already has a subject with this id."""

    code = "subject_exists"


class TemplateNotFound(GalleryError):
    """The subject has no template with this id."""

    code = "template_not_found"


class LastTemplate(GalleryError):
    """The last template of a subject cannot be deleted alone; delete the subject."""

    code = "last_template"


class TooManyTemplates(GalleryError):
    """The subject has as many templates as it may have, or as may be added to without displacing older ones."""

    code = "too_many_templates"


class ReceiptExists(GalleryError):
    """Another request has meanwhile stored a receipt under this key; read that one."""

    code = "idempotency_conflict"


class GalleryInUse(GalleryError):
    """Another process has this data directory open."""

    code = "gallery_in_use"


class EncoderMismatch(GalleryError):
    """The stored templates come from another encoder and cannot be compared with this one's."""

    code = "encoder_mismatch"


class ChipsNeedEncryption(GalleryError):
    """Chips are to be kept, and this gallery does not encrypt what it stores."""

    code = "chips_need_encryption"


class EncryptionKeyMissing(GalleryError):
    """The templates are encrypted, and the master key is missing or another one."""

    code = "encryption_key_missing"


class GalleryUnavailable(GalleryError):
    """The store does not respond or is damaged."""

    code = "gallery_unavailable"


class DiskFull(GalleryUnavailable):
    """The store has no space left on its disk."""


class SubjectDamaged(GalleryUnavailable):
    """What is stored of a subject, metadata or times, cannot be read."""

    code = "subject_damaged"
    names_subjects = True


class TemplateDamaged(GalleryUnavailable):
    """Stored templates of a subject are not what was stored; the subject is left out of searches."""

    code = "template_damaged"
    names_subjects = True


class BackupError(GalleryError):
    """A backup or an export cannot be written, read or put in place; nothing was changed."""

    code = "backup_failed"


class Gallery(Protocol):
    """Stores and searches templates. Every method may be called from several threads at once.

    A write returns only when it is durable and every later search, from any thread, sees it. A method that raises has
    changed nothing. Every method that takes a collection raises CollectionNotFound for an unknown one. Every method
    raises GalleryUnavailable when the store fails; SubjectDamaged and TemplateDamaged when what is stored of the
    subject is damaged. Damaged subjects are left out of searches; they can be erased or enrolled anew with ``replace``.

    ValueError means a mistake of the caller: an embedding that is not float32 [128], finite and of unit length within
    1e-3; an empty id; a template id that is taken; metadata that is not JSON (TypeError when it has values of other
    types); a ``limit`` or ``top_k`` below 1.
    """

    def create_collection(
        self,
        collection: str,
        targets: Targets = Targets(),  # noqa: B008
        *,
        keep_chips: bool = False,
    ) -> Collection:
        """``keep_chips``: whether the chips of new templates are stored with them, encrypted.

        Raises CollectionExists; ChipsNeedEncryption if ``keep_chips`` and the gallery is not encrypted.
        """
        ...

    def update_collection(self, collection: str, targets: Targets, *, keep_chips: bool | None = None) -> Collection:
        """Replaces the targets. ``keep_chips`` False erases the chips kept so far, too; None leaves it as it is.

        Raises ChipsNeedEncryption as ``create_collection`` does.
        """
        ...

    def targets(self, collection: str) -> Targets:
        """The target rates of this collection."""
        ...

    def collections(self) -> list[Collection]:
        """All collections with their counts, ordered by id; ``default`` always exists."""
        ...

    def identity(self, collection: str) -> str:
        """Text that no other collection has, not even one that is created under the same id after an erasure."""
        ...

    def stored_templates(self, ids: AnyOf[str]) -> frozenset[str]:
        """Which of these template ids are stored, in any collection."""
        ...

    def save_audit(self, collection: str, identity: str, audit: StoredAudit) -> None:
        """Keeps an audit in the place of the collection's earlier one, without findings about erased templates.

        Raises CollectionNotFound, too, if the collection is another one by now than that of this ``identity``.
        """
        ...

    def begin_audit(self, collection: str, identity: str, audit: StoredAudit) -> StoredAudit | None:
        """As ``save_audit``, of an audit that this process begins, unless another process works on one.

        That one then; None if there is none. Of several at once, one begins.
        """
        ...

    def renew_audit(self, collection: str, identity: str, audit: StoredAudit) -> None:
        """Says that this process works on an audit still and how far it is; or, unless ``under_way``, no more.

        To be called every few seconds: one that nobody speaks of for a minute is not under way any more. Nothing is
        changed if another audit has taken its place.
        """
        ...

    def audit(self, collection: str) -> StoredAudit | None:
        """The audit kept last, without findings about templates erased since; None without one.

        None, too, if everybody was erased at once.
        """
        ...

    def delete_collection(self, collection: str, *, force: bool = False) -> int:
        """Erases a collection with everything in it; returns the number of templates erased.

        The default collection is emptied, not removed. Raises CollectionNotEmpty if there are subjects, unless
        ``force``.
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
        most: int | None = None,
    ) -> Subject:
        """Stores templates (one or more) of a subject, all or none, and the receipt with them.

        For a subject that exists, ``append`` adds templates, ``replace`` erases the old ones first, ``reject`` raises
        SubjectExists. ``metadata`` None keeps what is stored ({} for a new subject); a mapping replaces it. During
        ``replace`` every search finds either the old templates or the new ones.

        Raises TooManyTemplates if the subject would have more than ``most``.

        Raises ReceiptExists if there is a receipt under the key, rather than SubjectExists: a duplicate of the request
        may have created the subject. Exceptions of ``receipt.render`` propagate, and nothing is stored; it must be
        quick and must not call the gallery.
        """
        ...

    def receipt(self, key: str) -> Receipt | None:
        """The receipt stored under this key in the last 24 hours, unless a template that it names was erased since.

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
        """Erases a subject with its templates and receipts; returns the number of templates erased.

        Raises SubjectNotFound.
        """
        ...

    def delete_template(self, collection: str, subject_id: str, template_id: str) -> Subject:
        """Erases one template. Raises SubjectNotFound, TemplateNotFound, LastTemplate."""
        ...

    def merge_subjects(
        self,
        collection: str,
        subject_id: str,
        duplicate: str,
        *,
        agree: Callable[[SubjectVectors, SubjectVectors], None] | None = None,
        receipt: PendingReceipt | None = None,
        most: int | None = None,
    ) -> Subject:
        """Makes all templates of ``duplicate`` the subject's, as they are, and erases the rest of ``duplicate``.

        Templates are in the order in which they were stored here, whoever's they were. The subject keeps its metadata
        and its own time. Receipts and findings of audits that name the duplicate are erased. During it every search
        finds either both or the merged subject.

        ``agree`` is called with all templates of the subject and of the duplicate, and ``receipt.render`` with the
        subject as it is then; their exceptions propagate, and nothing is changed. Both must be quick and must not call
        the gallery.

        Raises SubjectNotFound for either; ReceiptExists, before that, if there is a receipt under the key;
        TooManyTemplates if the subject would have more than ``most``; ValueError if both are the same.
        """
        ...

    def subject_vectors(self, collection: str, *, after: str | None, limit: int) -> list[SubjectVectors]:
        """The newest templates, at most ``MOST_FUSED``, of at most ``limit`` subjects with greater ids, by id."""
        ...

    def size(self, collection: str) -> CollectionSize:
        """The number of subjects in a collection, and the most compared templates of any of them."""
        ...

    def search(self, collection: str, probe: Embedding, top_k: int, *, crowded: bool = True) -> list[Candidate]:
        """The ``top_k`` best subjects, one candidate each, best first; ties by subject id.

        The best has the smallest sum of distance and crowding or, unless ``crowded``, the smallest distance.

        The distance of a subject is to ``app.embeddings.fused_template`` of its templates: exact squared L2 in float32,
        0..4, the same as from ``compare``. An empty gallery gives [].
        """
        ...

    def compare(self, collection: str, subject_id: str, probe: Embedding) -> Candidate:
        """One subject compared with the probe. Raises SubjectNotFound."""
        ...

    def statistics(self) -> GalleryStatistics:
        """Numbers for an operator; never raises."""
        ...

    def check(self) -> None:
        """Reads the store and searches the index. Raises GalleryUnavailable."""
        ...

    def close(self) -> None:
        """Finishes work in progress and releases the store; a second call does nothing.

        No other method may be called afterwards.
        """
        ...


def refuse_same(subject_id: str, duplicate: str) -> None:
    """Raises ValueError if a subject is to be merged with itself."""
    if subject_id == duplicate:
        raise ValueError("A subject cannot be merged with itself.")


def refuse_too_many(subject_id: str, held: int, duplicate: str, added: int, most: int | None) -> None:
    """Raises TooManyTemplates if two subjects with so many templates would have more than ``most`` together."""
    if most is not None and held + added > most:
        raise TooManyTemplates(
            f"The subject {subject_id!r} has {held} templates; with the {added} of {duplicate!r} there would be more "
            f"than {most}. Delete some."
        )


def every_subject(gallery: Gallery, collection: str) -> Iterator[SubjectVectors]:
    """The compared templates of all subjects by id, read in pages; concurrent changes may be missed."""
    after = None
    while page := gallery.subject_vectors(collection, after=after, limit=PAGE):
        yield from page
        after = page[-1].subject_id
