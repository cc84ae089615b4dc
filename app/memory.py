"""Memory that is free but not yet the system's again."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")

_M_ARENA_MAX = -8
"""Of ``mallopt`` in glibc's malloc.h."""
ARENAS = 2


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


def share_arenas() -> None:
    """Lets all threads of the process share a few heaps, where the C library is glibc.

    By default each thread has a heap of its own, up to eight a core, and each keeps what its largest photograph left
    behind: with 64 clients the memory of a two-core service climbs by half. Work on photographs spends its time
    outside the allocator, so sharing costs nothing that can be measured. ``MALLOC_ARENA_MAX`` in the environment wins.
    Call it before threads start.
    """
    if _trim is not None and "MALLOC_ARENA_MAX" not in os.environ:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


def limit_bytes() -> int:
    """The memory that this process may use: of the machine, or less if a control group (cgroup v2) limits it."""
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for group in own_groups():
        try:
            limit = min(limit, int((group / "memory.max").read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
    return limit


def own_groups() -> list[Path]:
    """The control group of this process and those around it (cgroup v2), innermost first.

    In a container its own is the outermost that it sees; a unit of systemd lies deeper, and each group may limit it.
    """
    try:
        own = OWN_GROUP.read_text(encoding="utf-8").strip().rpartition("::/")[2]
    except OSError:
        own = ""
    innermost = CONTROL_GROUPS / own
    return [innermost, *(group for group in innermost.parents if group.is_relative_to(CONTROL_GROUPS))]
