"""Templates belong to the encoder that made them; two encoders' embeddings cannot be compared."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from app.gallery.protocol import EncoderMismatch


def bind(connection: sqlite3.Connection, directory: Path, digest: str) -> int:
    """The key under which templates of this encoder are stored; the encoder is noted when it is new.

    Raises EncoderMismatch when there is a template of any other encoder; ``directory`` is named in its message.
    """
    _refuse_others(connection, directory, digest)
    connection.execute("INSERT OR IGNORE INTO encoders (digest) VALUES (?)", (digest,))
    return int(connection.execute("SELECT key FROM encoders WHERE digest = ?", (digest,)).fetchone()[0])


def _refuse_others(connection: sqlite3.Connection, directory: Path, digest: str) -> None:
    others: dict[str, int] = dict(
        connection.execute(
            """
            SELECT e.digest, COUNT(*) FROM encoders e JOIN templates t ON t.encoder = e.key
            WHERE e.digest <> ? GROUP BY e.digest ORDER BY e.digest
            """,
            (digest,),
        )
    )
    if not others:
        return
    templates = sum(others.values())
    raise EncoderMismatch(
        f"{templates} stored template(s) in {directory} come from encoder {', '.join(map(_short, others))}, but this "
        f"server runs encoder {_short(digest)}, and embeddings of two encoders cannot be compared. Serve with the "
        "encoder they come from (TESSERA_ENCODING__ENCODER chooses it), "
        "or start with a new data directory and enrol everyone again: photographs are not "
        "kept, so the templates cannot be made anew.",
        templates=templates,
        stored_encoders=list(others),
        encoder=digest,
    )


def _short(digest: str) -> str:
    algorithm, separator, value = digest.rpartition(":")
    return f"{algorithm}{separator}{value[:12]}"
