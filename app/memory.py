"""Memory that is free but not yet the system's again."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _find_trim() -> Callable[[int], int] | None:
    """``malloc_trim`` of glibc; None with another C library."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim


_trim = _find_trim()


def give_back() -> None:
    """Returns what the C library keeps of a peak to the system; costs a millisecond or two.

    Memory in use is not touched. Does nothing where the C library is not glibc, which alone keeps as much: blocks that
    other blocks lie behind stay with the process, in an arena for each thread.
    """
    if _trim is not None:
        _trim(0)
