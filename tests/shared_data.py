"""Data that is not in the repository; tests that need it skip, saying so, where it is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("TESSERA_TEST_DATA", ROOT.parent / "shared"))
"""The folder with ``faces/`` and ``teachers/``."""

LFW = SHARED / "faces" / "lfw.tar"
TEACHERS = SHARED / "teachers"


def needs(path: Path) -> pytest.MarkDecorator:
    """Skips a test where a file is not there."""
    return pytest.mark.skipif(not path.exists(), reason=f"{path} is not there; TESSERA_TEST_DATA names its folder")
