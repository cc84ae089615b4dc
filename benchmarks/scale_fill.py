"""Galleries of many made-up subjects, with one template each, written at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psycopg

from app.crowding import Crowding
from app.embeddings import EMBEDDING_SIZE, Vectors
from app.gallery import NewTemplate, SqliteGallery
from app.gallery.postgres.gallery import PostgresGallery
from app.gallery.sqlite import queries
from app.gallery.sqlite.database import DATABASE_NAME, Database
from app.gallery.sqlite.digests import SIZE as DIGEST_SIZE
from app.gallery.sqlite.digests import template_digest
from app.gallery.sqlite.templates import insert_templates
from app.openvino import available_cores

NORM = 10.0
MAINTENANCE_MEMORY = "4GB"
INDEX = "USING hnsw (mean halfvec_ip_ops) WITH (m = 32, ef_construction = 400)"
"""As the schema has it."""
_BATCH = 20_000
_ID = "S8"
"""Ids of one length, so that rows have one length, too."""
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
# https://www.postgresql.org/docs/current/sql-copy.html: signature, flags, length of the extension; the end.
_HEADER, _TRAILER = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
_DIMENSIONS = EMBEDDING_SIZE + 1

_SUBJECTS: dict[str, str | tuple[str, int]] = {
    "collection": ">i8",
    "key": ">i8",
    "id": _ID,
    "metadata": "S2",
    "created_at": ">i8",
    "updated_at": ">i8",
    "fused": ">i2",
    "crowding": ">f8",
    # pgvector's: the number of dimensions, two bytes without a meaning, the values.
    "mean": (">u2", _DIMENSIONS + 2),
}
_TEMPLATES: dict[str, str | tuple[str, int]] = {
    "collection": ">i8",
    "subject": ">i8",
    "encoder": ">i8",
    "id": _ID,
    "embedding": ("<f4", EMBEDDING_SIZE),
    "norm": ">f8",
    "digest": ("u1", DIGEST_SIZE),
    "created_at": ">i8",
}


def fill_postgres(url: str, vectors: Vectors, crowding: Crowding, digest: str, index: str = INDEX) -> None:
    """Stores a subject for each vector in an empty database, then builds the index.

    url: of a superuser. digest: of the encoder. index: how to build it.
    """
    store_subjects(url, vectors, crowding, digest)
    build_index(url, index)


def store_subjects(url: str, vectors: Vectors, crowding: Crowding, digest: str) -> None:
    """Stores a subject for each vector, and drops the index that they are found by."""
    PostgresGallery(url, encoder_digest=digest, crowding=crowding).close()
    with _connected(url) as connection:
        connection.execute("DROP INDEX subjects_mean")
        # Without the checks of foreign keys.
        connection.execute("SET session_replication_role = replica")
        _copy(connection, "subjects", _SUBJECTS, _subject_rows(vectors, crowding))
        _copy(connection, "templates", _TEMPLATES, _template_rows(vectors, digest))
        connection.execute("INSERT INTO sizes VALUES (1, 0, 1, %s, %s)", (len(vectors), len(vectors)))
        connection.execute("SELECT setval('subject_keys', %s)", (len(vectors),))
        connection.execute("ANALYZE")


def build_index(url: str, index: str = INDEX) -> None:
    """Builds the index with all cores."""
    with _connected(url) as connection:
        connection.execute(f"CREATE INDEX subjects_mean ON subjects {index}".encode())


def rebuild_index(url: str) -> None:
    """Builds all partitions of the index anew, with all cores, while searches use the old ones."""
    with _connected(url) as connection:
        connection.execute("REINDEX INDEX CONCURRENTLY subjects_mean")


def erase(url: str, share: float) -> int:
    """Erases a share of all subjects; how many."""
    with _connected(url) as connection:
        return connection.execute("DELETE FROM subjects WHERE key %% %s = 0", (max(1, round(1 / share)),)).rowcount


def vacuum(url: str) -> None:
    """Has the places of what was erased freed."""
    with _connected(url) as connection:
        connection.execute("VACUUM subjects, templates")


def _connected(url: str) -> psycopg.Connection:
    settings = {
        "search_path": "tessera,public",
        "maintenance_work_mem": MAINTENANCE_MEMORY,
        "max_parallel_maintenance_workers": available_cores(),
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    return psycopg.connect(url, options=options, autocommit=True)


def _copy(
    connection: psycopg.Connection,
    table: str,
    columns: dict[str, str | tuple[str, int]],
    batches: Iterator[dict[str, npt.ArrayLike]],
) -> None:
    """COPY in the binary format, in which all rows of a table have one length here."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int, ...]]] = [("", ">i2")]
    for name, kind in columns.items():
        shape = (kind,) if isinstance(kind, str) else (kind[0], (kind[1],))
        fields += [(f"length of {name}", ">i4"), (name, *shape)]
    row = np.dtype(fields)
    with connection.cursor().copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT binary)".encode()) as copy:
        copy.write(_HEADER)
        for batch in batches:
            rows = np.zeros(len(np.asarray(batch["id"])), row)
            rows[row.names[0]] = len(columns)  # type: ignore[index]
            for name in columns:
                rows[f"length of {name}"] = row[name].itemsize
                rows[name] = batch[name]
            copy.write(rows.tobytes())
        copy.write(_TRAILER)


