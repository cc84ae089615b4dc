"""Disk space kept for erasing: deleting writes, too, so that without it nothing could be erased from a full disk."""

from __future__ import annotations

import logging
import os
from pathlib import Path

RESERVE_NAME = "gallery.reserve"
RESERVE_SIZE = 4 * 1024 * 1024

_LOGGER = logging.getLogger("tessera")


class Reserve:
    """A file of zeros that takes space until it is released."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / RESERVE_NAME

    @property
    def is_full(self) -> bool:
        """Whether it holds all its space."""
        try:
            return self._path.stat().st_blocks * 512 >= RESERVE_SIZE
        except OSError:
            return False

    @property
    def is_released(self) -> bool:
        """Whether its space was given back and is not taken again."""
        try:
            return self._path.stat().st_size == 0
        except OSError:
            return False

    def fill(self) -> bool:
        """Takes the space, unless that would leave less than as much again; whether it holds it now."""
        if self.is_full:
            return True
        try:
            space = os.statvfs(self._path.parent)
            if space.f_bavail * space.f_frsize < 2 * RESERVE_SIZE:
                return False
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_SIZE)
            finally:
                os.close(descriptor)
        except OSError:
            return False
        return True

    def release(self) -> bool:
        """Gives the space back; whether there was any."""
        try:
            held = self._path.stat().st_blocks > 0
            os.truncate(self._path, 0)
        except OSError:
            return False
        if held:
            _LOGGER.warning("The disk is full: %s is released so that data can be erased.", self._path)
        return held
