"""Chips (aligned faces) of templates, kept encrypted where a collection asks for it, for another encoder to embed.

A chip is a picture of a face, so each is encrypted under a key of its own, which erasing it destroys. Functions that
take a connection work inside its transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from app.gallery.protocol import ChipsNeedEncryption, EncryptionKeyMissing
from app.gallery.records import NewTemplate
from app.gallery.sqlite.vault import Vault
from app.types import CHIP_SIDE, Pixels

# Compressing harder takes 3 to 35 times as long and saves a quarter to a third of the space.
_FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1]


def pack(chip: Pixels) -> bytes:
    """A chip, uint8 [112, 112, 3] RGB, as a PNG. Raises ValueError for another shape or type."""
    if chip.dtype != np.uint8 or chip.shape != (CHIP_SIDE, CHIP_SIDE, 3):
        raise ValueError(f"A chip is uint8 [{CHIP_SIDE}, {CHIP_SIDE}, 3], not {chip.dtype} {chip.shape}.")
    _, packed = cv2.imencode(".png", chip[:, :, ::-1], _FAST)
    return packed.tobytes()


def unpack(packed: bytes) -> Pixels:
    """The inverse of ``pack``. Raises ValueError for what it did not make."""
    chip = cv2.imdecode(np.frombuffer(packed, dtype=np.uint8), cv2.IMREAD_COLOR)
    if chip is None or chip.shape != (CHIP_SIDE, CHIP_SIDE, 3):
        raise ValueError("A stored chip is no picture of an aligned face.")
    return np.ascontiguousarray(chip[:, :, ::-1], dtype=np.uint8)


def purpose(template: str, collection: str) -> str:
    """What a chip is sealed for: it opens for this template in this collection alone."""
    return json.dumps(["chip", collection, template])


def require_keys(keys: Vault | None) -> None:
    """Raises ChipsNeedEncryption if templates are not encrypted."""
    if keys is None:
        raise ChipsNeedEncryption(
            "A chip is a picture of a face, so chips are kept only where templates are encrypted. Set "
            "TESSERA_GALLERY__MASTER_KEY_FILE (or TESSERA_GALLERY__KEY_WRAPPER) and start the service again, or leave "
            "keep_chips out."
        )


def set_keeping(connection: sqlite3.Connection, collection: int, *, keep: bool) -> None:
    """Keeps chips from now on, or erases those kept so far and keeps none."""
    connection.execute("UPDATE collections SET keep_chips = ? WHERE key = ?", (keep, collection))
    if not keep:
        connection.execute("DELETE FROM chips WHERE collection = ?", (collection,))


def refuse_open(connection: sqlite3.Connection, keys: Vault | None) -> None:
    """Raises EncryptionKeyMissing if a collection keeps chips and nothing is encrypted any more."""
    row = connection.execute("SELECT id FROM collections WHERE keep_chips ORDER BY id").fetchone()
    if row is not None and keys is None:
        raise EncryptionKeyMissing(
            f"The collection {row[0]!r} keeps chips, which need encryption. Name the master key in "
            "TESSERA_GALLERY__MASTER_KEY_FILE."
        )


def to_keep(connection: sqlite3.Connection, collection: str, templates: Sequence[NewTemplate]) -> dict[str, bytes]:
    """The chips of new templates, packed, by what they are sealed for; none unless their collection keeps chips.

    Raises ValueError.
    """
    keep = connection.execute("SELECT keep_chips FROM collections WHERE id = ?", (collection,)).fetchone()[0]
    return {purpose(t.id, collection): pack(t.chip) for t in templates if keep and t.chip is not None}


def insert_chips(
    connection: sqlite3.Connection, templates: Sequence[NewTemplate], sealed: Sequence[tuple[bytes, bytes]]
) -> None:
    """Stores the encrypted chips and seals of those of the templates that have a chip, in their order."""
    pictured = [template.id for template in templates if template.chip is not None]
    connection.executemany(
        "INSERT INTO chips (template, collection, seal, chip) SELECT key, collection, ?, ? FROM templates WHERE id = ?",
        [(seal, chip, template) for template, (chip, seal) in zip(pictured, sealed, strict=True)],
    )


def damaged_chips(
    connection: sqlite3.Connection, keys: Vault, present: sqlite3.Connection | None = None
) -> Iterator[tuple[str, str, str]]:
    """Collection, subject and template of every chip that does not open and, as ``present`` sees it, is there still."""
    rows = connection.execute(
        """
        SELECT c.id, s.id, t.id, h.chip, h.seal, h.template
        FROM chips h JOIN templates t ON t.key = h.template JOIN subjects s ON s.key = t.subject
        JOIN collections c ON c.key = s.collection ORDER BY h.template
        """
    )
    for collection, subject, template, chip, seal, key in rows:
        if keys.open(chip, seal, purpose(template, collection)) is not None:
            continue
        if present is None or not was_erased(present, key, seal):
            yield collection, subject, template


def was_erased(present: sqlite3.Connection, template: int, seal: bytes) -> bool:
    """Whether a chip of an older copy that does not open is not there any more, as ``erasures.was_erased``."""
    query = "SELECT 1 FROM chips WHERE template = ? AND seal = ?"
    return present.execute(query, (template, seal)).fetchone() is None


def lost_chips(connection: sqlite3.Connection, keys: Vault) -> list[tuple[int, bytes]]:
    """The key of the template and the seal of every chip whose key is gone."""
    templates = {seal: template for template, seal in connection.execute("SELECT template, seal FROM chips")}
    return [(templates[seal], seal) for seal in keys.lost(templates)]
