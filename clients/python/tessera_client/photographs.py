"""Photographs as callers have them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class ReadableFile(Protocol):
    """A file that is open for reading bytes, whatever is behind it: a disk, memory, a member of an archive."""

    def read(self) -> bytes:
        """The rest of it."""
        ...


Photograph = str | os.PathLike[str] | bytes | bytearray | memoryview | ReadableFile
"""A path, the bytes of a file, or a file that is open for reading bytes."""


def content_of(photograph: Photograph) -> bytes:
    """The encoded bytes; read at once, so that a request can be repeated. Raises OSError, TypeError."""
    if isinstance(photograph, bytes | bytearray | memoryview):
        return bytes(photograph)
    if isinstance(photograph, str | os.PathLike):
        return Path(photograph).read_bytes()
    if not hasattr(photograph, "read"):
        raise TypeError(f"a photograph is a path, bytes or a file, not {type(photograph).__name__}")
    content = photograph.read()
    if not isinstance(content, bytes):
        raise TypeError("a photograph is read as bytes: open the file with mode 'rb'")
    return content
