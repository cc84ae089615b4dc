"""The process ends before a statement of a write: nothing acknowledged is lost, nothing is half there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared_data import ROOT

pytestmark = pytest.mark.slow

EVERY = 5
"""Every fifth statement; ``python -m tests.app.gallery.sqlite.statements FOLDER`` takes every one."""


def test_ending_before_any_statement_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.app.gallery.sqlite.statements", str(tmp_path), str(EVERY)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    endings = [int(count) for count in re.findall(r"ended (\d+) times", done.stdout)]
    assert len(endings) == 2
    assert all(count > 30 for count in endings), done.stdout
