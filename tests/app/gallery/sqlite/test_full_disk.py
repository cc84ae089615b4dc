"""A disk that is full or may not be written, as a small file system of a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.gallery.sqlite.support import DIGEST, ROOT

pytestmark = pytest.mark.slow

FILL = """
import os, sys, time
from pathlib import Path
import numpy as np
from app.gallery import GalleryUnavailable, NewTemplate, OnConflict, SqliteGallery
from app.gallery.sqlite import upkeep
from app.gallery.sqlite.reserve import RESERVE_NAME, RESERVE_SIZE

upkeep.PAUSE_S = 0.05
directory, filler = Path(sys.argv[1]) / "data", Path(sys.argv[1]) / "filler"
reserve = directory / RESERVE_NAME
random = np.random.default_rng(0)

def new(name):
    vector = random.standard_normal(128)
    return [NewTemplate(name, (vector / np.linalg.norm(vector)).astype(np.float32), 10.0)]

def names(gallery):
    return [subject.id for subject in gallery.subjects("default", after=None, limit=100000)]

gallery = SqliteGallery(directory, encoder_digest=sys.argv[2])
for number in range(100):
    gallery.enroll("default", f"s{number:04}", new(f"t{number}"), metadata={"secret": f"of-s{number:04}-" + "x" * 500})
assert reserve.stat().st_blocks * 512 >= RESERVE_SIZE

def fill():
    with filler.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass

fill()
enrolled = 100
try:
    while True:
        fill()
        gallery.enroll("default", f"s{enrolled:04}", new(f"t{enrolled}"), metadata={"secret": "y" * 500})
        enrolled += 1
except GalleryUnavailable as error:
    assert "disk is full" in error.message, error.message
assert names(gallery) == [f"s{number:04}" for number in range(enrolled)]
gallery.check()
assert reserve.stat().st_blocks * 512 >= RESERVE_SIZE
for number in range(10):
    assert gallery.delete_subject("default", f"s{number:04}") == 1
assert reserve.stat().st_size == 0
assert names(gallery) == [f"s{number:04}" for number in range(10, enrolled)]
try:
    gallery.enroll("default", "late", new("late"))
    raise AssertionError("an enrolment takes what is kept for erasing")
except GalleryUnavailable as error:
    assert "is for erasing" in error.message, error.message
gallery.check()
content = b"".join(path.read_bytes() for path in directory.iterdir())
assert b"of-s0009" not in content and b"of-s0010" in content

def wait_until_filled():
    deadline = time.monotonic() + 60
    while reserve.stat().st_blocks * 512 < RESERVE_SIZE:
        assert time.monotonic() < deadline, "the reserve is not filled again"
        time.sleep(0.05)

filler.unlink()
wait_until_filled()
# As the audit trail does it, where no write to the gallery follows.
assert gallery.make_room() and reserve.stat().st_size == 0
wait_until_filled()
gallery.enroll("default", "after", new("after"))
gallery.close()
fill()
gallery = SqliteGallery(directory, encoder_digest=sys.argv[2])
assert "after" in names(gallery)
assert gallery.delete_subject("default", "after") == 1
gallery.check()
gallery.close()
gallery = SqliteGallery(directory, encoder_digest=sys.argv[2])
assert reserve.stat().st_size == 0
filler.unlink()
wait_until_filled()
gallery.enroll("default", "last", new("last"))
gallery.close()
print("done")
"""

READ_ONLY = """
import subprocess, sys
from pathlib import Path
import numpy as np
from app.gallery import GalleryUnavailable, NewTemplate, SqliteGallery

root = Path(sys.argv[1])
gallery = SqliteGallery(root / "data", encoder_digest=sys.argv[2])
vector = np.zeros(128, dtype=np.float32)
vector[0] = 1
gallery.enroll("default", "ada", [NewTemplate("t", vector, 10.0)])
gallery.close()
subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
try:
    SqliteGallery(root / "data", encoder_digest=sys.argv[2])
except GalleryUnavailable as error:
    assert "cannot be created or written" in error.message, error.message
    print("done")
"""


@pytest.mark.parametrize("script", [FILL, READ_ONLY], ids=["full", "read only"])
def test_a_disk_that_takes_no_more(tmp_path: Path, script: str) -> None:
    mount = f"mount -t tmpfs -o size=14m tmpfs '{tmp_path}'"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small file system")
    command = f'{mount} && exec "$0" -c "$1" "$2" "$3"'
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, sys.executable, script, str(tmp_path), DIGEST],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.stdout == "done\n", result.stderr
