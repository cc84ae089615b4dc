"""The number of the last acknowledged write, beside the database: a database that is behind it has lost writes."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.gallery.protocol import GalleryUnavailable

SEQUENCE_NAME = "gallery.sequence"

_LOGGER = logging.getLogger("tessera")
_WAY_OUT = (
    "Put a backup back (`tessera gallery restore`), or accept what is there with `tessera gallery check --accept-loss`."
)


@dataclass(frozen=True, slots=True)
class Position:
    """Which database, and the number of its last write."""

    database: str
    sequence: int


class SequenceFile:
    """Holds one ``Position`` in a file.

    ``note`` is one small write without fsync, which survives the death of the process; ``sync`` makes it survive that
    of the machine. So after a power cut the file may be behind the database, never ahead of it.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / SEQUENCE_NAME
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def note(self, position: Position) -> None:
        """Replaces the position. Raises OSError."""
        text = f"tessera 1 {position.database} {position.sequence:020}"
        os.pwrite(self._descriptor, f"{text} {zlib.crc32(text.encode()):08x}\n".encode(), 0)

    def sync(self) -> None:
        """Waits until the position is on the disk. Raises OSError."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


def read_position(directory: Path) -> Position | None:
    """The noted position; None if there is none, or, with a warning in the log, if it cannot be read."""
    path = directory / SEQUENCE_NAME
    try:
        content = path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise GalleryUnavailable(f"{path} cannot be read: {error.strerror}.") from error
    text, _, checksum = content.partition("\n")[0].rpartition(" ")
    match text.split(" "):
        case ["tessera", "1", database, sequence] if checksum == f"{zlib.crc32(text.encode()):08x}":
            return Position(database, int(sequence))
    _LOGGER.warning("%s is damaged: whether acknowledged writes are missing cannot be told this time.", path)
    return None


def refuse_loss(directory: Path, stored: Callable[[], Position] | None) -> None:
    """Raises GalleryUnavailable if the database lacks acknowledged writes.

    ``stored`` reads its position, or is None if there is no database. It is called after the noted position was read,
    because a running service notes a write after it is stored.
    """
    noted = read_position(directory)
    if noted is None:
        return
    if stored is None:
        raise GalleryUnavailable(
            f"The database in {directory} is missing; it held {noted.sequence} acknowledged write(s). {_WAY_OUT}",
            missing_writes=noted.sequence,
        )
    found = stored()
    if found.database != noted.database:
        raise GalleryUnavailable(
            f"The database in {directory} is not the one that was served from there before, which held "
            f"{noted.sequence} acknowledged write(s). {_WAY_OUT}"
        )
    if (missing := noted.sequence - found.sequence) > 0:
        raise GalleryUnavailable(
            f"The database in {directory} lacks the last {missing} acknowledged write(s): its log was damaged or "
            f"removed, or an older copy was put in its place. {_WAY_OUT}",
            missing_writes=missing,
        )
