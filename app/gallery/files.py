"""Files that appear whole or not at all, for their owner alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.gallery.protocol import BackupError


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """An empty file beside ``target`` to write; it becomes ``target`` if the block ends well, else it is removed.

    It is on the disk when it gets its name. Raises BackupError if there is such a file already or it cannot be written.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        _refuse_existing(target)
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            yield partial
            sync(partial)
            _refuse_existing(target)
            partial.rename(target)
            sync(target.parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise BackupError(f"{target} cannot be written: {error.strerror or error}.") from error


def _refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise BackupError(f"{target} exists; choose another name, for nothing is overwritten.")


def sync(path: Path) -> None:
    """Waits until a file or directory is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
