"""The encoder and the cohort that a gallery is bound to: one row, which keeps replicas with others from mixing in.

Every function works inside the transaction of the connection it is given.
"""

from __future__ import annotations

from typing import NamedTuple

from app.gallery.postgres.queries import short
from app.gallery.protocol import GalleryUnavailable
from app.postgres import RETRY_AFTER_SECONDS, Connection, constant


class Binding(NamedTuple):
    """Digests of the encoder that embeddings come from and of the cohort that crowding is computed with."""

    encoder: str | None
    cohort: str


def lock_binding(connection: Connection) -> None:
    """Waits for those who store what they computed, and keeps others from it until the end."""
    connection.execute("SELECT 1 FROM cohorts FOR UPDATE")


def is_bound(connection: Connection) -> bool:
    """Whether anybody has opened the gallery."""
    stored = _read(connection)
    return stored is not None and stored.encoder is not None


def bind(connection: Connection, encoder: str) -> Binding:
    """Binds the gallery to an encoder, by digest, and to the cohort that it has: replicas with others are refused."""
    connection.execute("UPDATE cohorts SET encoder = %(e)s WHERE encoder IS DISTINCT FROM %(e)s", {"e": encoder})
    bound = _read(connection)
    assert bound is not None
    return bound


def hold_binding(connection: Connection, mine: Binding) -> None:
    """Keeps the gallery bound as it is until the end. Raises GalleryUnavailable if it is bound to others."""
    refuse_other(mine, _read(connection, "FOR KEY SHARE"))


def check_binding(connection: Connection, mine: Binding) -> None:
    """Raises GalleryUnavailable if the gallery is bound to another encoder or cohort than this replica's."""
    refuse_other(mine, _read(connection))


def refuse_other(mine: Binding, stored: Binding | None) -> None:
    """Raises GalleryUnavailable unless what is stored comes from this replica's encoder and cohort."""
    if stored != mine:
        raise GalleryUnavailable(
            f"This process computes with {_text(mine)}, but the gallery was opened with {_text(stored)}: the services "
            "that use it have another release, encoder or calibration. Send requests to those; start this one as they "
            "are (TESSERA_ENCODING__ENCODER, TESSERA_DECISIONS__CALIBRATION).",
            retry_after=RETRY_AFTER_SECONDS,
        )


def _text(binding: Binding | None) -> str:
    encoder, cohort = binding or Binding(None, "none")
    digest, _, most = cohort.partition(" of ")
    fused = f" of {most} templates a subject" if most else ""
    return f"encoder {short(encoder or 'none')} and cohort {short(digest)}{fused}"


def _read(connection: Connection, lock: str = "") -> Binding | None:
    row = connection.execute(constant(f"SELECT encoder, digest FROM cohorts {lock}")).fetchone()  # noqa: S608
    return None if row is None else Binding(*row)
