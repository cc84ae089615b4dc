"""Who is enrolled as whom, and in which collection, in a browser against a running service."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.app.process import Server

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
