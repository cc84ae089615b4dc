"""The tab that compares, in a browser against a running service."""

from __future__ import annotations

import base64
import re
import uuid

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.app.api.helpers import base64_of
from tests.app.photographs import two_alike, two_faces
from tests.app.process import Server
from tests.app.web.conftest import Held, chosen

pytestmark = pytest.mark.slow


def place(page: Page, label: str) -> Locator:
    return page.get_by_role("group", name=label)


def choose(page: Page, label: str, name: str, content: bytes) -> None:
    """Chooses a file for a place."""
    place(page, label).locator("input[type=file]").set_input_files(
        {"name": name, "mimeType": "image/jpeg", "buffer": content}
    )


def headline(page: Page) -> Locator:
    return page.locator(".verdict h2")


def test_two_samples_are_compared(page: Page) -> None:
    page.get_by_role("button", name="One person").click()
    expect(headline(page)).to_have_text("The same person")
    expect(page.locator(".verdict")).to_contain_text("1 stranger in")
    expect(page.locator(".verdict .hint")).to_have_text(re.compile(r" Calibration tessera-\w-\d+-[0-9a-f]{8}\.$"))
    described = re.compile(r"These two faces have a distance of 0\.\d\d; up to \d\.\d\d it is a match\.")
    expect(page.locator(".axis svg")).to_have_attribute("aria-label", described)


def test_a_slider_asks_the_service(page: Page, server: Server, ada: bytes, grace: bytes) -> None:
    choose(page, "First face", "a.jpg", ada)
    choose(page, "Second face", "b.jpg", grace)
    expect(headline(page)).to_have_text("Not the same person")
    slider = page.get_by_role("slider")
    slider.focus()
    with page.expect_response(lambda response: response.url.endswith("/verify")) as caught:
        slider.press("End")
    expect(page.locator("output")).to_have_text("1 in 10")
    shown = caught.value.json()
    assert shown["criterion"]["value"] == 0.1
    body = {"image": base64_of(ada), "reference": base64_of(grace), "target_fmr": 0.1}
    asked = httpx.post(f"{server.url}/verify", json=body, timeout=60).json()
    assert (shown["decision"], shown["threshold"]) == (asked["decision"], pytest.approx(asked["threshold"]))
    expect(page.locator(".axis text.threshold")).to_have_text(f"threshold {asked['threshold']:.2f}")


def test_a_collection_decides_at_its_own_target_until_the_slider_is_moved(
    page: Page, server: Server, ada: bytes
) -> None:
    name = f"c-{uuid.uuid4().hex[:8]}"
    httpx.post(f"{server.url}/collections", json={"id": name, "target_fmr": 3e-5}).raise_for_status()
    page.reload()
    choose(page, "First face", "a.jpg", ada)
    choose(page, "Second face", "a.jpg", ada)
    expect(page.locator("output")).to_have_text("1 in 10,000")
    page.get_by_role("slider").press("End")
    expect(page.locator("output")).to_have_text("1 in 10")
    page.get_by_role("tab", name="People").click()
    chosen(page).select_option(name)
    with page.expect_response(lambda response: response.url.endswith("/verify")) as caught:
        page.get_by_role("tab", name="Compare").click()
    expect(page.locator("output")).to_have_text("1 in 33,000")
    assert caught.value.json()["criterion"]["set_by"] == "collection"


def test_another_face_of_a_photograph_is_the_one_compared(page: Page, ada: bytes, grace: bytes) -> None:
    choose(page, "First face", "both.jpg", two_faces())
    first = place(page, "First face")
    expect(first).to_contain_text("2 faces: the one in the coloured frame is meant")
    choose(page, "Second face", "grace.jpg", grace)
    expect(headline(page)).to_have_text("Not the same person")
    first.get_by_role("button", name="Face 2 of 2").press("Enter")
    expect(headline(page)).to_have_text("The same person")
    expect(first.get_by_role("button", name="Face 2 of 2")).to_have_attribute("aria-pressed", "true")
    choose(page, "Second face", "ada.jpg", ada)
    expect(headline(page)).to_have_text("Not the same person")


def test_the_largest_of_faces_of_like_size_can_be_chosen(page: Page, grace: bytes) -> None:
    choose(page, "First face", "alike.jpg", two_alike())
    choose(page, "Second face", "grace.jpg", grace)
    expect(headline(page)).to_have_text("Cannot say")
    expect(page.locator(".verdict")).to_contain_text("Click the face that you mean.")
    place(page, "First face").get_by_role("button", name="Face 1 of 2").click()
    expect(headline(page)).to_have_text("Not the same person")
    place(page, "First face").get_by_role("button", name="Face 2 of 2").click()
    expect(headline(page)).to_have_text("The same person")


def test_what_the_service_refuses_is_shown_as_it_says_it(page: Page) -> None:
    choose(page, "First face", "text.jpg", b"no photograph at all")
    first = place(page, "First face")
    expect(first.get_by_role("alert")).to_contain_text("JPEG")
    expect(first.get_by_role("img")).to_have_count(0)
    expect(first.get_by_role("button", name="Try again")).to_have_count(0)


def test_a_service_that_did_not_answer_is_asked_again(page: Page, ada: bytes) -> None:
    page.route("**/detect", lambda route: route.abort())
    choose(page, "First face", "a.jpg", ada)
    first = place(page, "First face")
    expect(first.get_by_role("alert")).to_contain_text("The service does not answer")
    page.unroute("**/detect")
    first.get_by_role("button", name="Try again").press("Enter")
    expect(first).to_contain_text("1 face.")
    expect(first.get_by_role("button", name="Another photograph")).to_be_focused()


