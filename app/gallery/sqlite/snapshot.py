"""Reads a data directory as it is at one moment, while a service may be using it; nothing is created or changed."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from app.crowding import Crowding
from app.embeddings import MOST_FUSED
from app.gallery.damage import DamageWatch
from app.gallery.protocol import GalleryUnavailable
from app.gallery.sqlite import queries
from app.gallery.sqlite.database import DATABASE_NAME, Database, answering, configure, connect
from app.gallery.sqlite.erasures import open_sealed
from app.gallery.sqlite.gallery import SqliteGallery, utc_now
from app.gallery.sqlite.migration import migrate, refuse_other_schema, shipped_scripts
from app.gallery.sqlite.sequence import refuse_loss
from app.gallery.sqlite.vault import Vault, require_vault


@contextmanager
def snapshot(directory: Path) -> Iterator[sqlite3.Connection]:
    """A read transaction on the database of a data directory.

    Raises GalleryUnavailable if there is none, if it is of another release, or if acknowledged writes are missing.
    """
    path = directory / DATABASE_NAME
    if not path.is_file():
        refuse_loss(directory, None)
        raise GalleryUnavailable(f"There is no gallery in {directory}.")
    with answering(), closing(connect(path, read_only=True)) as connection:
        refuse_other_schema(connection, directory)
        refuse_loss(directory, lambda: queries.read_position(connection))
        connection.execute("BEGIN")
        yield connection


class _Copy(Database):
    """A database in memory: a copy of that of a data directory, or an empty one. Only its owner changes it."""

    def __init__(self, directory: Path | None, keys: Vault | None) -> None:
        self._lock, self._frozen = threading.Lock(), False
        self._writer = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        configure(self._writer, keys)
        try:
            if directory is None:
                migrate(self._writer, shipped_scripts())
                return
            with snapshot(directory) as source:
                source.backup(self._writer)
            with answering(keys), closing(connect(directory / DATABASE_NAME, read_only=True)) as present:
                require_vault(self._writer, keys)
                if keys is not None:
                    # Now, for a service may erase any of them while the copy is used, and with it the key.
                    open_sealed(self._writer, present)
        except BaseException:
            self._writer.close()
            raise

    def freeze(self) -> None:
        """From now on it is read only."""
        self._frozen = True

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The one connection; its database does not change."""
        with self._lock, answering():
            yield self._writer

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Raises GalleryUnavailable once it is frozen."""
        if self._frozen:
            raise GalleryUnavailable("This is a copy of the gallery, to be read only.")
        with self._lock, answering():
            yield self._writer

    def commit(self) -> None:
        """There is no transaction: nothing of this outlives the process."""

    def close(self) -> None:
        """Lets go of the copy."""
        with self._lock:
            self._writer.close()


class GalleryCopy(SqliteGallery):
    """A gallery copied into memory: what was stored at one moment, to be searched and never changed.

    Templates and their crowding take about 1 kB each; encrypted ones are decrypted. Nothing is written, neither to the
    data directory nor elsewhere.

    Args:
        directory: the data directory; None for an empty gallery.
        encoder_digest: as for ``SqliteGallery``.
        crowding, most_fused: as for ``SqliteGallery``.
        keys: open encrypted templates; closed with the gallery.

    Raises what ``snapshot`` raises, EncoderMismatch, EncryptionKeyMissing; every write raises GalleryUnavailable.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        encoder_digest: str,
        crowding: Crowding,
        most_fused: int = MOST_FUSED,
        keys: Vault | None = None,
    ) -> None:
        # Without keys of its own: templates that are not encrypted yet stay so.
        self._clock, self._crowding, self._most_fused, self._keys = utc_now, crowding, most_fused, None
        self._indexes, self._damage = {}, DamageWatch(0)
        with ExitStack() as opened:
            if keys is not None:
                opened.callback(keys.close)
            self._database = copy = _Copy(directory, keys)
            opened.callback(copy.close)
            self._encoder = self._open(directory or Path(), encoder_digest, keys)
            copy.freeze()
            self._opened = opened.pop_all()

    def make_room(self) -> bool:
        """It keeps no space on the disk."""
        return False