def _batches(vectors: Vectors) -> Iterator[tuple[npt.NDArray[np.int64], Vectors]]:
    for start in range(0, len(vectors), _BATCH):
        part = vectors[start : start + _BATCH]
        yield np.arange(start, start + len(part)), part


def _now() -> int:
    return int((datetime.now(UTC) - _EPOCH).total_seconds() * 1e6)


def _subject_rows(vectors: Vectors, crowding: Crowding) -> Iterator[dict[str, npt.ArrayLike]]:
    now = _now()
    for numbers, part in _batches(vectors):
        crowded = crowding(part).astype(np.float64)
        mean = np.zeros((len(part), _DIMENSIONS + 2), np.uint16)
        mean[:, 0] = _DIMENSIONS
        mean[:, 2:] = np.column_stack([part, -crowded / 2]).astype(np.float16).view(np.uint16)
        yield {
            "collection": 1,
            "key": numbers + 1,
            "id": [subject_id(number) for number in numbers],
            "metadata": "{}",
            "created_at": now,
            "updated_at": now,
            "fused": 1,
            "crowding": crowded,
            "mean": mean,
        }


def _template_rows(vectors: Vectors, encoder: str) -> Iterator[dict[str, npt.ArrayLike]]:
    now = _now()
    for numbers, part in _batches(vectors):
        ids = [template_id(number) for number in numbers]
        digests = [
            template_digest(name, subject_id(number), "default", encoder, vector.tobytes(), NORM)
            for name, number, vector in zip(ids, numbers, part, strict=True)
        ]
        yield {
            "collection": 1,
            "subject": numbers + 1,
            "encoder": 1,
            "id": ids,
            "embedding": part,
            "norm": NORM,
            "digest": np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_SIZE),
            "created_at": now,
        }


def subject_id(number: int) -> str:
    """The id of a made-up subject, below ten million."""
    return f"s{number:07}"


def template_id(number: int) -> str:
    """The id of its template."""
    return f"t{number:07}"


def fill_embedded(directory: Path, vectors: Vectors, crowding: Crowding, digest: str) -> None:
    """The same subjects in a data directory."""
    SqliteGallery(directory, encoder_digest=digest, crowding=crowding).close()
    now = datetime.now(UTC)
    with closing(Database(directory / DATABASE_NAME)) as database, database.writing() as connection:
        collection = queries.collection_key(connection, "default")
        encoder = queries.bind_encoder(connection, directory, digest)
        for number, vector in enumerate(vectors):
            subject = queries.insert_subject(connection, collection, subject_id(number), "{}", now)
            insert_templates(connection, subject, [NewTemplate(template_id(number), vector, NORM)], encoder, now)
        database.commit()
