from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tessera_client import Client
from tests.app.photographs import collins, hopper, jpeg
from tests.app.process import Server, tessera


@pytest.fixture(scope="session")
def ada() -> bytes:
    """A photograph of one person."""
    return jpeg(collins())


@pytest.fixture(scope="session")
def grace() -> bytes:
    """A photograph of another person."""
    return jpeg(hopper())


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served") / "data"


@pytest.fixture(scope="module")
def key(data_dir: Path) -> str:
    created = tessera("keys", "create", "everything", "--scopes", "admin", "--data-dir", str(data_dir))
    return next(word for word in created.stdout.split() if word.startswith("tessera_"))


@pytest.fixture(scope="module")
def server(data_dir: Path, key: str) -> Iterator[Server]:
    with Server(data_dir) as running:
        yield running


@pytest.fixture
def client(server: Server, key: str) -> Iterator[Client]:
    with Client(server.url, key) as ready:
        yield ready
