"""The digest of a stored template: shows that a bit of it was changed, or that it was moved to another subject."""

from __future__ import annotations

import hashlib
import sqlite3
import struct

import numpy as np

from app.embeddings import EMBEDDING_SIZE, have_unit_norm

_LENGTHS = struct.Struct("<5Id")
SIZE = 16
# Copying a hash costs less than making one with its parameters.
_EMPTY = hashlib.blake2b(digest_size=SIZE, person=b"tessera-template")


def template_digest(id_: str, subject: str, collection: str, encoder: str, embedding: bytes, norm: float) -> bytes:
    """16 bytes of BLAKE2b over a template's id, those of its subject and collection, its encoder, embedding and norm.

    Raises TypeError, ValueError, AttributeError or struct.error for values that no template has.
    """
    texts = [text.encode() for text in (id_, subject, collection, encoder)]
    found = _EMPTY.copy()
    found.update(b"".join((_LENGTHS.pack(*map(len, texts), len(embedding), norm), *texts, embedding)))
    return found.digest()


def matches(
    digest: object, id_: str, subject: str, collection: str, encoder: str, embedding: bytes, norm: float
) -> bool:
    """Whether this is the digest of these values, whatever type damage has given them."""
    try:
        return digest == template_digest(id_, subject, collection, encoder, embedding, norm)
    except (TypeError, ValueError, AttributeError, struct.error):
        return False


def _digest_or_null(
    id_: str, subject: str, collection: str, encoder: str, embedding: bytes, norm: float
) -> bytes | None:
    try:
        if have_unit_norm(np.frombuffer(embedding, dtype="<f4").reshape(1, EMBEDDING_SIZE)):
            return template_digest(id_, subject, collection, encoder, embedding, norm)
    except (TypeError, ValueError, AttributeError, struct.error):
        pass
    return None


def install(connection: sqlite3.Connection) -> None:
    """Makes ``template_digest`` a function of this connection's SQL: NULL unless they are a sound template's."""
    connection.create_function("template_digest", 6, _digest_or_null, deterministic=True)
