"""The tabs for people, searches and audits, the key, a prefix, and accessibility, in a browser."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Literal

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FilePayload, Locator, Page, expect

from tests.app.process import Server
from tests.app.web.conftest import enrol, watched
from tests.app.web.proxy import proxied

pytestmark = pytest.mark.slow

TABS = ("compare", "people", "identify", "audit")
KEY = "a-key-for-everything-in-the-tests-of-the-page"


def test_a_folder_is_enrolled_and_refusals_are_listed(
    page: Page, server: Server, collection: str, folder: Path
) -> None:
    page.get_by_role("tab", name="People").click()
    expect(page.get_by_text("Nobody is enrolled in this collection yet.")).to_be_visible()
    page.get_by_label("A folder with a folder for each person").set_input_files(folder)
    expect(page.get_by_text("3 photographs enrolled, 2 subjects; 1 refused.")).to_be_visible()
    expect(page.locator(".refused")).to_contain_text("grace/wall.jpg")
    expect(page.locator(".refused")).to_contain_text("No face")
    expect(page.locator(".subject .id")).to_have_text(["Ada-Lovelace", "grace"])
    stored = httpx.get(f"{server.url}/subjects/Ada-Lovelace", params={"collection": collection}).json()
    assert (len(stored["templates"]), stored["metadata"]) == (2, {"name": "Ada Lovelace"})


def test_photographs_without_a_folder_need_an_id(page: Page, collection: str, ada: bytes) -> None:
    page.get_by_role("tab", name="People").click()
    photographs = page.get_by_label("Photographs of one person")
    file: FilePayload = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": ada}
    photographs.set_input_files([file])
    expect(page.get_by_role("alert")).to_contain_text("Give the subject id")
    page.get_by_label("Subject id (photographs in a folder take its name)").fill("Ada Lovelace")
    photographs.set_input_files([file])
    expect(page.get_by_role("alert")).to_contain_text("such as Ada-Lovelace")
    page.get_by_label("Subject id (photographs in a folder take its name)").fill("ada")
    photographs.set_input_files([file])
    expect(page.get_by_text("1 photograph enrolled, 1 subject; 0 refused.")).to_be_visible()


def test_samples_are_enrolled_and_found(page: Page, collection: str) -> None:
    page.get_by_role("tab", name="Identify").click()
    panel = page.get_by_role("tabpanel", name="Identify")
    panel.get_by_role("button", name="Sample: Eileen Collins", exact=True).click()
    expect(panel.locator("h2")).to_have_text("Nobody to search among")
    panel.get_by_role("link", name="People").click()
    page.get_by_role("button", name="Enrol two sample people").press("Enter")
    expect(page.locator(".subject .id")).to_have_text(["eileen-collins", "grace-hopper"])
    expect(page.locator(".list")).to_be_focused()
    page.get_by_label("Subject id", exact=True).fill("grace-hopper")
    page.get_by_role("button", name="Find").press("Enter")
    expect(page.locator(".subject .id")).to_have_text(["grace-hopper"])
    expect(page.locator("#people [role=status]").first).to_have_text("1 subject")
    expect(page.get_by_role("button", name="Find")).to_be_focused()
    page.get_by_label("Subject id", exact=True).fill("")
    expect(page.locator(".subject .id")).to_have_text(["eileen-collins", "grace-hopper"])
    page.get_by_role("tab", name="Identify").click()
    expect(panel.locator("h2")).to_have_text("This is eileen-collins")


def test_templates_are_shown_with_their_quality_and_erased(
    page: Page, server: Server, collection: str, ada: bytes
) -> None:
    enrol(server, collection, "ada", ada, ada)
    enrol(server, collection, "bob", ada)
    page.get_by_role("tab", name="People").click()
    page.get_by_label("Subject id", exact=True).fill("ada")
    page.get_by_role("button", name="Find").click()
    expect(page.locator(".subject .id")).to_have_text(["ada"])
    page.locator("summary").click()
    expect(page.locator(".template")).to_have_count(2)
    expect(page.locator(".template").first).to_contain_text(re.compile(r"quality \d+\.\d, good"))
    page.get_by_role("button", name="Erase the template").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Keep").click()
    page.get_by_role("button", name="Erase the template").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Erase the template").click()
    expect(page.locator("summary").first).to_contain_text("1 template ")
    page.locator("summary").first.click()
    page.get_by_role("button", name="Erase the subject").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Erase the subject").click()
    expect(page.locator(".subject .id")).to_have_text(["bob"])
    expect(page.locator("summary")).to_be_focused()
    answer = httpx.get(f"{server.url}/subjects/ada", params={"collection": collection})
    assert answer.json()["code"] == "subject_not_found"


def test_people_are_turned_page_by_page(page: Page, server: Server, collection: str, ada: bytes) -> None:
    for number in range(26):
        enrol(server, collection, f"s{number:02}", ada)
    page.get_by_role("tab", name="People").click()
    expect(page.locator(".subject")).to_have_count(25)
    back, on = (page.get_by_role("button", name=name) for name in ("Previous", "Next"))
    on.press("Enter")
    expect(page.get_by_text("Page 2: 1 subject", exact=True)).to_be_visible()
    expect(page.locator(".subject .id")).to_have_text(["s25"])
    # There is no page after it.
    expect(back).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Page 1: 25 subjects", exact=True)).to_be_visible()
    expect(on).to_be_focused()
    page.keyboard.press("Enter")
    page.locator("summary", has_text="s25").press("Enter")
    page.get_by_role("button", name="Erase the subject").press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Erase the subject").press("Enter")
    expect(page.locator(".subject")).to_have_count(25)
    expect(page.locator("summary").first).to_be_focused()


def test_a_face_is_identified(page: Page, server: Server, collection: str, ada: bytes, grace: bytes) -> None:
    page.get_by_role("tab", name="Identify").click()
    page.get_by_role("group", name="Who is this?").get_by_role("button", name="Sample: Grace Hopper").click()
    result = page.get_by_role("tabpanel", name="Identify").locator(".result")
    expect(result).to_contain_text("Nobody is enrolled in this collection yet.")
    enrol(server, collection, "grace", grace)
    enrol(server, collection, "ada", ada)
    page.get_by_role("button", name="Another photograph").click()
    page.get_by_role("group", name="Who is this?").get_by_role("button", name="Sample: Grace Hopper").click()
    expect(result.locator("h2")).to_have_text("This is grace")
    expect(result.locator("tbody th")).to_have_text(["grace", "ada"])
    expect(result).to_contain_text(re.compile(r"The next candidate fits less well by \d\.\d\d\."))


def test_an_audit_finds_somebody_twice_and_erases_one(
    page: Page, server: Server, collection: str, ada: bytes, grace: bytes
) -> None:
    enrol(server, collection, "ada", ada)
    enrol(server, collection, "ada-2", ada)
    enrol(server, collection, "grace", grace)
    page.get_by_role("tab", name="Audit").click()
    expect(page.get_by_text("This collection has not been audited yet.")).to_be_visible()
    page.get_by_role("button", name="Start an audit").click()
    expect(page.get_by_role("heading", name="Possibly enrolled twice: 1")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the report").click()
    assert f"Audit of the collection {collection}" in Path(download.value.path()).read_text()
    page.get_by_role("button", name="Erase ada-2").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Erase the subject").click()
    expect(page.get_by_role("heading", name="Possibly enrolled twice: 0")).to_be_visible()


def test_an_audit_finds_somebody_twice_and_merges_both_by_keyboard(
    page: Page, server: Server, collection: str, ada: bytes
) -> None:
    enrol(server, collection, "ada", ada)
    enrol(server, collection, "ada-2", ada)
    httpx.post(f"{server.url}/collections/{collection}/audit").raise_for_status()
    page.get_by_role("tab", name="Audit").click()
    merge = page.get_by_role("button", name="Merge ada and ada-2")
    # In the list of duplicates alone, not among all who are alike.
    expect(merge).to_have_count(1)
    merge.press("Enter")
    dialog = page.get_by_role("dialog", name="Merge")
    expect(dialog.get_by_role("button", name="Leave both")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    # Whoever has no mouse goes on from where they were.
    expect(merge).to_be_focused()
    page.keyboard.press("Enter")
    for name in ("ada", "ada-2"):
        page.keyboard.press("Tab")
        expect(dialog.get_by_role("button", name=f"Keep the name {name}", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Possibly enrolled twice: 0")).to_be_visible()
    expect(page.get_by_role("button", name="Save the report")).to_be_focused()
    where = {"collection": collection}
    assert len(httpx.get(f"{server.url}/subjects/ada-2", params=where).json()["templates"]) == 2
    assert httpx.get(f"{server.url}/subjects/ada", params=where).json()["code"] == "subject_not_found"


def test_a_merger_that_is_refused_says_why(page: Page, server: Server, collection: str, ada: bytes) -> None:
    enrol(server, collection, "ada", ada)
    enrol(server, collection, "ada-2", ada)
    httpx.post(f"{server.url}/collections/{collection}/audit").raise_for_status()
    page.get_by_role("tab", name="Audit").click()
    page.get_by_role("button", name="Merge ada and ada-2").click()
    httpx.delete(f"{server.url}/subjects/ada-2", params={"collection": collection}).raise_for_status()
    page.get_by_role("button", name="Keep the name ada", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("There is no subject 'ada-2'")


def audited_three_times(page: Page, server: Server, collection: str, ada: bytes) -> Locator:
    """The report on one person under three names; the list of who may be enrolled twice."""
    for name in ("ada", "ada-2", "ada-3"):
        enrol(server, collection, name, ada)
    httpx.post(f"{server.url}/collections/{collection}/audit").raise_for_status()
    page.get_by_role("tab", name="Audit").click()
    heading = page.get_by_role("heading", name="Possibly enrolled twice: 3")
    expect(heading).to_be_visible()
    return page.locator(".card", has=heading).get_by_role("listitem")


def test_what_a_finding_is_refused_is_told_beside_it(page: Page, server: Server, collection: str, ada: bytes) -> None:
    findings = audited_three_times(page, server, collection, ada)
    httpx.delete(f"{server.url}/subjects/ada-3", params={"collection": collection}).raise_for_status()
    gone = findings.filter(has_text="ada and ada-3")
    gone.get_by_role("button", name="Erase ada-3").click()
    page.get_by_role("dialog").get_by_role("button", name="Erase the subject").click()
    expect(gone.get_by_role("alert")).to_contain_text("There is no subject 'ada-3'")


def test_after_a_finding_comes_the_next_one(page: Page, server: Server, collection: str, ada: bytes) -> None:
    audited_three_times(page, server, collection, ada).first.get_by_role("button", name="Erase ada-2").click()
    page.get_by_role("dialog").get_by_role("button", name="Erase the subject").click()
    expect(page.get_by_role("heading", name="Possibly enrolled twice: 1")).to_be_visible()
    expect(page.get_by_role("button", name="Merge ada and ada-3")).to_be_focused()


def test_a_collection_is_created(page: Page) -> None:
    page.get_by_role("button", name="New …").click()
    page.get_by_label("Name", exact=True).fill("default")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("alert")).to_contain_text("default")
    name = f"c-{uuid.uuid4().hex[:8]}"
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_label("Collection", exact=True)).to_have_value(name)


def test_a_key_is_asked_for_once_below_a_prefix(browser: Browser, tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text(KEY)
    settings = {"TESSERA_SERVER__ROOT_PATH": "/faces", "TESSERA_SECURITY__ADMIN_KEY_FILE": str(secret)}
    with (
        Server(tmp_path / "data", **settings) as server,
        proxied("/faces", server.port) as url,
        watched(browser.new_context()) as page,
    ):
        page.goto(url)
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Key").fill("tessera_…")
        dialog.get_by_role("button", name="Use this key").click()
        expect(dialog.locator("#key:invalid")).to_be_focused()
        dialog.get_by_label("Key").fill("a wrong one")
        dialog.get_by_role("button", name="Use this key").click()
        expect(dialog.get_by_role("alert")).to_be_visible()
        dialog.get_by_label("Key").fill(KEY)
        dialog.get_by_role("button", name="Use this key").click()
        expect(page.get_by_role("combobox", name="Collection")).to_have_value("default")
        page.get_by_role("button", name="One person").click()
        expect(page.locator(".verdict h2")).to_have_text("The same person")
        page.reload()
        expect(page.get_by_role("combobox", name="Collection")).to_have_value("default")
        assert page.evaluate("Object.values(sessionStorage)") == [KEY]
        assert page.evaluate("localStorage.length + document.cookie.length") == 0
        page.get_by_role("tab", name="People").click()
        expect(page.get_by_text("Nobody is enrolled in this collection yet.")).to_be_visible()
        page.get_by_role("button", name="Key", exact=True).click()
        dialog.get_by_role("button", name="Forget the key").click()
        expect(dialog.get_by_role("heading")).to_have_text("This service asks for a key")
        expect(page.get_by_text("Nobody is enrolled in this collection yet.")).to_have_count(0)
        assert page.evaluate("sessionStorage.length") == 0


def assert_nobody_is_kept_out(page: Page, name: str) -> None:
    found = Axe().run(page).response["violations"]
    bad = [(v["id"], [n["html"] for n in v["nodes"]]) for v in found if v["impact"] in {"serious", "critical"}]
    assert not bad, name
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, f"{name} is wider than a phone"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_tab_keeps_anybody_out(
    browser: Browser, server: Server, scheme: Literal["light", "dark"], ada: bytes
) -> None:
    enrol(server, "default", "ada", ada)
    enrol(server, "default", "ada-2", ada)
    httpx.post(f"{server.url}/collections/default/audit").raise_for_status()
    # axe is put in by the test, which the policy of the page would not let anybody do.
    context = browser.new_context(
        color_scheme=scheme,
        viewport={"width": 360, "height": 740},
        bypass_csp=True,
    )
    with watched(context) as page:
        page.goto(server.url)
        page.get_by_role("button", name="One person").click()
        expect(page.locator(".verdict h2")).to_be_visible()
        for name in TABS:
            page.goto(f"{server.url}/#{name}")
            expect(page.locator(f"#{name}")).to_be_visible()
            if name == "people":
                page.locator("summary").first.click()
            if name == "identify":
                page.locator("#identify").get_by_role("button", name="Sample: Eileen Collins", exact=True).click()
                expect(page.locator("#identify .verdict")).to_be_visible()
            if name == "audit":
                expect(page.get_by_role("button", name="Merge ada and ada-2")).to_be_visible()
            assert_nobody_is_kept_out(page, name)
        page.get_by_role("button", name="Merge ada and ada-2").click()
        assert_nobody_is_kept_out(page, "the dialog before a merger")