def test_a_decision_that_was_not_answered_is_asked_for_again(page: Page, ada: bytes) -> None:
    page.route("**/verify", lambda route: route.abort())
    choose(page, "First face", "a.jpg", ada)
    choose(page, "Second face", "a.jpg", ada)
    verdict = page.locator(".verdict")
    expect(verdict.get_by_role("alert")).to_contain_text("The service does not answer")
    page.unroute("**/verify")
    verdict.get_by_role("button", name="Try again").press("Enter")
    expect(headline(page)).to_have_text("The same person")
    expect(verdict).to_be_focused()


def test_an_answer_from_something_in_between_is_told_from_one_of_the_service(page: Page, ada: bytes) -> None:
    page.route("**/detect", lambda route: route.fulfill(content_type="text/html", body="<h1>Sign in</h1>"))
    choose(page, "First face", "a.jpg", ada)
    expect(place(page, "First face").get_by_role("alert")).to_contain_text("Reload the page")


def test_two_people_are_told_apart(page: Page) -> None:
    page.get_by_role("button", name="Two people").click()
    expect(headline(page)).to_have_text("Not the same person")


def test_a_late_sample_does_not_replace_a_newer_choice(page: Page, ada: bytes) -> None:
    searched: list[str] = []
    page.on("request", lambda request: searched.append(request.url) if request.url.endswith("/detect") else None)
    asked = Held(page, "**/page/samples/grace-hopper.jpg")
    first = place(page, "First face")
    first.get_by_role("button", name="Sample: Grace Hopper").click()
    asked.wait()
    choose(page, "First face", "ada.jpg", ada)
    expect(first).to_contain_text("1 face.")
    with page.expect_response("**/page/samples/grace-hopper.jpg"):
        asked.release()
    choose(page, "Second face", "ada.jpg", ada)
    expect(headline(page)).to_have_text("The same person")
    assert len(searched) == 2


def test_a_sample_that_cannot_be_had_says_so(page: Page) -> None:
    page.route("**/page/samples/grace-hopper.jpg", lambda route: route.fulfill(status=502, body="<h1>Down</h1>"))
    first = place(page, "First face")
    first.get_by_role("button", name="Sample: Grace Hopper").click()
    expect(first.get_by_role("alert")).to_contain_text("answered 502")
    page.unroute("**/page/samples/grace-hopper.jpg")
    first.get_by_role("button", name="Sample: Grace Hopper").click()
    expect(first).to_contain_text("1 face.")


def test_a_face_that_this_browser_cannot_cut_out_is_refused_in_words(page: Page, ada: bytes) -> None:
    # As a browser does with a format that the service reads and it does not.
    page.evaluate("""() => {
        window.createImageBitmap = () => Promise.reject(new DOMException("no source image", "InvalidStateError"));
    }""")
    choose(page, "First face", "both.jpg", two_faces())
    choose(page, "Second face", "ada.jpg", ada)
    expect(headline(page)).to_have_text("The same person")
    place(page, "First face").get_by_role("button", name="Face 2 of 2").press("Enter")
    expect(page.locator(".verdict").get_by_role("alert")).to_contain_text("This browser cannot open the photograph")


def test_a_photograph_is_taken_with_the_camera(page: Page, ada: bytes) -> None:
    place(page, "First face").get_by_role("button", name="Camera").click()
    page.get_by_role("button", name="Take the photograph").click()
    expect(place(page, "First face")).to_contain_text("1 face.")
    choose(page, "Second face", "ada.jpg", ada)
    expect(headline(page)).to_have_text("The same person")


def fire(page: Page, event: str, photograph: bytes) -> None:
    """Drops a photograph on the first place, or pastes it where the focus is."""
    script = """([event, text]) => {
        const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "a.jpg", { type: "image/jpeg" }));
        const target = event === "drop" ? document.querySelector(".photograph") : document.activeElement;
        const fired = event === "drop"
          ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
          : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
        target.dispatchEvent(fired);
    }"""
    page.evaluate(script, [event, base64.b64encode(photograph).decode()])


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_photograph_is_dropped_and_pasted(page: Page, ada: bytes, event: str) -> None:
    fire(page, event, ada)
    expect(place(page, "First face")).to_contain_text("1 face.")


def test_a_photograph_is_chosen_by_keyboard_and_the_next_one_pasted(page: Page, grace: bytes) -> None:
    first = place(page, "First face")
    first.get_by_role("button", name="Sample: Grace Hopper").press("Enter")
    another = first.get_by_role("button", name="Another photograph")
    expect(another).to_be_focused()
    # The focus is in a place that has its photograph.
    fire(page, "paste", grace)
    expect(headline(page)).to_have_text("The same person")
    another.press("Enter")
    expect(first.get_by_role("button", name="Choose a file")).to_be_focused()


def test_tabs_and_faces_are_reached_by_keyboard(page: Page) -> None:
    tab = page.get_by_role("tab", name="Compare")
    tab.focus()
    tab.press("ArrowRight")
    expect(page.get_by_role("tabpanel", name="People")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tabpanel", name="Identify")).to_be_visible()
    expect(page.get_by_role("tab", name="Identify")).to_be_focused()
    page.go_back()
    expect(page.get_by_role("tabpanel", name="People")).to_be_visible()
    page.get_by_role("tab", name="People").press("ArrowLeft")
    expect(page.get_by_role("tabpanel", name="Compare")).to_be_visible()
