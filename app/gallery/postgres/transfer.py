"""Reads a whole gallery from PostgreSQL, copies records into one, and looks for damage."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice

from app.crowding import Crowding
from app.embeddings import MOST_FUSED
from app.gallery.postgres import queries
from app.gallery.postgres.binding import Binding, hold_binding
from app.gallery.postgres.gallery import PostgresGallery, unavailable
from app.gallery.postgres.subjects import Held, Maker, SubjectRecord, erase_subject, store_subject
from app.gallery.postgres.templates import Row, damaged_subjects, page_of_rows, stored_rows
from app.gallery.protocol import BackupError
from app.gallery.records import NewTemplate, Targets
from app.gallery.sqlite.inspection import Inspection
from app.gallery.sqlite.values import dump_metadata, load_metadata
from app.gallery.transfer import CollectionLine, Record, SubjectLine, TemplateItem
from app.postgres import Connection, Postgres

_PAGE = 256
_BATCH = 100
"""Subjects in a transaction."""
_MOST_LISTED = 100


@contextmanager
def exporting(url: str) -> Iterator[tuple[str, Iterator[Record]]]:
    """The encoder's digest and the records of a database, as they are at one moment; services may be using it.

    Raises GalleryUnavailable; the records raise TemplateDamaged and SubjectDamaged.
    """
    with (
        closing(Postgres(url, unavailable, connections=1, read_only=True)) as database,
        database.snapshot() as connection,
    ):
        yield queries.stored_encoder(connection), _records(connection)


def _records(connection: Connection) -> Iterator[Record]:
    for collection in queries.read_collections(connection):
        yield CollectionLine(
            id=collection.id,
            created_at=collection.created_at,
            target_fmr=collection.targets.fmr,
            target_fpir=collection.targets.fpir,
            claim=collection.targets.claim,
        )
        key, after = queries.collection_key(connection, collection.id), ""
        while page := queries.read_subjects(connection, collection.id, after, _PAGE):
            rows = page_of_rows(connection, key, after, _PAGE)
            for subject, own in zip(page, rows, strict=True):
                yield SubjectLine(
                    collection=collection.id,
                    id=subject.id,
                    metadata=load_metadata(own[0].metadata),
                    created_at=subject.created_at,
                    updated_at=subject.updated_at,
                    templates=tuple(map(_item, own)),
                )
            after = page[-1].id


def _item(row: Row) -> TemplateItem:
    return TemplateItem(
        id=row.id, created_at=row.created_at, norm=row.norm, embedding=base64.b64encode(row.embedding).decode()
    )


def copy_records(
    url: str, encoder_digest: str, crowding: Crowding, records: Iterable[Record], most_fused: int = MOST_FUSED
) -> int:
    """Stores records, so many at a time; returns how many subjects were stored or changed.

    What is there already stays, so that a copy that was interrupted goes on; a subject that differs is replaced. Ids
    and times are kept. Raises what ``records`` raises, EncoderMismatch, GalleryUnavailable; BackupError for a template
    that another subject has there.
    """
    # Brings the schema up.
    opened = PostgresGallery(
        url, encoder_digest=encoder_digest, crowding=crowding, most_fused=most_fused, rebinds=False
    )
    with closing(opened) as gallery:
        maker, binding = gallery.maker, gallery.binding
    changed = 0
    with closing(Postgres(url, unavailable, connections=1)) as database:
        rest = iter(records)
        while batch := list(islice(rest, _BATCH)):
            changed += database.write(partial(_store, records=batch, maker=maker, binding=binding))
    return changed


def _store(connection: Connection, records: Iterable[Record], maker: Maker, binding: Binding) -> int:
    hold_binding(connection, binding)
    changed = 0
    for record in records:
        if isinstance(record, SubjectLine):
            changed += _store_subject(connection, record, maker)
            continue
        key = queries.insert_collection(connection, record.id, record.created_at)
        key = queries.collection_key(connection, record.id) if key is None else key
        queries.set_targets(connection, key, Targets(record.target_fmr, record.target_fpir, record.claim))
    return changed


def _store_subject(connection: Connection, record: SubjectLine, maker: Maker) -> bool:
    """Whether anything had to be changed."""
    collection = queries.collection_key(connection, record.collection, "FOR KEY SHARE")
    queries.lock_subject(connection, collection, record.id)
    key = queries.find_subject(connection, collection, record.id, "FOR UPDATE")
    if key is not None:
        subject = queries.read_subject(connection, record.collection, record.id)
        rows = stored_rows(connection, collection, key, damaged=lambda _: None)
        if (subject.updated_at, dict(subject.metadata)) == (record.updated_at, record.metadata) and tuple(
            map(_item, rows)
        ) == record.templates:
            return False
        erase_subject(connection, collection, key)
    new = [(NewTemplate(item.id, item.vector(), item.norm), item.created_at) for item in record.templates]
    subject_record = SubjectRecord(collection, record.collection, None, record.id)
    metadata = dump_metadata(record.metadata)
    try:
        stored = store_subject(connection, subject_record, Held((), 0), new, maker, metadata, record.created_at)
    except ValueError as error:
        raise BackupError(
            f"A template of subject {record.id!r} is in the copy under another subject, as after a merger. Copy into "
            "an empty gallery."
        ) from error
    queries.touch_subject(connection, collection, stored, None, record.updated_at)
    return True


def inspect_database(url: str) -> Inspection:
    """Compares every template with its digest, and the counts with what is there. Raises GalleryUnavailable."""
    with (
        closing(Postgres(url, unavailable, connections=1, read_only=True)) as database,
        database.snapshot() as connection,
    ):
        collections = queries.read_collections(connection)
        problems = queries.broken_indexes(connection)
        problems += [
            f"Collection {name!r} has {stored} subjects, but {counted} are counted. Restore a backup."
            for name, stored, counted in queries.miscounted(connection, MOST_FUSED)
        ]
        problems += [damage.error().message for damage in islice(damaged_subjects(connection), _MOST_LISTED)]
        return Inspection(
            len(collections),
            sum(collection.subjects for collection in collections),
            sum(collection.templates for collection in collections),
            tuple(problems),
        )
