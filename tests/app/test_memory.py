"""Memory of many threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COUNT = """
import threading
from app.memory import share_arenas
from ctypes import CDLL, c_size_t
{call}
malloc = CDLL(None).malloc
malloc.argtypes, malloc.restype = [c_size_t], c_size_t
barrier, blocks = threading.Barrier(16), []
def take():
    barrier.wait()
    blocks.append(malloc(1000))
    barrier.wait()
threads = [threading.Thread(target=take) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len({{block >> 26 for block in blocks}}))
"""


def heaps(call: str, **environment: str) -> int:
    """How many heaps (regions of 64 MiB, in glibc) sixteen threads allocate from."""
    clean = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(call=call)],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(
    not hasattr(os, "confstr") or not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"),
    reason="only glibc has a heap a thread",
)
def test_threads_share_heaps() -> None:
    before, shared = heaps("pass"), heaps("share_arenas()")

    assert shared <= 2 < before
    assert heaps("share_arenas()", MALLOC_ARENA_MAX="5") > shared
