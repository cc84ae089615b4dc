"""Time and memory of the costliest files that a photograph can be, each in a process of its own.

    python -m benchmarks.attacks

Every file goes through the face finder at its default limits, on one core: most are refused at once, and the others
are the costliest of what is accepted. ``peak`` is the memory above that of a finder that is warmed up.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import typer

from app.errors import TesseraError
from app.faces import FaceFinder, FacePolicy, YunetDetector
from app.faces.decode import MAX_SCANNED_PIXELS, MAX_SCANS
from benchmarks.memory import peak, resident
from tests.app.faces import attacks
from tests.app.photographs import png, tiled

SIDE = 7070
SCANS = MAX_SCANNED_PIXELS // SIDE**2

FILES: dict[str, Callable[[], bytes]] = {
    "10,000 hidden scans": partial(attacks.hidden_scans, 4000, 3000, 10_000),
    "12 MB of fill bytes": partial(attacks.fill_bytes, 12_000_000),
    "12 MB of junk": partial(attacks.junk, 12_000_000),
    "3 million comments": partial(attacks.comments, 3_000_000),
    "restart markers": partial(attacks.restart_markers, 8_000_000),
    "scans, 50 megapixels": partial(attacks.repeated_scans, SIDE, SIDE, SCANS),
    "refinements, 50 megapixels": partial(attacks.empty_refinements, SIDE, SIDE, SCANS),
    "refinements, 8 megapixels": partial(attacks.empty_refinements, 2828, 2828, MAX_SCANS),
    "EXIF in parts": partial(attacks.exif_parts, 250, 65_000),
    "EXIF entries": partial(attacks.exif_entries, 65_000, 15_000_000),
    "a million PNG chunks": partial(attacks.png_chunks, 1_000_000),
    "a million PNG data chunks": partial(attacks.png_chunks, 1_000_000, b"IDAT"),
    "10,000 colour profiles": partial(attacks.png_profiles, 10_000),
    "240 colour profiles": partial(attacks.png_profiles, 240),
    "63 compressed texts": partial(attacks.png_texts, 63),
    "PNG, 50 megapixels": partial(attacks.png, SIDE, SIDE, colour=6),
    "PNG, 16 bits, interlaced": partial(attacks.png, SIDE, SIDE, bits=16, colour=6, interlaced=True),
    "WebP, 50 megapixels": partial(attacks.blank_webp, SIDE, SIDE),
    "AVIF, 50 megapixels": partial(attacks.blank_avif, SIDE, SIDE),
    "AVIF, 44 megapixels in tiles": partial(attacks.avif_tools, 6, 7),
    "AVIF, 2,000 frames": partial(attacks.avif_frames, 2000),
    "AVIF, 3,600 tiles": partial(attacks.avif_grid, 60, 60, tiles=3600),
    "AVIF, a million boxes": partial(attacks.avif_boxes, 1_000_000),
    "AVIF, 8 million references": partial(attacks.avif_references, 122, 65_535),
    "528 faces": lambda: png(tiled(24, 22, 64)),
}


def measure(name: str) -> None:
    """Prints one line about one file."""
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)
    data, finder = FILES[name](), FaceFinder(YunetDetector(threads=1))
    finder.warm_up()
    before = resident()
    # Forgets the peak that making the file took.
    Path("/proc/self/clear_refs").write_text("5")
    start = time.process_time()
    try:
        outcome = f"{len(finder.find(data, FacePolicy.ALL).faces)} faces"
    except TesseraError as error:
        outcome = error.code
    seconds = time.process_time() - start
    typer.echo(f"{name:<28} {len(data) / 2**20:6.2f} {seconds:8.2f} {peak() - before:9.0f}  {outcome}")


def main() -> None:
    """Prints size, time, memory and outcome of every file."""
    logging.disable()
    typer.echo(f"{'file':<28} {'MiB':>6} {'seconds':>8} {'peak MiB':>9}  outcome")
    context = multiprocessing.get_context("spawn")
    for name in FILES:
        process = context.Process(target=measure, args=(name,))
        process.start()
        process.join()


if __name__ == "__main__":
    typer.run(main)
