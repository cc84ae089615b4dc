"""Copies and snapshots of a database while a service goes on erasing: a key that is gone is an erasure or damage.

A key is destroyed after its template or chip is erased. So whoever misses a key first, and then finds in the database
as it is now that the template is gone, knows that it was erased; one that is there still is damaged.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

from app.gallery.protocol import BackupError
from app.gallery.sqlite import chips
from app.gallery.sqlite.vault import VAULT_NAME, WITHOUT_LOG, Vault

_SEALED = "SELECT key FROM templates WHERE seal = ?"


def erase_unreadable(connection: sqlite3.Connection, keys: Vault, present: sqlite3.Connection | None = None) -> int:
    """Erases from an older copy templates and chips whose keys were destroyed, and subjects without any template left.

    present: reads what the copy was made of, as it is now; None if that is not there. Returns how many templates were
    erased. Raises BackupError if keys are missing that nobody destroyed: those of what is there still, or all of them.
    """
    sealed = connection.execute("SELECT COUNT(*) FROM templates WHERE seal IS NOT NULL").fetchone()[0]
    lost = keys.lost(_seals(connection))
    lost_chips = chips.lost_chips(connection, keys)
    if present is None:
        if lost and len(lost) == sealed:
            raise BackupError(
                f"{VAULT_NAME} in the data directory has none of the keys of the {sealed} encrypted templates in this "
                f"backup. Put a copy of that file that goes with it there first, {WITHOUT_LOG}. If all were erased "
                "since, there is nothing to restore."
            )
    elif missing := [seal for seal in lost if not was_erased(present, seal)] + [
        seal for template, seal in lost_chips if not chips.was_erased(present, template, seal)
    ]:
        raise BackupError(
            f"{VAULT_NAME} lacks the keys of {len(missing)} templates or chips that nobody erased; `tessera gallery "
            f"check` names them. Put a copy of that file back, {WITHOUT_LOG}, or erase them."
        )
    connection.executemany("DELETE FROM chips WHERE template = ?", [(template,) for template, _ in lost_chips])
    _erase(connection, [key for seal in lost for (key,) in connection.execute(_SEALED, (seal,))])
    return len(lost)


def was_erased(present: sqlite3.Connection, seal: bytes) -> bool:
    """Whether an encrypted template of an older copy that does not open is not there any more.

    present: reads the database as it is now, in no transaction.
    """
    return present.execute(_SEALED, (seal,)).fetchone() is None


def open_sealed(connection: sqlite3.Connection, present: sqlite3.Connection) -> None:
    """Decrypts all templates of a copy in memory and leaves out those that were erased since (``was_erased``)."""
    # A template that does not open would become NULL, which the column refuses.
    connection.execute(
        "UPDATE OR IGNORE templates SET embedding = opened(embedding, seal, id), seal = NULL WHERE seal IS NOT NULL"
    )
    left = connection.execute("SELECT key, seal FROM templates WHERE seal IS NOT NULL").fetchall()
    _erase(connection, [key for key, seal in left if was_erased(present, seal)])


def _erase(connection: sqlite3.Connection, templates: Iterable[int]) -> None:
    """Erases templates from a copy, by key, and subjects that have no other; crowding is then to be computed anew."""
    keys = [(key,) for key in templates]
    connection.executemany(
        "UPDATE subjects SET crowding = NULL WHERE key = (SELECT subject FROM templates WHERE key = ?)", keys
    )
    connection.executemany("DELETE FROM templates WHERE key = ?", keys)
    if keys:
        connection.execute(
            "DELETE FROM subjects WHERE NOT EXISTS (SELECT 1 FROM templates t WHERE t.subject = subjects.key)"
        )


def _seals(connection: sqlite3.Connection) -> Iterator[bytes]:
    """The seals of all encrypted templates, in order."""
    for (seal,) in connection.execute("SELECT seal FROM templates WHERE seal IS NOT NULL ORDER BY seal"):
        yield seal
