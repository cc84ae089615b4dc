"""Small files that would cost much time or memory."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.faces import CorruptImageError, DecodeLimits, Photograph, PhotographError, decode
from app.faces.decode import MAX_SCANNED_PIXELS, MAX_SCANS
from tests.app.faces import attacks

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

GENEROUS = 20.0
"""Seconds. The attacks cost a few milliseconds now, and many times this, or without end, if nothing stops them."""

REFUSED: dict[str, Callable[[], bytes]] = {
    "hidden scans": partial(attacks.hidden_scans, 4000, 3000, 10_000),
    "many hidden scans": partial(attacks.hidden_scans, 500, 500, MAX_SCANS + 1),
    "scans behind fill bytes": partial(attacks.scans_behind_fill, 500, 500, MAX_SCANS + 1),
    "large scans": partial(attacks.repeated_scans, 7000, 7000, MAX_SCANNED_PIXELS // 7000**2 + 1),
    "large hidden scans": partial(attacks.hidden_scans, 7000, 7000, MAX_SCANNED_PIXELS // 7000**2 + 1),
    "fill bytes": partial(attacks.fill_bytes, 12_000_000),
    "junk": partial(attacks.junk, 12_000_000),
    "comments": partial(attacks.comments, 3_000_000),
    "late comments": partial(attacks.late_comments, 3_000_000),
    "chunks": partial(attacks.png_chunks, 1_000_000),
    "data chunks": partial(attacks.png_chunks, 1_000_000, b"IDAT"),
    "colour profiles": partial(attacks.png_profiles, 10_000),
    "AVIF larger than it says": partial(attacks.avif_declared, 64, 64, 2000),
    "AVIF smaller than it says": partial(attacks.avif_declared, 7000, 7000, 64),
    "frames": partial(attacks.avif_frames, 2000),
    "AV1 parts": partial(attacks.avif_parts, 1_000_000),
    "items": partial(attacks.avif_items, 400, 2**20),
    "more items": partial(attacks.avif_items, 1000, 0),
    "shared tiles": partial(attacks.avif_grid, 40, 200, tiles=20),
    "many tiles": partial(attacks.avif_grid, 60, 60, tiles=3600),
    "grids in a circle": attacks.avif_circle,
    "alpha of its own": attacks.avif_own_alpha,
    "large alpha": partial(attacks.avif_large_alpha, 2000),
    "boxes": partial(attacks.avif_boxes, 1_000_000),
    "references": partial(attacks.avif_references, 122, 65_535),
    "layers": attacks.avif_layers,
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_what_costs_more_than_a_photograph_is_refused_at_once(make: Callable[[], bytes]) -> None:
    data = make()
    assert len(data) <= DecodeLimits().max_bytes
    start = time.monotonic()
    with pytest.raises(CorruptImageError, match=r"[Ss]ave it again"):
        decode(data, DecodeLimits())
    assert time.monotonic() - start < GENEROUS


ACCEPTED: dict[str, Callable[[], bytes]] = {
    "scans": partial(attacks.repeated_scans, 2000, 1500, MAX_SCANS),
    "large scans": partial(attacks.repeated_scans, 7000, 7000, 10),
    "restart markers": partial(attacks.restart_markers, 1_000_000),
    "EXIF in parts": partial(attacks.exif_parts, 200, 65_000),
    "EXIF entries": partial(attacks.exif_entries, 65_000, 8_000_000),
    "colour profiles": partial(attacks.png_profiles, 200),
    "texts": partial(attacks.png_texts, 63),
    "interlaced": partial(attacks.png, 3000, 2000, interlaced=True, colour=6),
    "sixteen bits": partial(attacks.png, 3000, 2000, bits=16, colour=6),
    "blank WebP": partial(attacks.blank_webp, 5000, 4000),
    "blank AVIF": partial(attacks.blank_avif, 5000, 4000),
    "AVIF tiles": partial(attacks.avif_tools, 2, 2),
}


@pytest.mark.parametrize("make", ACCEPTED.values(), ids=ACCEPTED)
def test_the_costliest_of_what_is_decoded_comes_to_an_end(make: Callable[[], bytes]) -> None:
    start = time.monotonic()
    assert decode(make(), DecodeLimits()).pixels.size > 0
    assert time.monotonic() - start < GENEROUS


def only_photograph_errors(data: bytes) -> None:
    start = time.monotonic()
    try:
        outcome: Photograph | PhotographError = decode(data, DecodeLimits(max_pixels=1_000_000))
    except PhotographError as error:
        outcome = error
    assert isinstance(outcome, Photograph) or outcome.message
    assert time.monotonic() - start < GENEROUS


@pytest.mark.parametrize("name", attacks.SMALL)
def test_an_attack_raises_nothing_else(name: str) -> None:
    only_photograph_errors(attacks.SMALL[name]())


@given(st.sampled_from(sorted(attacks.SMALL)), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_a_mutated_attack_raises_nothing_else(name: str, rng: random.Random) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        only_photograph_errors(attacks.mutated(attacks.SMALL[name](), rng))


GROWTH = """
import random
import numpy as np
from pathlib import Path
from app.faces import YunetDetector, Photograph

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20

def look(height, width):
    detector.detect(Photograph(np.full((height, width, 3), 90, np.uint8), "PNG", width, height))

detector, rng = YunetDetector(threads=1), random.Random(0)
look(480, 640)
before = resident()
{work}
print(resident() - before)
"""
MANY_SIZES = "for _ in range(150): look(rng.randint(32, 640), rng.randint(32, 640))"
LARGE_ONES = "for _ in range(3): look(2048, 2048)"


@pytest.mark.parametrize(("work", "most"), [(MANY_SIZES, 200), (LARGE_ONES, 100)], ids=["many sizes", "large ones"])
def test_the_detector_keeps_no_memory_of_the_pictures_it_has_seen(work: str, most: int) -> None:
    # Without limits on what OpenVINO keeps, these are about 450 and 170 MB.
    command = [sys.executable, "-c", GROWTH.format(work=work)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout)
    assert grown < most
