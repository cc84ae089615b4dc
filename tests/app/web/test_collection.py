"""The control that chooses the collection, in a browser against a running service."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from app.composition import open_security
from app.security.keys import KeyStore, Scope
from app.settings import GallerySettings, Settings
from tests.app.process import Server
from tests.app.web.conftest import watched

pytestmark = pytest.mark.slow


def test_collections_that_were_not_listed_are_asked_for_again(page: Page) -> None:
    page.route("**/collections", lambda route: route.abort())
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer")
    page.unroute("**/collections")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("combobox", name="Collection")).to_have_value("default")
    expect(page.get_by_role("alert")).to_have_count(0)


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
