"""The embedded gallery: SQLite is the source of truth; an in-memory index per collection finds candidates."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from collections.abc import Collection as AnyOf
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from app.crowding import Crowding, NoCrowding
from app.embeddings import EMBEDDING_SIZE, MOST_FUSED, Embedding
from app.gallery.damage import Damage, DamageWatch, OnDamage, refuse
from app.gallery.protocol import (
    DEFAULT_COLLECTION,
    CollectionExists,
    CollectionNotEmpty,
    CollectionNotFound,
    DiskFull,
    GalleryUnavailable,
    LastTemplate,
    OnConflict,
    PendingReceipt,
    Receipt,
    ReceiptExists,
    SubjectExists,
    SubjectNotFound,
    TooManyTemplates,
    refuse_same,
    refuse_too_many,
)
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
from app.gallery.sqlite import audits, chips, queries, receipts
from app.gallery.sqlite.database import DATABASE_NAME, Database
from app.gallery.sqlite.index import Batch, CollectionIndex, Keys
from app.gallery.sqlite.loading import load_vectors
from app.gallery.sqlite.locks import DirectoryLock
from app.gallery.sqlite.ranking import RankedSubject, checked, nearest_subjects, rank
from app.gallery.sqlite.reenrolment import discard_unfinished
from app.gallery.sqlite.templates import (
    all_vectors,
    bind_cohort,
    damage_of,
    find_damage,
    insert_templates,
    move_templates,
    read_templates,
    read_vectors,
    renew_crowding,
    seal_templates,
    subject_keys,
)
from app.gallery.sqlite.values import dump_metadata, load_metadata
from app.gallery.sqlite.vault import Vault

_NO_KEYS: Keys = np.empty(0, dtype=np.int64)
# For a search whose result does not matter.
_ANY_PROBE: Embedding = np.full(EMBEDDING_SIZE, EMBEDDING_SIZE**-0.5, dtype=np.float32)

T = TypeVar("T")


def utc_now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


class SqliteGallery:
    """A ``Gallery`` in a directory of its own, for one process.

    A write is committed to SQLite (on disk before the commit returns), then the index is updated, then the method
    returns; see ``CollectionIndex`` for why no search sees an intermediate state. A search asks the index for
    candidates and ranks them by their exact embeddings from the database.

    Erasure: deleted data is overwritten with zeros in the database file. The write-ahead log, which may hold older
    pages, is emptied after every erasure or, if a long read prevents that, soon after it. Receipts are erased with any
    template that they name; those older than 24 hours on opening and by the next write. On a full disk, space that was
    kept for it is released. Copies of overwritten data that file systems, disks and backups keep are beyond its reach.

    Damage: a template whose digest does not fit leaves its subject out of searches; ``check`` reports it, and it can be
    enrolled anew with ``replace``, or erased.

    Args:
        directory: the data directory; created with access for its owner only if it is missing.
        encoder_digest: identifies the encoder that makes the embeddings.
        crowding: computes the crowding of embeddings; values stored with another cohort are recomputed.
        most_fused: how many templates of a subject are compared at most, the newest ones; 1 to ``MOST_FUSED``.
        keys: encrypt templates at rest; closed with the gallery. Templates from before are encrypted on opening.
        clock: returns the current time in UTC.

    Raises:
        GalleryInUse: the directory is already open, in another process or in this one.
        EncoderMismatch: it holds templates of another encoder.
        GalleryUnavailable: it cannot be written, or its database is damaged or of a newer release.
        EncryptionKeyMissing: its templates are encrypted, and no ``keys`` are given.
    """

    def __init__(
        self,
        directory: Path,
        *,
        encoder_digest: str,
        crowding: Crowding = NoCrowding(),  # noqa: B008
        most_fused: int = MOST_FUSED,
        keys: Vault | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        if not encoder_digest:
            raise ValueError("The encoder's digest is empty.")
        self._clock, self._crowding, self._most_fused, self._keys = clock, crowding, most_fused, keys
        self._indexes: dict[str, CollectionIndex] = {}
        self._damage = DamageWatch(0)
        with ExitStack() as opened:
            if keys is not None:
                opened.callback(keys.close)
            opened.callback(DirectoryLock(directory).release)
            discard_unfinished(directory)
            self._database = Database(directory / DATABASE_NAME, keys)
            opened.callback(self._database.close)
            self._encoder = self._open(directory, encoder_digest, keys)
            self._opened = opened.pop_all()

    def _open(self, directory: Path, encoder_digest: str, keys: Vault | None) -> int:
        with self._database.writing() as connection:
            now = self._clock()
            chips.refuse_open(connection, keys)
            encoder = queries.bind_encoder(connection, directory, encoder_digest)
            if self._keys is not None and seal_templates(connection, self._keys):
                self._database.expect_erasure()
            bind_cohort(connection, self._crowding, self._most_fused)
            receipts.delete_old_receipts(connection, now)
            if DEFAULT_COLLECTION not in queries.collection_ids(connection):
                queries.insert_collection(connection, DEFAULT_COLLECTION, now)
            collections = queries.collection_ids(connection)
            self._database.commit()
        for collection, key in collections.items():
            self._indexes[collection] = self._index_of(collection, key)
        return encoder

    def _index_of(self, collection: str, key: int) -> CollectionIndex:
        def load() -> Generator[Batch, None, None]:
            with self._database.reading() as connection:
                yield from load_vectors(connection, key, self._damage.found, self._most_fused)

        index = CollectionIndex(collection, load)
        index.rebuild()
        return index

    @contextmanager
    def _writing(self) -> Iterator[tuple[sqlite3.Connection, datetime]]:
        with self._database.writing() as connection:
            now = self._clock()
            receipts.delete_old_receipts(connection, now)
            yield connection, now

    def _erasing(self, work: Callable[[sqlite3.Connection, datetime], T]) -> T:
        """Does the work in a write transaction, if the disk is full once more with the space kept for erasing."""
        try:
            return self._erase(work)
        except DiskFull:
            if not self._database.release_reserve():
                raise
            return self._erase(work)

    def _erase(self, work: Callable[[sqlite3.Connection, datetime], T]) -> T:
        with self._writing() as (connection, now):
            self._database.expect_erasure()
            return work(connection, now)

    def create_collection(
        self,
        collection: str,
        targets: Targets = Targets(),  # noqa: B008
        *,
        keep_chips: bool = False,
    ) -> Collection:
        if not collection:
            raise ValueError("A collection's id is empty.")
        if keep_chips:
            chips.require_keys(self._keys)
        with self._writing() as (connection, now):
            if collection in queries.collection_ids(connection):
                raise CollectionExists(f"There is a collection {collection!r} already.")
            key = queries.insert_collection(connection, collection, now)
            queries.set_targets(connection, key, targets)
            chips.set_keeping(connection, key, keep=keep_chips)
            index = self._index_of(collection, key)
            self._database.commit()
            self._indexes[collection] = index
        return Collection(
            id=collection, created_at=now, subjects=0, templates=0, targets=targets, keep_chips=keep_chips
        )

    def update_collection(self, collection: str, targets: Targets, *, keep_chips: bool | None = None) -> Collection:
        if keep_chips:
            chips.require_keys(self._keys)

        def update(connection: sqlite3.Connection, _: datetime) -> Collection:
            key = queries.collection_key(connection, collection)
            queries.set_targets(connection, key, targets)
            if keep_chips is not None:
                chips.set_keeping(connection, key, keep=keep_chips)
            updated = queries.read_collection(connection, key)
            self._database.commit()
            return updated

        if keep_chips is False:
            return self._erasing(update)
        with self._writing() as (connection, now):
            return update(connection, now)

    def targets(self, collection: str) -> Targets:
        with self._database.reading() as connection:
            return queries.read_targets(connection, collection)

    def collections(self) -> list[Collection]:
        with self._database.reading() as connection:
            return queries.read_collections(connection)

    def identity(self, collection: str) -> str:
        with self._database.reading() as connection:
            return str(queries.collection_key(connection, collection))

    def stored_templates(self, ids: AnyOf[str]) -> frozenset[str]:
        with self._database.reading() as connection:
            return receipts.stored_templates(connection, ids)

    def save_audit(self, collection: str, identity: str, audit: StoredAudit) -> None:
        with self._writing() as (connection, _):
            key = queries.collection_key(connection, collection)
            if str(key) != identity:
                raise CollectionNotFound(f"The collection {collection!r} of this audit was erased.")
            audits.write_audit(connection, key, audit)
            self._database.commit()

    def begin_audit(self, collection: str, identity: str, audit: StoredAudit) -> StoredAudit | None:
        # No other process can be at one: the data directory belongs to this one.
        self.save_audit(collection, identity, audit)
        return None

    def renew_audit(self, collection: str, identity: str, audit: StoredAudit) -> None:
        del collection, identity, audit  # nobody else can ask for it

    def audit(self, collection: str) -> StoredAudit | None:
        with self._database.reading() as connection:
            key = queries.collection_key(connection, collection)
            try:
                return audits.read_audit(connection, key)
            except ValueError as error:
                raise GalleryUnavailable(f"The stored audit of {collection!r} is damaged; make another.") from error

    def delete_collection(self, collection: str, *, force: bool = False) -> int:
        return self._erasing(lambda connection, _: self._delete_collection(connection, collection, force=force))

    def _delete_collection(self, connection: sqlite3.Connection, collection: str, *, force: bool) -> int:
        key = queries.collection_key(connection, collection)
        templates, subjects = queries.count_templates(connection, key), subject_keys(connection, key)
        if len(subjects) and not force:
            raise CollectionNotEmpty(
                f"Collection {collection!r} has {len(subjects)} subject(s); add force=true to erase them with it.",
                subjects=len(subjects),
            )
        index = self._indexes[collection]
        if collection == DEFAULT_COLLECTION:
            queries.delete_subjects(connection, key)
            audits.delete_audit(connection, key)
            index.follow(self._database.commit, removed=subjects)
        else:
            queries.delete_collection(connection, key)
            index.drop(self._database.commit)
            del self._indexes[collection]
        self._damage.forget(subjects.tolist())
        return templates

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
        if not subject_id or not templates:
            raise ValueError("An enrolment has a subject id and at least one template.")
        for template in templates:
            checked(template.embedding)
        encoded = None if metadata is None else dump_metadata(metadata)
        with self._writing() as (connection, now):
            queries.collection_key(connection, collection)
            # Before the subject is read: a duplicate of this request may have created it.
            _refuse_answered(connection, receipt, now)
            self._database.require_room()
            subject, indexed = self._admit(connection, collection, subject_id, encoded, on_conflict, now)
            held = len(queries.template_ids(connection, subject))
            if most is not None and held + len(templates) > most:
                raise TooManyTemplates(
                    f"The subject {subject_id!r} has {held} templates; with {len(templates)} more there would be more "
                    f"than {most}. Delete some, or replace them."
                )
            insert_templates(connection, subject, templates, self._encoder, now, self._keys)
            added = self._renew_crowding(connection, subject)
            enrolled = queries.read_subject(connection, collection, subject_id)
            if receipt is not None:
                receipts.insert_receipt(connection, receipt, subject, enrolled, [t.id for t in templates], now)
            self._indexes[collection].follow(self._database.commit, removed=indexed, added=added)
            self._damage.forget([subject])
        return enrolled

    def _renew_crowding(self, connection: sqlite3.Connection, subject: int, on_damage: OnDamage = refuse) -> Batch:
        return renew_crowding(connection, subject, self._crowding, on_damage, most=self._most_fused)

    def _admit(
        self,
        connection: sqlite3.Connection,
        collection: str,
        subject_id: str,
        metadata: str | None,
        on_conflict: OnConflict,
        now: datetime,
    ) -> tuple[int, Keys]:
        """The subject's key, ready to take templates, and the keys that the index already holds for it."""
        try:
            subject = queries.subject_key(connection, collection, subject_id)
        except SubjectNotFound:
            key = queries.collection_key(connection, collection)
            return queries.insert_subject(connection, key, subject_id, metadata or "{}", now), _NO_KEYS
        if on_conflict is OnConflict.REJECT:
            raise SubjectExists(f"There is a subject {subject_id!r} in collection {collection!r} already.")
        queries.touch_subject(connection, subject, metadata, now)
        if on_conflict is OnConflict.REPLACE:
            self._database.expect_erasure()
            queries.delete_templates(connection, subject)
        return subject, _key(subject)

    def receipt(self, key: str) -> Receipt | None:
        with self._database.reading() as connection:
            return receipts.find_receipt(connection, key, self._clock())

    def subject(self, collection: str, subject_id: str) -> Subject:
        with self._database.reading() as connection:
            return queries.read_subject(connection, collection, subject_id)

    def subjects(self, collection: str, *, after: str | None, limit: int) -> list[Subject]:
        if limit < 1:
            raise ValueError("The limit is 1 or more.")
        with self._database.reading() as connection:
            return queries.read_subjects(connection, collection, after or "", limit)

    def update_subject(self, collection: str, subject_id: str, metadata: Mapping[str, Any]) -> Subject:
        encoded = dump_metadata(metadata)
        with self._writing() as (connection, now):
            subject = queries.subject_key(connection, collection, subject_id)
            queries.touch_subject(connection, subject, encoded, now)
            updated = queries.read_subject(connection, collection, subject_id)
            # Damaged metadata left the subject out of searches; what replaces them lets it in again.
            added = self._renew_crowding(connection, subject) if self._damage.knows(subject) else None
            removed = _NO_KEYS if added is None else _key(subject)
            self._indexes[collection].follow(self._database.commit, removed=removed, added=added)
            self._damage.forget([subject])
        return updated

    def delete_subject(self, collection: str, subject_id: str) -> int:
        def delete(connection: sqlite3.Connection, _: datetime) -> int:
            subject = queries.subject_key(connection, collection, subject_id)
            erased = queries.count_templates_of_subject(connection, subject)
            queries.delete_subject(connection, subject)
            self._indexes[collection].follow(self._database.commit, removed=_key(subject))
            self._damage.forget([subject])
            return erased

        return self._erasing(delete)

    def delete_template(self, collection: str, subject_id: str, template_id: str) -> Subject:
        def delete(connection: sqlite3.Connection, now: datetime) -> Subject:
            subject = queries.subject_key(connection, collection, subject_id)
            key = queries.template_key(connection, subject, template_id)
            if queries.count_templates_of_subject(connection, subject) == 1:
                raise LastTemplate(
                    f"{template_id!r} is the last template of subject {subject_id!r}; delete the subject instead."
                )
            queries.delete_template(connection, key)
            queries.touch_subject(connection, subject, None, now)
            remaining = queries.read_subject(connection, collection, subject_id)
            damage: list[Damage] = []
            added = self._renew_crowding(connection, subject, damage.append)
            self._indexes[collection].follow(self._database.commit, removed=_key(subject), added=added)
            self._damage.forget([subject])
            for found in damage:
                self._damage.found(found)
            return remaining

        return self._erasing(delete)

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
        refuse_same(subject_id, duplicate)

        def merge(connection: sqlite3.Connection, now: datetime) -> Subject:
            queries.collection_key(connection, collection)
            # Before the subjects are read: a duplicate of this request may have merged them.
            _refuse_answered(connection, receipt, now)
            kept, gone = (queries.subject_key(connection, collection, id_) for id_ in (subject_id, duplicate))
            held, added = (queries.count_templates_of_subject(connection, key) for key in (kept, gone))
            refuse_too_many(subject_id, held, duplicate, added, most)
            both = all_vectors(connection, kept), all_vectors(connection, gone)
            if agree is not None:
                agree(*both)
            receipts.delete_receipts_naming(connection, gone)
            audits.delete_findings(connection, gone)
            move_templates(connection, gone, kept)
            queries.delete_subject(connection, gone)
            queries.touch_subject(connection, kept, None, now)
            entry = self._renew_crowding(connection, kept)
            merged = queries.read_subject(connection, collection, subject_id)
            if receipt is not None:
                receipts.insert_receipt(connection, receipt, kept, merged, [t.id for t in merged.templates], now)
            removed = np.array([kept, gone], dtype=np.int64)
            self._indexes[collection].follow(self._database.commit, removed=removed, added=entry)
            self._damage.forget([kept, gone])
            return merged

        return self._erasing(merge)

    def subject_vectors(self, collection: str, *, after: str | None, limit: int) -> list[SubjectVectors]:
        if limit < 1:
            raise ValueError("The limit is 1 or more.")
        with self._index(collection).reading(), self._database.reading() as connection:
            return read_vectors(connection, queries.collection_key(connection, collection), after or "", limit)

    def size(self, collection: str) -> CollectionSize:
        return self._index(collection).size()

    def _index(self, collection: str) -> CollectionIndex:
        index = self._indexes.get(collection)
        if index is None:
            raise CollectionNotFound(f"There is no collection {collection!r}.")
        return index

    def search(self, collection: str, probe: Embedding, top_k: int, *, crowded: bool = True) -> list[Candidate]:
        if top_k < 1:
            raise ValueError("top_k is 1 or more.")
        probe = checked(probe)
        with self._index(collection).reading() as vectors, self._database.reading() as connection:
            found = nearest_subjects(
                vectors,
                lambda keys: read_templates(connection, keys, self._damage.found, most=self._most_fused),
                probe,
                top_k,
                crowded=crowded,
            )
        return [_candidate(ranked) for ranked in found]

    def compare(self, collection: str, subject_id: str, probe: Embedding) -> Candidate:
        probe = checked(probe)
        # The index keeps writes out meanwhile: keys of erased templates are destroyed with the write.
        with self._index(collection).reading(), self._database.reading() as connection:
            subject = queries.subject_key(connection, collection, subject_id)
            templates = read_templates(connection, [subject], self._refuse, most=self._most_fused)
        return _candidate(rank(probe, templates)[0])

    def make_room(self) -> bool:
        """Frees the space kept for erasing on a full disk; whether there was any."""
        return self._database.release_reserve()

    def statistics(self) -> GalleryStatistics:
        return GalleryStatistics(self._damage.count, *self._database.checkpoints)

    def check(self) -> None:
        for collection, index in list(self._indexes.items()):
            try:
                with index.reading() as vectors, self._database.reading() as connection:
                    stored = queries.count_subjects(connection, queries.collection_key(connection, collection))
                    indexed = vectors.size + index.left_out
                    vectors.search(_ANY_PROBE, 1)
            except CollectionNotFound:
                continue
            except RuntimeError as error:
                raise GalleryUnavailable(f"The index of collection {collection!r} does not answer: {error}.") from error
            if stored != indexed:
                raise GalleryUnavailable(
                    f"The index of collection {collection!r} holds {indexed} subjects, its database {stored}. "
                    "Restart the server: the index is rebuilt from the database."
                )
        if self._keys is not None:
            self._keys.check()
        self._damage.review(self._find_damage)
        self._damage.refuse()

    def _find_damage(self, after: int, limit: int, on_damage: OnDamage) -> int:
        """Hands over the damaged ones of the next subjects after a key; returns the key that was reached."""
        suspects: list[Damage] = []
        with self._database.reading() as connection:
            reached = find_damage(connection, after, limit, suspects.append)
        for suspect in suspects:
            # Once more, with writes kept out: it may have been put right meanwhile.
            with ExitStack() as reading:
                reading.enter_context(suppress(CollectionNotFound))
                reading.enter_context(self._index(suspect.collection).reading())
                connection = reading.enter_context(self._database.reading())
                if (damage := damage_of(connection, suspect.subject)) is not None:
                    on_damage(damage)
        return reached

    def _refuse(self, damage: Damage) -> None:
        self._damage.found(damage)
        refuse(damage)

    def close(self) -> None:
        self._opened.close()


def _refuse_answered(connection: sqlite3.Connection, receipt: PendingReceipt | None, now: datetime) -> None:
    if receipt is not None and receipts.find_receipt(connection, receipt.key, now):
        raise ReceiptExists("Another request has been answered under this idempotency key.")


def _key(subject: int) -> Keys:
    return np.array([subject], dtype=np.int64)


def _candidate(ranked: RankedSubject) -> Candidate:
    nearest = ranked.nearest
    metadata = load_metadata(nearest.metadata)
    return Candidate(
        nearest.subject_id,
        nearest.id,
        ranked.distance,
        metadata,
        ranked.templates,
        ranked.norm,
        nearest.crowding,
    )
