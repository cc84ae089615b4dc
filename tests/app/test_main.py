"""The application as a whole."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

from fastapi.testclient import TestClient

from app.gallery import ApproximateIndex, SqliteGallery
from app.main import build_service, create_app
from app.settings import GallerySettings, Settings


def test_documentation_page_loads_nothing_from_elsewhere() -> None:
    client = TestClient(create_app())
    page = client.get("/docs")
    assert page.status_code == 200
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert addresses
    for address in addresses:
        assert address.startswith(("/", "http://testserver/")), address
        assert client.get(address).status_code == 200


def test_the_gallery_searches_as_the_settings_say(tmp_path: Path) -> None:
    settings = Settings(gallery=GallerySettings(data_dir=tmp_path, approximate_from=7))
    with closing(build_service(settings)) as service:
        assert isinstance(service.gallery, SqliteGallery)
        index = service.gallery._make_index()
        assert isinstance(index, ApproximateIndex)
        assert index._approximate_from == 7
