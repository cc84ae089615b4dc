"""The control that chooses the collection, in a browser against a running service."""

from __future__ import annotations

import uuid
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from app.composition import open_security
from app.security.keys import KeyStore, Scope
from app.settings import GallerySettings, Settings
from tests.app.process import Server
from tests.app.web.conftest import chosen, watched

pytestmark = pytest.mark.slow


def test_collections_that_were_not_listed_are_asked_for_again(page: Page) -> None:
    page.route("**/collections", lambda route: route.abort())
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer")
    page.unroute("**/collections")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("combobox", name="Collection")).to_have_value("default")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_key_that_is_entered_later_lists_the_collections(browser: Browser, tmp_path: Path) -> None:
    store = open_security(Settings(gallery=GallerySettings(data_dir=tmp_path / "data")))
    _, key = KeyStore(store).create("desk", frozenset({Scope.VERIFY, Scope.READ}))
    store.close()
    with Server(tmp_path / "data") as server, watched(browser.new_context()) as page:
        page.goto(server.url)
        page.get_by_role("button", name="Not now").click()
        expect(page.get_by_role("textbox", name="Collection")).to_have_value("default")
        expect(page.get_by_role("alert")).to_have_count(0)
        first = page.get_by_role("group", name="First face")
        first.get_by_role("button", name="Sample: Grace Hopper").click()
        page.get_by_role("button", name="Not now").click()
        expect(first.get_by_role("alert")).to_contain_text("This service asks for a key, and none was entered.")
        first.get_by_role("button", name="Try again").click()
        page.get_by_role("dialog").get_by_label("Key").fill(key)
        page.get_by_role("button", name="Use this key").click()
        expect(first).to_contain_text("1 face.")
        expect(page.get_by_role("combobox", name="Collection")).to_have_value("default")


@pytest.mark.parametrize("width", [360, 768])
def test_a_long_name_does_not_widen_the_page(page: Page, server: Server, width: int) -> None:
    name = f"{uuid.uuid4()}-{'x' * 80}"
    httpx.post(f"{server.url}/collections", json={"id": name}).raise_for_status()
    page.set_viewport_size({"width": width, "height": 740})
    page.reload()
    chosen(page).select_option(name)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    httpx.delete(f"{server.url}/collections/{name}").raise_for_status()


def test_a_key_that_may_not_list_collections_names_one(browser: Browser, tmp_path: Path) -> None:
    store = open_security(Settings(gallery=GallerySettings(data_dir=tmp_path / "data")))
    _, key = KeyStore(store).create("desk", frozenset({Scope.VERIFY}))
    store.close()
    with Server(tmp_path / "data") as server, watched(browser.new_context()) as page:
        page.goto(server.url)
        page.get_by_role("dialog").get_by_label("Key").fill(key)
        page.get_by_role("button", name="Use this key").click()
        field = page.get_by_role("textbox", name="Collection")
        expect(field).to_have_value("default")
        expect(page.get_by_role("alert")).to_have_count(0)
        field.fill("my staff")
        field.press("Tab")
        expect(page.get_by_role("alert")).to_contain_text("“my staff” cannot be a collection, so it is still default.")
        expect(field).to_have_value("default")
        field.fill("staff")
        field.press("Tab")
        expect(page.get_by_role("alert")).to_have_count(0)
        page.get_by_role("button", name="One person").click()
        expect(page.locator(".verdict").get_by_role("alert")).to_contain_text("staff")
