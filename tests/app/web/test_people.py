"""Who is enrolled as whom, and in which collection, in a browser against a running service."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from playwright.sync_api import FilePayload, Locator, Page, Route, expect

from tests.app.photographs import two_alike
from tests.app.process import Server
from tests.app.web.conftest import Held, chosen, enrol

pytestmark = pytest.mark.slow


def drop(page: Page, target: Locator, path: Path) -> None:
    """Drops a file or a folder of this machine, as a file manager does."""
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    assert box is not None
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 5, "y": box["y"] + 5, "data": data})


def ids_in(server: Server, collection: str) -> list[str]:
    answer = httpx.get(f"{server.url}/subjects", params={"collection": collection}).raise_for_status()
    return [subject["id"] for subject in answer.json()["subjects"]]


@pytest.mark.parametrize("way", ["choose", "drop"])
def test_two_folders_of_one_name_are_not_one_person(
    page: Page, server: Server, collection: str, tmp_path: Path, ada: bytes, grace: bytes, way: str
) -> None:
    people = tmp_path / "people"
    for name, photograph in {"ada": ada, "grace": grace}.items():
        (people / name / "originals").mkdir(parents=True)
        (people / name / "originals" / "1.jpg").write_bytes(photograph)
    page.get_by_role("tab", name="People").click()
    if way == "choose":
        page.get_by_label("A folder with a folder for each person").set_input_files(people)
    else:
        drop(page, page.locator(".drop"), people)
    refusal = page.get_by_role("alert")
    expect(refusal).to_contain_text("Two folders are named “originals”")
    expect(refusal).to_contain_text("people/ada/originals")
    expect(refusal).to_contain_text("people/grace/originals")
    assert ids_in(server, collection) == []


def test_the_collection_asked_for_last_is_shown(
    page: Page, server: Server, collection: str, other: str, ada: bytes
) -> None:
    enrol(server, collection, "ada", ada)
    enrol(server, other, "bob", ada)
    early, late = (Held(page, f"**/subjects?collection={name}&*") for name in (collection, other))
    page.get_by_role("tab", name="People").click()
    early.wait()
    chosen(page).select_option(other)
    late.wait()
    early.release()
    # Which says that the early answer has arrived.
    expect(page.get_by_role("button", name="Find")).to_be_enabled()
    expect(page.locator(".subject")).to_have_count(0)
    expect(page.get_by_text("Loading …")).to_be_visible()
    late.release()
    expect(page.locator(".subject .id")).to_have_text(["bob"])


def test_a_subject_is_erased_in_the_collection_that_the_question_names(
    page: Page, server: Server, collection: str, other: str, ada: bytes
) -> None:
    for name in (collection, other):
        enrol(server, name, "ada", ada)
    page.get_by_role("tab", name="People").click()
    page.locator("summary").click()
    page.get_by_role("button", name="Erase the subject").click()
    dialog = page.get_by_role("dialog", name="Erase the subject")
    expect(dialog).to_contain_text(f"ada of the collection {collection}")
    chosen(page).select_option(other)
    with page.expect_response(lambda response: response.request.method == "DELETE"):
        dialog.get_by_role("button", name="Erase the subject").click()
    assert (ids_in(server, collection), ids_in(server, other)) == ([], ["ada"])


def test_an_audit_goes_with_its_collection(page: Page, server: Server, collection: str, other: str, ada: bytes) -> None:
    for name in (collection, other):
        enrol(server, name, "ada", ada)
        enrol(server, name, "ada-2", ada)
        httpx.post(f"{server.url}/collections/{name}/audit").raise_for_status()
    page.get_by_role("tab", name="Audit").click()
    merge = page.get_by_role("button", name="Merge ada and ada-2")
    expect(merge).to_have_count(1)
    asked = Held(page, f"**/collections/{other}/audit")
    chosen(page).select_option(other)
    expect(page.get_by_role("tabpanel", name="Audit").get_by_role("heading")).to_have_count(0)
    asked.release()
    merge.click()
    dialog = page.get_by_role("dialog", name="Merge")
    expect(dialog).to_contain_text(f"ada and ada-2 of the collection {other}")
    with page.expect_response("**/merge?*"):
        dialog.get_by_role("button", name="Keep the name ada", exact=True).click()
    assert (ids_in(server, collection), ids_in(server, other)) == (["ada", "ada-2"], ["ada"])


def test_an_audit_is_followed_at_the_rate_of_the_key(page: Page, server: Server, collection: str, ada: bytes) -> None:
    enrol(server, collection, "ada", ada)
    page.get_by_role("tab", name="Audit").click()
    expect(page.get_by_text("This collection has not been audited yet.")).to_be_visible()
    page.route("**/audit", lambda route: refuse(route, 1), times=1)
    page.route("**/audit", lambda route: route.fulfill(json={"status": "running", "progress": 0.4}), times=1)
    httpx.post(f"{server.url}/collections/{collection}/audit").raise_for_status()
    page.get_by_role("button", name="Start an audit").click()
    expect(page.get_by_text("40 % done.")).to_be_visible()
    expect(page.get_by_role("heading", name="Possibly enrolled twice: 0")).to_be_visible()


def enrol_by_page(page: Page, *photographs: bytes) -> None:
    """Chooses photographs of one person, who gets the id of Ada."""
    page.get_by_role("tab", name="People").click()
    page.get_by_label("Subject id (photographs in a folder take its name)").fill("ada")
    chosen_files: list[FilePayload] = [
        {"name": f"{number}.jpg", "mimeType": "image/jpeg", "buffer": photograph}
        for number, photograph in enumerate(photographs)
    ]
    page.get_by_label("Photographs of one person").set_input_files(chosen_files)


def refuse(route: Route, seconds: int) -> None:
    """Answers as the service does to a key that has sent too much."""
    problem = {"code": "rate_limited", "detail": f"More than 100/hour for one key; wait {seconds} s."}
    route.fulfill(status=429, headers={"Retry-After": str(seconds)}, json=problem)


def test_a_group_is_to_be_cropped(page: Page, collection: str) -> None:
    enrol_by_page(page, two_alike())
    expect(page.locator(".refused")).to_contain_text("several faces of like size. Crop it to the person who is meant.")
    expect(page.locator(".refused")).not_to_contain_text("face_policy")


def test_a_rate_is_waited_for(page: Page, collection: str, ada: bytes) -> None:
    page.route("**/enroll", lambda route: refuse(route, 1), times=1)
    enrol_by_page(page, ada)
    expect(page.get_by_text("1 photograph enrolled, 1 subject; 0 refused.")).to_be_visible()


def test_a_wait_is_told_and_can_be_stopped(page: Page, collection: str, ada: bytes) -> None:
    page.route("**/enroll", lambda route: refuse(route, 60))
    enrol_by_page(page, ada)
    expect(page.get_by_text("The service asks to wait: the next one is sent in 60 seconds.")).to_be_visible()
    page.get_by_role("button", name="Stop").press("Enter")
    said = page.get_by_text("0 photographs enrolled, 0 subjects; 0 refused, 1 not sent.")
    expect(said).to_be_visible()
    # What held the focus is hidden now.
    expect(said).to_be_focused()


def test_what_is_said_of_photographs_names_their_collection_once_another_is_in_use(
    page: Page, collection: str, other: str, ada: bytes
) -> None:
    said = page.locator("#people p[role=status][tabindex]")
    page.route("**/enroll", lambda route: refuse(route, 60))
    enrol_by_page(page, ada)
    expect(said).to_contain_text("The service asks to wait")
    # Too many at once are told of for as long as they are.
    page.get_by_label("Photographs of one person").set_input_files(
        {"name": "2.jpg", "mimeType": "image/jpeg", "buffer": ada}
    )
    expect(page.get_by_role("alert")).to_contain_text("wait until that is done")
    chosen(page).select_option(other)
    expect(said).to_contain_text(f"In the collection {collection}.")
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(said).to_have_text(
        f"0 photographs enrolled, 0 subjects; 0 refused, 1 not sent. In the collection {collection}."
    )
    expect(page.get_by_role("alert")).to_have_count(0)
    chosen(page).select_option(collection)
    expect(said).to_have_text("")


def test_what_cannot_be_an_id_is_not_searched_for(page: Page, collection: str) -> None:
    page.get_by_role("tab", name="People").click()
    page.get_by_label("Subject id", exact=True).fill("ada/lovelace")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("alert")).to_contain_text("“ada/lovelace” cannot be a subject id")


def test_a_rate_that_lasts_ends_it(page: Page, collection: str, ada: bytes) -> None:
    page.route("**/enroll", lambda route: refuse(route, 3000))
    enrol_by_page(page, ada, ada, ada)
    # Two are sent at once.
    expect(page.get_by_text("0 photographs enrolled, 0 subjects; 2 refused, 1 not sent.")).to_be_visible()
    expect(page.locator(".refused").first).to_contain_text("wait 3000 s")
