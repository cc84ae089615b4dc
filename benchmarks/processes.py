"""What processes of this machine have used, from ``/proc``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from benchmarks.peers.processes import family

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(roots: Iterable[int]) -> float:
    """Processor time of processes and all their descendants, those included that have ended."""
    total = 0
    for process in family(list(roots)):
        try:
            # After the name, in brackets: user and system time, its own and that of children that have ended.
            fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(map(int, fields.split()[11:15]))
    return total / TICKS


def machine_seconds() -> tuple[float, float]:
    """Processor time of the whole machine since it started: busy, idle."""
    numbers = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    idle = numbers[3] + numbers[4]
    return (sum(numbers) - idle) / TICKS, idle / TICKS


def memory_bytes(root: int) -> int:
    """Resident memory of a process and its descendants; what several of them share counts once."""
    total = 0
    for process in family([root]):
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total
