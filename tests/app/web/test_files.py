"""The files of the page as they are served, without a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.composition import open_security
from app.decisions import Reason
from app.faces import FORMATS
from app.main import create_app
from app.recognition.service import RecognitionService
from app.security.keys import KeyStore, Scope
from app.settings import GallerySettings, ServerSettings, Settings
from app.web.page import MEDIA_TYPES, POLICY, assets
from tests.app.api.helpers import problem


@pytest.fixture
def client(service: RecognitionService, tmp_path: Path) -> Iterator[TestClient]:
    """A service that has a key, and requests without one."""
    settings = Settings(gallery=GallerySettings(data_dir=tmp_path / "data"))
    store = open_security(settings)
    KeyStore(store).create("desk", frozenset({Scope.VERIFY}))
    store.close()
    with TestClient(create_app(settings, service)) as running:
        yield running


def test_the_page_and_its_files_need_no_key_and_what_they_ask_does(client: TestClient) -> None:
    assert client.get("/").status_code == 200
    for name, asset in assets().items():
        if name != "index.html":
            assert client.get(f"/page/{name}").content == asset.content
    for path in ("/model", "/subjects", "/collections"):
        problem(client.get(path), 401, "unauthenticated")


def test_the_page_asks_for_the_formats_that_are_read() -> None:
    asked = re.search(r'KINDS = "([^"]+)"', assets()["photograph.js"].content.decode())
    assert asked is not None
    assert asked[1].split(",") == [f"image/{name.lower()}" for name in re.split(", | or ", FORMATS)]


def test_every_reason_has_words() -> None:
    words = assets()["words.js"].content.decode()
    assert [reason for reason in Reason if f"\n  {reason}: " not in words] == []


def test_nothing_runs_but_the_modules_of_the_page(client: TestClient) -> None:
    headers = client.get("/").headers
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert "camera=(self)" in headers["permissions-policy"]
    text = client.get("/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bon\w+=|\bstyle=", text)


def test_files_are_kept_by_their_etag(client: TestClient) -> None:
    for path in ("/", "/page/main.js", "/page/samples/both.jpg"):
        first = client.get(path)
        assert first.headers["cache-control"] == "no-cache"
        again = client.get(path, headers={"If-None-Match": f"W/{first.headers['etag']}"})
        assert (again.status_code, again.content) == (304, b"")
        assert client.get(path, headers={"If-None-Match": '"another"'}).content == first.content


def test_head_is_answered_without_a_body(client: TestClient) -> None:
    for path in ("/", "/page/style.css"):
        answer = client.head(path)
        assert answer.status_code == 200
        assert int(answer.headers["content-length"]) == len(client.get(path).content)


@pytest.mark.parametrize("name", ["", "index.html", "nothing.js", "%2e%2e/page.py", "samples/%2e%2e/%2e%2e/page.py"])
def test_other_names_are_not_found(client: TestClient, name: str) -> None:
    problem(client.get(f"/page/{name}"), 404, "not_found")


def test_without_the_page_the_address_leads_to_the_documentation(service: RecognitionService, tmp_path: Path) -> None:
    settings = Settings(server=ServerSettings(page=False), gallery=GallerySettings(data_dir=tmp_path / "data"))
    with TestClient(create_app(settings, service)) as client:
        assert client.get("/", follow_redirects=False).headers["location"] == "docs"
        problem(client.get("/page/main.js"), 404, "not_found")


def test_the_documentation_loads_without_a_key(client: TestClient) -> None:
    addresses = re.findall(r'(?:src|href)="([^"]+)"', client.get("/docs").text)
    assert addresses
    for address in addresses:
        assert client.get(address).status_code == 200, address


def test_every_address_is_relative_and_leads_to_a_file() -> None:
    files = assets()
    index = files["index.html"].content.decode()
    addresses = re.findall(r'(?:src|href)="([^"]+)"', index)
    assert {a for a in addresses if not a.startswith("page/")} == {"docs"}
    assert {a.removeprefix("page/") for a in addresses if a != "docs"} <= files.keys()
    for name, asset in files.items():
        if name.endswith(".js"):
            for imported in re.findall(r'from "([^"]+)"', asset.content.decode()):
                assert imported.removeprefix("./") in files, f"{name} imports {imported}"
        assert Path(name).suffix in MEDIA_TYPES


def test_samples_are_small_and_their_licence_names_each() -> None:
    files = assets()
    pictures = [name.removeprefix("samples/") for name in files if name.endswith(".jpg")]
    licence = files["samples/LICENSE.txt"].content.decode()
    assert pictures
    assert all(name in licence for name in pictures)
    assert all(len(files[f"samples/{name}"].content) < 80_000 for name in pictures)
