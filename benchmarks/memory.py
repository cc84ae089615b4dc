"""Resident memory of the face finder while it sees photographs of ever new sizes.

    python -m benchmarks.memory --photographs 5000

In one process, on two threads a core, as the service does. Each photograph is scikit-image's astronaut (public domain)
in a picture of a random size, or a blank one, up to ``--pixels``: most are small, some as large as that. Resident
memory is printed at the start, after the first tenth, which warms up, then after each further fifth, and its peak.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import cv2
import typer
from PIL import Image
from skimage import data

from app.errors import TesseraError
from app.faces import FaceFinder, FacePolicy, YunetDetector
from app.openvino import available_cores

MEBIBYTE = 1024 * 1024
BLANK_SHARE = 0.15
LONGEST = 12_000


def resident() -> float:
    """Memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE


def peak() -> float:
    """The most memory that this process had at once, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def photograph(number: int, pixels: int) -> bytes:
    """A photograph whose size and content follow from its number."""
    rng = random.Random(number)
    # Evenly spread over orders of magnitude: there are more small photographs than large ones.
    area = 2500 * (pixels / 2500) ** rng.random()
    proportion = 2 ** rng.uniform(-1, 1)
    width, height = (
        max(16, min(LONGEST, int(side))) for side in ((area * proportion) ** 0.5, (area / proportion) ** 0.5)
    )
    image = Image.new("RGB", (width, height), (96, 108, 120))
    if rng.random() > BLANK_SHARE:
        side = max(16, int(min(width, height) * rng.uniform(0.3, 1)))
        astronaut = Image.fromarray(data.astronaut())  # type: ignore[no-untyped-call]
        image.paste(astronaut.resize((side, side)), (rng.randint(0, width - side), rng.randint(0, height - side)))
    out = io.BytesIO()
    image.save(out, rng.choice(("JPEG", "JPEG", "PNG")))
    return out.getvalue()


def main(
    photographs: Annotated[int, typer.Option(help="how many, each of another size", min=10)] = 5000,
    pixels: Annotated[int, typer.Option(help="pixels of the largest", min=10_000)] = 50_000_000,
) -> None:
    """Prints resident memory as the photographs go by."""
    cv2.setNumThreads(1)
    finder = FaceFinder(YunetDetector())
    finder.warm_up()

    def look(number: int) -> None:
        rng = random.Random(number)
        with contextlib.suppress(TesseraError):
            finder.find(photograph(number, pixels), rng.choice((FacePolicy.SINGLE, FacePolicy.LARGEST)))

    typer.echo(f"{'photographs':>12} {'resident MiB':>13} {'peak MiB':>9} {'seconds':>8}")
    start, seen = time.monotonic(), 0
    steps = [0, photographs // 10, *(photographs * fifth // 5 for fifth in range(1, 6))]
    with ThreadPoolExecutor(2 * available_cores()) as pool:
        for step in steps:
            for _ in pool.map(look, range(seen, step)):
                pass
            seen = step
            typer.echo(f"{seen:12} {resident():13.0f} {peak():9.0f} {time.monotonic() - start:8.0f}")


if __name__ == "__main__":
    typer.run(main)
