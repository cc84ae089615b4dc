"""The gallery for several replicas: PostgreSQL keeps the truth and, with pgvector, finds the candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Collection as AnyOf
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import numpy as np
from psycopg.errors import FeatureNotSupported, InsufficientPrivilege, UndefinedFile

from app.crowding import Crowding, NoCrowding
from app.embeddings import EMBEDDING_SIZE, MOST_FUSED, Embedding
from app.gallery.damage import DamageWatch
from app.gallery.postgres import audits, queries, receipts
from app.gallery.postgres.binding import Binding, bind, check_binding, hold_binding, is_bound, lock_binding
from app.gallery.postgres.recall import SearchAuditCounts, SearchAudits
from app.gallery.postgres.search import IndexUse, nearest_subjects
from app.gallery.postgres.subjects import (
    Maker,
    SubjectRecord,
    erase_subject,
    erase_template,
    hold,
    merge_subjects,
    store_subject,
)
from app.gallery.postgres.templates import (
    NO_SUBJECT,
    Reading,
    bind_cohort,
    find_damage,
    is_damaged,
    read_templates,
    read_vectors,
)
from app.gallery.protocol import (
    DEFAULT_COLLECTION,
    ChipsNeedEncryption,
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
from app.gallery.sqlite.gallery import utc_now
from app.gallery.sqlite.migration import shipped_scripts
from app.gallery.sqlite.ranking import RankedSubject, checked, rank
from app.gallery.sqlite.templates import cohort_digest
from app.gallery.sqlite.values import dump_metadata, load_metadata
from app.postgres import RETRY_AFTER_SECONDS, Connection, Postgres, PostgresUnavailable, without_time_limit

CONNECTIONS = 16
_OLDEST_PGVECTOR = (0, 8)
_ANY_PROBE: Embedding = np.full(EMBEDDING_SIZE, EMBEDDING_SIZE**-0.5, dtype=np.float32)

T = TypeVar("T")


def unavailable(reason: PostgresUnavailable) -> GalleryUnavailable:
    """The gallery's error; the client is told when to try again."""
    kind = DiskFull if reason.full else GalleryUnavailable
    return kind(str(reason), retry_after=RETRY_AFTER_SECONDS)


