"""Notices that files which are open were removed or replaced: what is written to them then would be lost."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from app.gallery.protocol import GalleryUnavailable


class OpenFiles:
    """Remembers which files lay at some paths, and holds on to them so that their inode numbers stay theirs.

    They are opened with ``O_PATH``: closing an ordinary descriptor of a database would drop SQLite's locks on it.
    """

    def __init__(self, directory: Path, names: Iterable[str]) -> None:
        """Paths are ``directory`` itself and those of its files ``names`` that exist. Raises OSError."""
        self._directory = directory
        self._files: list[tuple[Path, int, tuple[int, int]]] = []
        for path in (directory, *(directory / name for name in names)):
            try:
                descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            found = os.fstat(descriptor)
            self._files.append((path, descriptor, (found.st_dev, found.st_ino)))

    def check(self) -> None:
        """Raises GalleryUnavailable if one of the files is gone or another one lies in its place."""
        for path, _, identity in self._files:
            try:
                found = os.stat(path)
            except OSError as error:
                raise self._gone(path, f"cannot be found any more ({error.strerror})") from error
            if (found.st_dev, found.st_ino) != identity:
                raise self._gone(path, "was replaced by another one")

    def _gone(self, path: Path, what: str) -> GalleryUnavailable:
        kind = "data directory" if path == self._directory else "file"
        return GalleryUnavailable(
            f"The {kind} {path} {what} while the service runs, so nothing is stored or answered from it. Stop the "
            "service, put back what was there or restore a backup (`tessera gallery restore`), and start it again."
        )

    def close(self) -> None:
        """Lets go of the files."""
        for _, descriptor, _ in self._files:
            os.close(descriptor)
