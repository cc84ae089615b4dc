"""Galleries of synthetic subjects, written in one transaction."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from app.embeddings import EMBEDDING_SIZE
from app.gallery import DEFAULT_COLLECTION, NewTemplate, SqliteGallery
from app.gallery.sqlite import queries
from app.gallery.sqlite.database import DATABASE_NAME, Database
from app.gallery.sqlite.templates import insert_templates

LENGTH = 10.0
"""Embedding norm of a good photograph."""


def fill_gallery(directory: Path, encoder_digest: str, templates: int, each: int = 10) -> None:
    """Adds subjects with ``each`` random unit vectors: the time of a search does not depend on the vectors.

    Nothing else may have the directory open; it is created if missing. A running service would write every subject to
    the disk before the next; here all are written at once.
    """
    SqliteGallery(directory, encoder_digest=encoder_digest).close()
    random, now = np.random.default_rng(0), datetime.now(UTC)
    database = Database(directory / DATABASE_NAME)
    try:
        with database.writing() as connection:
            collection = queries.collection_key(connection, DEFAULT_COLLECTION)
            encoder = queries.bind_encoder(connection, directory, encoder_digest)
            for number in range(0, templates, each):
                vectors = random.normal(size=(min(each, templates - number), EMBEDDING_SIZE)).astype(np.float32)
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
                subject = queries.insert_subject(connection, collection, f"person-{number}", "{}", now)
                new = [NewTemplate(uuid.uuid4().hex, vector, LENGTH) for vector in vectors]
                insert_templates(connection, subject, new, encoder, now)
            database.commit()
    finally:
        database.close()