class PostgresGallery:
    """A ``Gallery`` in a PostgreSQL database, for any number of processes.

    A write is one transaction; it returns when the server has it on disk, and on the synchronous standbys that the
    server is told to wait for. Writers of one subject wait for each other. A search is one statement, so it sees one
    state of the database. Small collections are compared one by one; of large ones, an HNSW index finds candidates,
    nearly always all that matter, and their distances are computed exactly, as everywhere.

    A gallery is bound to the encoder and the cohort of the replica that was started last. Others, which an update left
    over, are refused what would mix with that: GalleryUnavailable.

    Erasure: what is erased cannot be found or read by anybody from that moment on. PostgreSQL overwrites it on disk
    when VACUUM has freed its place and something else is stored there.

    Args:
        url: ``postgresql://...`` of the primary.
        encoder_digest: identifies the encoder that makes the embeddings.
        crowding: computes the crowding of embeddings; values stored with another cohort are recomputed.
        most_fused: how many templates of a subject are compared at most, the newest ones; 1 to ``MOST_FUSED``. The same
            in all processes.
        read_url: of a standby to search in; such searches may miss the last writes.
        connections: most at once, to each of the two.
        index: which searches use the index, and how.
        rebinds: binds the gallery to this encoder and cohort, as a service does that starts; otherwise one that is
            bound to others is refused, as for a command beside services.
        clock: returns the current time in UTC.

    Raises:
        EncoderMismatch: the database holds templates of another encoder.
        GalleryUnavailable: it cannot be reached, lacks pgvector, is of a newer release or may lose writes.
    """

    def __init__(  # noqa: PLR0913
        self,
        url: str,
        *,
        encoder_digest: str,
        crowding: Crowding = NoCrowding(),  # noqa: B008
        most_fused: int = MOST_FUSED,
        read_url: str | None = None,
        connections: int = CONNECTIONS,
        index: IndexUse = IndexUse(),  # noqa: B008
        rebinds: bool = True,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        if not encoder_digest:
            raise ValueError("The encoder's digest is empty.")
        self._clock, self._crowding, self._digest, self._index = clock, crowding, encoder_digest, index
        self._most_fused, self._rebinds = most_fused, rebinds
        self._damage, self._audits = DamageWatch(NO_SUBJECT), None
        self._database = Postgres(url, unavailable, connections=connections)
        self._searched = self._database
        try:
            scripts = shipped_scripts("app.gallery.postgres")
            self._version = len(scripts)
            self._database.migrate("gallery", scripts, self._open, _require_pgvector)
            if read_url is not None:
                self._searched = Postgres(read_url, unavailable, connections=connections, read_only=True)
        except BaseException:
            self._database.close()
            raise
        if index.audit_seconds is not None:
            self._audits = SearchAudits(self._searched, index, most_fused)

    def _open(self, connection: Connection) -> None:
        lock_binding(connection)
        encoder = queries.bind_encoder(connection, self._database.place, self._digest)
        self.maker = Maker(encoder, self._digest, self._crowding, self._most_fused)
        if self._rebinds or not is_bound(connection):
            bind_cohort(connection, self._crowding, self._most_fused)
            self.binding = bind(connection, self._digest)
        else:
            self.binding = Binding(self._digest, cohort_digest(self._crowding, self._most_fused))
            check_binding(connection, self.binding)
        queries.insert_collection(connection, DEFAULT_COLLECTION, self._clock())

    def _write(self, work: Callable[[Connection, datetime], T]) -> T:
        def do(connection: Connection) -> T:
            receipts.delete_old_receipts(connection, self._clock())
            return work(connection, self._clock())

        return self._database.write(do)

    def _write_computed(self, work: Callable[[Connection, datetime], T]) -> T:
        """As ``_write``, for what this replica's encoder and cohort compute: they have to be the gallery's."""

        def do(connection: Connection, now: datetime) -> T:
            hold_binding(connection, self.binding)
            return work(connection, now)

        return self._write(do)

    def create_collection(
        self,
        collection: str,
        targets: Targets = Targets(),  # noqa: B008
        keep_chips: bool = False,
    ) -> Collection:
        if not collection:
            raise ValueError("A collection's id is empty.")
        _refuse_chips(keep_chips)

        def create(connection: Connection, now: datetime) -> Collection:
            key = queries.insert_collection(connection, collection, now)
            if key is None:
                raise CollectionExists(f"There is a collection {collection!r} already.")
            queries.set_targets(connection, key, targets)
            return Collection(id=collection, created_at=now, subjects=0, templates=0, targets=targets)

        return self._write(create)

    def update_collection(self, collection: str, targets: Targets, *, keep_chips: bool | None = None) -> Collection:
        _refuse_chips(keep_chips)

        def update(connection: Connection, _: datetime) -> Collection:
            key = queries.collection_key(connection, collection, "FOR NO KEY UPDATE")
            queries.set_targets(connection, key, targets)
            return queries.read_collection(connection, key)

        return self._write(update)

    def targets(self, collection: str) -> Targets:
        with self._database.reading() as connection:
            return queries.read_targets(connection, collection)

    def collections(self) -> list[Collection]:
        with self._database.reading() as connection:
            return queries.read_collections(connection)

    def identity(self, collection: str) -> str:
        with self._database.reading() as connection:
            return str(queries.collection_key(connection, collection))

    def save_audit(self, collection: str, identity: str, audit: StoredAudit) -> None:
        def save(connection: Connection, _: datetime) -> None:
            audits.write_audit(connection, _audited(connection, collection, identity), audit)

        self._write(save)

    def begin_audit(self, collection: str, identity: str, audit: StoredAudit) -> StoredAudit | None:
        def begin(connection: Connection, _: datetime) -> StoredAudit | None:
            key = _audited(connection, collection, identity)
            other = audits.audit_under_way(connection, key)
            if other is None:
                audits.write_audit(connection, key, audit)
            return other

        return self._write(begin)

    def renew_audit(self, collection: str, identity: str, audit: StoredAudit) -> None:
        def renew(connection: Connection, _: datetime) -> None:
            audits.renew_audit(connection, _audited(connection, collection, identity), audit)

        self._write(renew)

    def audit(self, collection: str) -> StoredAudit | None:
        with self._database.reading() as connection:
            key = queries.collection_key(connection, collection)
            try:
                return audits.read_audit(connection, key)
            except ValueError as error:
                raise GalleryUnavailable(f"The stored audit of {collection!r} is damaged; make another.") from error

    def stored_templates(self, ids: AnyOf[str]) -> frozenset[str]:
        with self._database.reading() as connection:
            return receipts.stored_templates(connection, ids)

    def delete_collection(self, collection: str, *, force: bool = False) -> int:
        def delete(connection: Connection, _: datetime) -> int:
            without_time_limit(connection)
            key = queries.collection_key(connection, collection, "FOR UPDATE")
            size, stored = queries.read_size(connection, collection)[1:]
            if size.subjects and not force:
                raise CollectionNotEmpty(
                    f"Collection {collection!r} has {size.subjects} subject(s); add force=true to erase them with it.",
                    subjects=size.subjects,
                )
            # One table after the other is faster than row by row.
            for table in ("templates", "subjects", "sizes"):
                queries.delete_all(connection, table, key)
            audits.delete_audit(connection, key)
            if collection != DEFAULT_COLLECTION:
                queries.delete_collection(connection, key)
            return stored

        return self._write(delete)

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

        def store(connection: Connection, _: datetime) -> Subject:
            owner = queries.collection_key(connection, collection, "FOR KEY SHARE")
            # Before the subject is read: a duplicate of this request may have created it.
            self._refuse_answered(connection, receipt)
            queries.lock_subject(connection, owner, subject_id)
            key = queries.find_subject(connection, owner, subject_id, "FOR UPDATE")
            if key is not None and on_conflict is OnConflict.REJECT:
                raise SubjectExists(f"There is a subject {subject_id!r} in collection {collection!r} already.")
            subject = SubjectRecord(owner, collection, key, subject_id)
            held = hold(connection, subject, replace=on_conflict is OnConflict.REPLACE)
            if most is not None and len(held.embeddings) + len(templates) > most:
                raise TooManyTemplates(
                    f"The subject {subject_id!r} has {len(held.embeddings)} templates; with {len(templates)} more "
                    f"there would be more than {most}. Delete some, or replace them."
                )
            now = self._clock()
            stored = store_subject(connection, subject, held, [(t, now) for t in templates], self.maker, encoded, now)
            enrolled = queries.read_subject(connection, collection, subject_id)
            if receipt is not None:
                ids = [template.id for template in templates]
                receipts.insert_receipt(connection, receipt, (owner, stored), enrolled, ids, now)
            return enrolled

        return self._write_computed(store)

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

        def update(connection: Connection, _: datetime) -> Subject:
            owner, subject = queries.subject_key(connection, collection, subject_id, "FOR NO KEY UPDATE")
            queries.touch_subject(connection, owner, subject, encoded, self._clock())
            return queries.read_subject(connection, collection, subject_id)

        return self._write(update)

    def delete_subject(self, collection: str, subject_id: str) -> int:
        def delete(connection: Connection, _: datetime) -> int:
            owner, subject = queries.subject_key(connection, collection, subject_id, "FOR UPDATE")
            return erase_subject(connection, owner, subject)

        return self._write(delete)

    def delete_template(self, collection: str, subject_id: str, template_id: str) -> Subject:
        def delete(connection: Connection, _: datetime) -> Subject:
            owner, subject = queries.subject_key(connection, collection, subject_id, "FOR UPDATE")
            key = queries.template_key(connection, owner, subject, template_id)
            if queries.count_templates(connection, owner, subject) == 1:
                raise LastTemplate(
                    f"{template_id!r} is the last template of subject {subject_id!r}; delete the subject instead."
                )
            erase_template(connection, owner, subject, key, self.maker)
            queries.touch_subject(connection, owner, subject, None, self._clock())
            return queries.read_subject(connection, collection, subject_id)

        return self._write_computed(delete)

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

        def merge(connection: Connection, _: datetime) -> Subject:
            owner = queries.collection_key(connection, collection, "FOR KEY SHARE")
            # Before the subjects are read: a duplicate of this request may have merged them.
            self._refuse_answered(connection, receipt)
            # In one order everywhere, so that nobody waits for somebody who waits for him.
            keys = {
                id_: queries.subject_key(connection, collection, id_, "FOR UPDATE")[1]
                for id_ in sorted((subject_id, duplicate))
            }
            kept, gone = (SubjectRecord(owner, collection, keys[id_], id_) for id_ in (subject_id, duplicate))
            held, added = (queries.count_templates(connection, owner, keys[id_]) for id_ in (subject_id, duplicate))
            refuse_too_many(subject_id, held, duplicate, added, most)
            merge_subjects(connection, kept, gone, self.maker, agree)
            now = self._clock()
            queries.touch_subject(connection, owner, keys[subject_id], None, now)
            merged = queries.read_subject(connection, collection, subject_id)
            if receipt is not None:
                ids = [template.id for template in merged.templates]
                receipts.insert_receipt(connection, receipt, (owner, keys[subject_id]), merged, ids, now)
            return merged

        return self._write_computed(merge)

    def _refuse_answered(self, connection: Connection, receipt: PendingReceipt | None) -> None:
        """Raises ReceiptExists; keeps others with this key waiting."""
        if receipt is not None:
            receipts.lock_key(connection, receipt.key)
            if receipts.find_receipt(connection, receipt.key, self._clock()):
                raise ReceiptExists("Another request has been answered under this idempotency key.")

    def subject_vectors(self, collection: str, *, after: str | None, limit: int) -> list[SubjectVectors]:
        if limit < 1:
            raise ValueError("The limit is 1 or more.")
        with self._database.reading() as connection:
            return read_vectors(connection, collection, after or "", limit, self.binding)

    def size(self, collection: str) -> CollectionSize:
        with self._database.reading() as connection:
            size = queries.read_size(connection, collection)[1]
        return CollectionSize(size.subjects, min(size.most_templates, self._most_fused))

    def search(self, collection: str, probe: Embedding, top_k: int, *, crowded: bool = True) -> list[Candidate]:
        if top_k < 1:
            raise ValueError("top_k is 1 or more.")
        probe = checked(probe)
        with self._searched.reading() as connection:
            key, size, _ = queries.read_size(connection, collection)
            found = nearest_subjects(
                connection,
                key,
                probe,
                top_k,
                crowded=crowded,
                reading=Reading(self.binding, self._most_fused, self._damage.found),
                breadth=self._index.breadth if size.subjects > self._index.larger_than else None,
            )
        return [_candidate(ranked) for ranked in found]

    def compare(self, collection: str, subject_id: str, probe: Embedding) -> Candidate:
        probe = checked(probe)
        with self._database.reading() as connection:
            templates = read_templates(connection, collection, subject_id, Reading(self.binding, self._most_fused))
        if not templates:
            raise SubjectNotFound(f"There is no subject {subject_id!r} in collection {collection!r}.")
        return _candidate(rank(probe, templates)[0])

    def statistics(self) -> GalleryStatistics:
        # Checkpoints are the server's own, see pg_stat_checkpointer.
        audits = SearchAuditCounts() if self._audits is None else self._audits.counts
        return GalleryStatistics(
            damaged_subjects=self._damage.count,
            checkpoints=0,
            checkpoint_seconds=0.0,
            search_audits=audits.made,
            search_audits_missed=audits.missed,
            search_audits_failed=audits.failed,
        )

    def check(self) -> None:
        with self._database.reading() as connection:
            self._database.check_version(connection, "gallery", self._version)
            check_binding(connection, self.binding)
            _refuse_old_pgvector(_pgvector(connection))
            broken = queries.broken_indexes(connection)
            if broken:
                raise GalleryUnavailable(broken[0])
            self._damage.review(partial(find_damage, connection), partial(is_damaged, connection))
        self.search(DEFAULT_COLLECTION, _ANY_PROBE, 1)
        self._damage.refuse()

    def close(self) -> None:
        if self._audits is not None:
            self._audits.close()
        self._searched.close()
        self._database.close()


def _pgvector(connection: Connection) -> str | None:
    """The version of pgvector in the database; None without it."""
    row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    return None if row is None else str(row[0])


def _require_pgvector(connection: Connection) -> None:
    """Raises GalleryUnavailable unless pgvector is there or can be installed."""
    version = _pgvector(connection)
    if version is not None:
        _refuse_old_pgvector(version)
        return
    try:
        connection.execute("CREATE EXTENSION vector SCHEMA public")
    except (FeatureNotSupported, UndefinedFile, InsufficientPrivilege) as error:
        raise _without_pgvector(str(error).splitlines()[0]) from error


def look_for_pgvector(connection: Connection) -> None:
    """Raises GalleryUnavailable unless pgvector is there or this role may install it; nothing is made."""
    version = _pgvector(connection)
    if version is not None:
        _refuse_old_pgvector(version)
        return
    [may_install] = connection.execute(
        """
        SELECT bool_or(r.rolsuper OR v.trusted AND has_database_privilege(current_database(), 'CREATE'))
        FROM pg_available_extension_versions v, pg_roles r WHERE v.name = 'vector' AND r.rolname = current_user
        """
    ).fetchone() or [False]
    if not may_install:
        raise _without_pgvector("it is not installed, or this role may not create it")


def _without_pgvector(reason: str) -> GalleryUnavailable:
    return GalleryUnavailable(
        f"The database lacks pgvector ({reason}): install it on the server, and run CREATE EXTENSION vector in the "
        "database as its superuser."
    )


def _refuse_old_pgvector(version: str | None) -> None:
    if version is None:
        raise GalleryUnavailable(
            "pgvector was removed from the database, and with it what subjects are found by: restore a backup."
        )
    if tuple(map(int, version.split(".")[:2])) < _OLDEST_PGVECTOR:
        raise GalleryUnavailable(
            f"pgvector {version} is too old, 0.8 or newer is needed: ALTER EXTENSION vector UPDATE in the database."
        )


def _audited(connection: Connection, collection: str, identity: str) -> int:
    """The key of a collection whose audit nobody else changes until the end. Raises CollectionNotFound."""
    key = queries.collection_key(connection, collection, "FOR NO KEY UPDATE")
    if str(key) != identity:
        raise CollectionNotFound(f"The collection {collection!r} of this audit was erased.")
    return key


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


def _refuse_chips(keep_chips: bool | None) -> None:
    if keep_chips:
        raise ChipsNeedEncryption(
            "A chip is a picture of a face, so chips are kept only in a gallery that encrypts them, and one in "
            "PostgreSQL does not. Leave keep_chips out."
        )
