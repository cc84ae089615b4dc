"""The page at ``/docs`` in a browser: two photographs are compared without touching anything else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, FilePayload, Locator, Page, sync_playwright

from tests.app.process import PATIENCE, Server, tessera

pytestmark = pytest.mark.slow

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not there")
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield started
        started.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("docs") / "data") as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(locale="en-US")
    context.set_default_timeout(1000 * PATIENCE)
    yield context.new_page()
    context.close()


SETTLING_MS = 500


def opened(page: Page, operation: str) -> Locator:
    """The section of an operation, open and ready to be tried."""
    section = page.locator(f"#operations-recognition-{operation}")
    section.locator(".opblock-summary-control").click()
    section.locator("button.execute").wait_for()
    return section


def answer_of(section: Locator) -> tuple[str, dict[str, Any]]:
    """Status and body of what is executed."""
    with section.page.expect_response(lambda response: response.request.method == "POST") as found:
        section.locator("button.execute").click()
    shown = section.locator(".live-responses-table tbody .response-col_status").first
    shown.wait_for()
    body: dict[str, Any] = json.loads(found.value.body())
    return shown.inner_text().split()[0], body


def choose(section: Locator, place: int, content: bytes) -> None:
    """Gives a file to one of the fields that take one."""
    file: FilePayload = {"name": f"{place}.jpg", "mimeType": "image/jpeg", "buffer": content}
    section.locator("input[type=file]").nth(place).set_input_files(file)
    # The page keeps files in its state; two at once are written over each other, and then it sends nothing.
    section.page.wait_for_timeout(SETTLING_MS)


def test_two_photographs_are_compared(page: Page, server: Server, ada: bytes, grace: bytes) -> None:
    page.goto(f"{server.url}/docs")
    section = opened(page, "verify")
    for second, decision in ((ada, "match"), (grace, "no_match")):
        choose(section, 0, ada)
        choose(section, 1, second)
        status, answer = answer_of(section)
        assert (status, answer.get("decision")) == ("200", decision), answer


def test_a_person_is_enrolled_by_a_file(page: Page, server: Server, grace: bytes) -> None:
    page.goto(f"{server.url}/docs")
    section = opened(page, "enroll")
    choose(section, 0, grace)
    status, answer = answer_of(section)
    assert (status, answer.get("template_count")) == ("201", 1), answer


@pytest.mark.parametrize("operation", ["verify", "enroll", "identify", "detect"])
def test_a_form_is_shown_first_and_nothing_is_filled_in_but_defaults(
    page: Page, server: Server, operation: str
) -> None:
    page.goto(f"{server.url}/docs")
    section = opened(page, operation)
    assert section.locator(".opblock-section-request-body select").first.input_value() == "multipart/form-data"
    rows = section.locator(".opblock-section-request-body tr[data-property-name]")
    values = {
        str(row.get_attribute("data-property-name")): row.locator("input[type=text], select").first.input_value()
        for row in rows.all()
        if row.locator("input[type=text], select").count()
    }
    assert {name for name, value in values.items() if value} <= {"collection", "face_policy", "on_conflict", "top_k"}


@pytest.mark.parametrize(("operation", "status"), [("verify", "200"), ("enroll", "201"), ("detect", "200")])
def test_the_example_in_json_works_as_it_stands(page: Page, server: Server, operation: str, status: str) -> None:
    page.goto(f"{server.url}/docs")
    section = opened(page, operation)
    section.locator(".opblock-section-request-body select").first.select_option("application/json")
    section.locator("textarea.body-param__text").wait_for()
    assert answer_of(section)[0] == status


def test_the_page_works_with_keys_and_behind_a_prefix(page: Page, tmp_path: Path, ada: bytes) -> None:
    created = tessera("keys", "create", "desk", "--scopes", "verify", "--data-dir", str(tmp_path / "data"))
    key = next(word for word in created.stdout.split() if word.startswith("tessera_"))
    with Server(tmp_path / "data", TESSERA_SERVER__ROOT_PATH="/faces") as server:
        page.goto(f"{server.url}/faces/docs")
        page.locator("button.authorize").first.click()
        page.locator(".auth-container input").fill(key)
        page.locator(".auth-btn-wrapper button.authorize").click()
        page.locator(".auth-btn-wrapper button.btn-done").click()
        section = opened(page, "verify")
        choose(section, 0, ada)
        choose(section, 1, ada)
        with page.expect_request(lambda request: request.method == "POST") as sent:
            status, answer = answer_of(section)
        assert sent.value.url == f"{server.url}/faces/verify"
        assert (status, answer.get("decision")) == ("200", "match"), answer
