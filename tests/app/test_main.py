"""The application as a whole."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from fastapi.testclient import TestClient

from app.main import create_app


def test_documentation_page_loads_nothing_from_elsewhere() -> None:
    client = TestClient(create_app())
    page = client.get("/docs")
    assert page.status_code == 200
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert addresses
    for address in addresses:
        assert urlsplit(address).netloc == "", address
        assert client.get(address).status_code == 200
