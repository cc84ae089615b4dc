from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.recognition.service import RecognitionService
from app.settings import GallerySettings, SecuritySettings, ServerSettings, Settings
from tests.app.api.helpers import files, ok

Enroll = Callable[..., dict[str, object]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        server=ServerSettings(max_images=4, max_metadata_bytes=1024),
        gallery=GallerySettings(data_dir=tmp_path / "data"),
        security=SecuritySettings(failed_key_rate="1000/minute"),
    )


@pytest.fixture
def client(settings: Settings, service: RecognitionService) -> Iterator[TestClient]:
    with TestClient(create_app(settings, service)) as running:
        yield running


@pytest.fixture
def enroll(client: TestClient) -> Enroll:
    """Enrols photographs and gives the answer."""

    def send(*images: bytes, **fields: str) -> dict[str, object]:
        return ok(client.post("/enroll", files=files(*images), data=fields), 201)

    return send
