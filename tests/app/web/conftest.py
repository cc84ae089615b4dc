"""Debian's Chromium on the page of a running service; these tests skip where it is not installed."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect, sync_playwright

from tests.app.api.helpers import files
from tests.app.photographs import collins, jpeg
from tests.app.process import Server

CHROMIUM = shutil.which("chromium")
PATIENCE = 60_000


@pytest.fixture(scope="package")
def camera_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the camera of the browser sees: Collins, again and again."""
    frame = Image.new("RGB", (640, 480))
    frame.paste(collins().crop((0, 0, 512, 480)), (64, 0))
    path = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    path.write_bytes(30 * jpeg(frame))
    return path


@pytest.fixture(scope="package")
def browser(camera_file: Path) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera_file}",
    ]
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield running
        running.close()


@pytest.fixture(scope="package")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("page") / "data") as running:
        yield running


@contextmanager
def watched(context: BrowserContext) -> Iterator[Page]:
    """A page that must not fail: no error in a script, nothing that the policy had to block, nothing from elsewhere."""
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    failures: list[str] = []
    requested: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on(
        "console", lambda message: failures.append(message.text) if "Content Security Policy" in message.text else None
    )
    page.on("request", lambda request: requested.append(request.url))
    yield page
    origin = page.url.split("/")[2]
    context.close()
    assert not failures
    assert [url for url in requested if not url.startswith(("blob:", "data:")) and url.split("/")[2] != origin] == []


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with watched(browser.new_context(viewport={"width": 1060, "height": 900})) as opened:
        opened.goto(server.url)
        yield opened


class Held:
    """The first request to an address, which is not sent on before it is released."""

    def __init__(self, page: Page, url: str) -> None:
        self._page, self._routes = page, list[Route]()
        # Not for once: Playwright lets go of what is held when its last route has gone.
        page.route(url, self._hold)

    def _hold(self, route: Route) -> None:
        if self._routes:
            route.continue_()
        else:
            self._routes.append(route)

    def wait(self) -> None:
        """Returns once the page has sent the request."""
        deadline = time.monotonic() + PATIENCE / 1000
        while not self._routes:
            assert time.monotonic() < deadline, "the request was not sent"
            # Playwright hears of requests only while it is called.
            self._page.wait_for_timeout(20)

    def release(self) -> None:
        self.wait()
        self._routes[0].continue_()


def new_collection(server: Server) -> str:
    """The name of a collection that no other test knows."""
    name = f"c-{uuid.uuid4().hex[:8]}"
    httpx.post(f"{server.url}/collections", json={"id": name}).raise_for_status()
    return name


def chosen(page: Page) -> Locator:
    """The control that chooses the collection."""
    return page.get_by_label("Collection", exact=True)


@pytest.fixture
def collection(server: Server, page: Page) -> str:
    """A collection of this test's own, chosen in the page."""
    name = new_collection(server)
    page.reload()
    chosen(page).select_option(name)
    return name


@pytest.fixture
def other(page: Page, server: Server, collection: str) -> str:
    """A second collection that the page can switch to; the first one is in use."""
    name = new_collection(server)
    page.reload()
    chosen(page).select_option(collection)
    return name


def enrol(server: Server, collection: str, subject_id: str, *photographs: bytes) -> None:
    data = {"subject_id": subject_id, "collection": collection}
    httpx.post(f"{server.url}/enroll", files=files(*photographs), data=data, timeout=60).raise_for_status()


@pytest.fixture
def folder(tmp_path: Path, ada: bytes, grace: bytes) -> Path:
    """A folder with a folder for each of two people, one photograph without a face, and a file that is none."""
    people = {"Ada Lovelace": {"1.jpg": ada, "2.jpg": jpeg(collins(), 60)}, "grace": {"1.jpg": grace}}
    for name, photographs in people.items():
        (tmp_path / "people" / name).mkdir(parents=True)
        for file, content in photographs.items():
            (tmp_path / "people" / name / file).write_bytes(content)
    (tmp_path / "people" / "grace" / "wall.jpg").write_bytes(jpeg(Image.new("RGB", (320, 240), (90, 90, 90))))
    (tmp_path / "people" / "grace" / "notes.txt").write_text("no photograph")
    return tmp_path / "people"
