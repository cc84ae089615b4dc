"""The image, built and run as a container runs it, where Debian's buildah and bubblewrap are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared_data import ROOT

NEEDED = ("buildah", "bwrap", "debootstrap", "curl")


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, NEEDED)), reason=f"needs root and {', '.join(NEEDED)}"
)
def test_the_image_enrols_verifies_stops_and_starts_again() -> None:
    work = Path("/var/tmp/tessera-image")  # some 3 GB; kept, since the base takes a minute to make
    command = [ROOT / "deploy" / "check_image", work]
    variables = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "the image works" in done.stderr
