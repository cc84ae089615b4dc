"""Pictures of the page for the README, made of a running service by a headless Chromium.

    python -m benchmarks.screenshots
    python -m benchmarks.screenshots --chromium /usr/bin/chromium --output docs/pictures

Needs Chromium (``apt install chromium``) and the extra ``dev``. The people are those of the sample photographs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import httpx
import typer
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks import running

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "app" / "web" / "samples"
PEOPLE = {"eileen": "eileen-collins.jpg", "grace": "grace-hopper.jpg"}
WIDE, PHONE = (1060, 800), (360, 800)
PATIENCE = 60_000
SHARPNESS = 1.25
"""Pixels of a picture in one of the page, on a side."""


def enrol(url: str) -> None:
    """The people of the samples, in the default collection."""
    for subject, name in PEOPLE.items():
        form = {"image": (name, (SAMPLES / name).read_bytes(), "image/jpeg")}
        httpx.post(f"{url}/enroll", files=form, data={"subject_id": subject}, timeout=60).raise_for_status()


@contextmanager
def opened(
    browser: Browser, address: str, size: tuple[int, int], scheme: Literal["light", "dark"] = "light"
) -> Iterator[Page]:
    """The page, in a window of this size (pixels of the page)."""
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": size[0], "height": size[1]}, device_scale_factor=SHARPNESS
    )
    page = context.new_page()
    page.goto(address)
    yield page
    context.close()


def save(page: Page, path: Path, *, whole: bool = True) -> None:
    """A JPEG of the whole page, or of its end as far as it fits the window; small enough for a README."""
    page.mouse.move(0, 0)
    if not whole:
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
    shot = Image.open(io.BytesIO(page.screenshot(full_page=whole, animations="disabled"))).convert("RGB")
    shot.save(path, "JPEG", quality=80, optimize=True, progressive=True)
    print(f"{path.name}: {shot.width} x {shot.height}, {path.stat().st_size / 1000:.0f} kB")


def compared(page: Page) -> None:
    """Two samples, and the decision on them."""
    page.get_by_role("button", name="One person").click()
    expect(page.locator(".axis circle.distance")).to_be_visible()
    expect(page.locator(".result.waiting")).to_have_count(0)


def identified(page: Page) -> None:
    """A sample, searched for."""
    panel = page.get_by_role("tabpanel", name="Identify")
    panel.get_by_role("button", name="Sample: Eileen Collins, the same").click()
    expect(panel.locator("table")).to_be_visible()


def main(
    output: Annotated[Path, typer.Option(help="folder for the pictures")] = ROOT / "docs" / "pictures",
    chromium: Annotated[Path, typer.Option(help="the browser's command")] = Path("/usr/bin/chromium"),
) -> None:
    """Starts a service with a temporary gallery and takes the pictures."""
    output.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=PATIENCE)
    with running.service() as url, sync_playwright() as playwright:
        enrol(url)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        with opened(browser, url, WIDE) as page:
            compared(page)
            save(page, output / "compare.jpg")
        with opened(browser, f"{url}/#identify", WIDE) as page:
            identified(page)
            save(page, output / "identify.jpg")
        with opened(browser, url, PHONE, "dark") as page:
            compared(page)
            save(page, output / "phone-dark.jpg", whole=False)
        with opened(browser, f"{url}/#people", WIDE) as page:
            page.locator("summary").first.click()
            save(page, output / "people.jpg")
        browser.close()


if __name__ == "__main__":
    typer.run(main)
