from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.security.store import SecurityStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SecurityStore]:
    opened = SecurityStore(tmp_path)
    yield opened
    opened.close()
