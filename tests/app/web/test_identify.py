"""When the tab that identifies asks the service, and again, in a browser against a running service."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.app.process import Server
from tests.app.web.conftest import chosen, enrol

pytestmark = pytest.mark.slow


def result(page: Page) -> Locator:
    return page.get_by_role("tabpanel", name="Identify").locator(".result")


def identify_hopper(page: Page) -> None:
    page.get_by_role("tab", name="Identify").click()
    page.get_by_role("group", name="Who is this?").get_by_role("button", name="Sample: Grace Hopper").click()


def test_whoever_was_enrolled_or_erased_since_counts(
    page: Page, server: Server, collection: str, ada: bytes, grace: bytes
) -> None:
    enrol(server, collection, "ada", ada)
    identify_hopper(page)
    expect(result(page).locator("h2")).to_have_text("Nobody in this collection")
    page.get_by_role("tab", name="People").click()
    enrol(server, collection, "grace", grace)
    page.get_by_role("tab", name="Identify").click()
    expect(result(page).locator("h2")).to_have_text("This is grace")
    page.get_by_role("tab", name="People").click()
    httpx.delete(f"{server.url}/subjects/grace", params={"collection": collection}).raise_for_status()
    page.get_by_role("tab", name="Identify").click()
    expect(result(page).locator("h2")).to_have_text("Nobody in this collection")


def test_nobody_is_searched_for_while_the_tab_is_hidden(
    page: Page, server: Server, collection: str, other: str, ada: bytes, grace: bytes
) -> None:
    enrol(server, collection, "grace", grace)
    enrol(server, other, "ada", ada)
    identify_hopper(page)
    expect(result(page).locator("h2")).to_have_text("This is grace")
    page.get_by_role("tab", name="People").click()
    expect(page.locator(".subject .id")).to_have_text(["grace"])
    searches: list[str] = []
    page.on("request", lambda request: searches.append(request.url) if request.url.endswith("/identify") else None)
    chosen(page).select_option(other)
    # A search would have been sent before the list was answered.
    expect(page.locator(".subject .id")).to_have_text(["ada"])
    assert searches == []
    page.get_by_role("tab", name="Identify").click()
    expect(result(page).locator("h2")).to_have_text("Nobody in this collection")
    assert len(searches) == 1


@pytest.mark.parametrize(("at_most", "rate"), [(False, "1 in"), (True, "at most 1 in")])
def test_a_rate_that_is_only_a_bound_is_called_one(
    page: Page, server: Server, collection: str, ada: bytes, at_most: bool, rate: str
) -> None:
    """No target of a collection leads beyond what the groups could measure: only that part of the answer is changed."""

    def answer(route: Route) -> None:
        found = route.fetch()
        route.fulfill(response=found, json=found.json() | {"false_positive_identification_rate_at_most": at_most})

    enrol(server, collection, "ada", ada)
    page.route("**/identify", answer)
    identify_hopper(page)
    expect(result(page)).to_contain_text(f"Of searches for people who are not enrolled, {rate}")


def test_a_search_that_was_not_answered_is_tried_again(
    page: Page, server: Server, collection: str, grace: bytes
) -> None:
    enrol(server, collection, "grace", grace)
    page.route("**/identify", lambda route: route.abort())
    identify_hopper(page)
    expect(result(page).get_by_role("alert")).to_contain_text("The service does not answer")
    page.unroute("**/identify")
    result(page).get_by_role("button", name="Try again").press("Enter")
    expect(result(page).locator("h2")).to_have_text("This is grace")
    expect(result(page)).to_be_focused()
