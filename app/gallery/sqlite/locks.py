"""Two locks: one keeps other processes out of a data directory, one lets searches run in parallel."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition

from app.gallery.protocol import GalleryInUse, GalleryUnavailable

LOCK_NAME = "gallery.lock"


class DirectoryLock:
    """Holds a data directory for one owner: ``flock`` on a file inside it, released by the kernel if the owner dies.

    A missing directory is created, for its owner alone. A second lock is refused in the same process too. The file
    stays behind; only the kernel's lock on it counts.

    Raises GalleryInUse when the directory is held, GalleryUnavailable when it cannot be created, written or locked.
    """

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise GalleryUnavailable(
                f"The data directory {directory} cannot be created or written: {error.filename}: {error.strerror}. "
                "Give the user that runs the server the right to write it and all in it, or choose another directory."
            ) from error
        try:
            self._acquire(directory)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _acquire(self, directory: Path) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            raise GalleryInUse(
                f"The data directory {directory} is open in another server or command (process {holder or 'unknown'}). "
                "Stop that one first, or choose another directory.",
                process=holder,
            ) from error
        except OSError as error:
            raise GalleryUnavailable(
                f"The data directory {directory} cannot be locked: {error.strerror}. It must lie on a file system "
                "that supports flock."
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Lets the next owner in."""
        os.close(self._descriptor)


class ReadersWriterLock:
    """Many readers or one writer; a waiting writer goes before new readers. Not reentrant."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._readers = 0
        self._writing = False
        self._waiting_writers = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Shared with other readers."""
        with self._changed:
            # Without this precedence a steady stream of searches would keep an enrolment waiting for ever.
            self._changed.wait_for(lambda: not self._writing and not self._waiting_writers)
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Exclusive."""
        with self._changed:
            self._waiting_writers += 1
            try:
                self._changed.wait_for(lambda: not self._writing and not self._readers)
                self._writing = True
            finally:
                self._waiting_writers -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
