from __future__ import annotations

import pytest
from PIL import Image

from app.faces.containers import (
    MAX_DATA_CHUNKS,
    MAX_OTHER_CHUNKS,
    MAX_SEGMENTS,
    MAX_SKIPPED,
    Container,
    ContainerError,
    follow,
)
from tests.app.faces import attacks
from tests.app.faces.attacks import after_first_scan, comment, progressive
from tests.app.faces.conftest import encode


def test_an_end_of_image_within_a_comment_is_none() -> None:
    assert follow(attacks.hidden_scans(64, 64, 300), "JPEG") == Container(complete=True, scans=300)
    data = progressive(64, 64)
    at = after_first_scan(data)
    assert not follow(data[:at] + comment(b"\xff\xd9"), "JPEG").complete


def test_fill_bytes_before_a_marker_hide_no_scan() -> None:
    assert follow(attacks.scans_behind_fill(64, 64, 300), "JPEG") == Container(complete=True, scans=300)


def test_a_start_of_scan_within_a_comment_is_none() -> None:
    data = progressive(64, 64)
    at, scans = after_first_scan(data), follow(data, "JPEG").scans
    assert scans > 3
    assert follow(data[:at] + comment(b"\xff\xda" * 500) + data[at:], "JPEG").scans == scans


def test_restart_markers_and_stuffed_bytes_are_no_segments() -> None:
    noise = Image.effect_noise((256, 256), 90)
    data = encode(noise, "JPEG", quality=95, restart_marker_blocks=1)
    assert data.count(b"\xff\xd0") > 100
    assert follow(data, "JPEG") == Container(complete=True, scans=1)
    assert follow(attacks.restart_markers(100_000), "JPEG") == Container(complete=True, scans=1)


def test_only_the_first_picture_of_several_counts() -> None:
    more = [Image.new("RGB", (48, 48))] * 3
    data = encode(Image.new("RGB", (64, 64)), "MPO", save_all=True, append_images=more)
    assert data.count(b"\xff\xda") == 4
    assert follow(data, "JPEG") == Container(complete=True, scans=1)


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_no_prefix_is_complete(options: dict[str, bool]) -> None:
    data = encode(Image.effect_noise((40, 40), 50), "JPEG", **options)
    assert follow(data, "JPEG").complete
    assert follow(data + b"anything", "JPEG").complete
    assert not any(follow(data[:end], "JPEG").complete for end in range(3, len(data)))


def test_the_parts_of_a_jpeg_are_limited() -> None:
    own = 30
    assert follow(attacks.comments(MAX_SEGMENTS - own), "JPEG").complete
    for data in (attacks.comments(MAX_SEGMENTS), attacks.late_comments(MAX_SEGMENTS)):
        with pytest.raises(ContainerError, match="segments"):
            follow(data, "JPEG")


def test_what_belongs_to_no_segment_is_limited() -> None:
    assert follow(attacks.fill_bytes(MAX_SKIPPED), "JPEG").complete
    assert follow(attacks.junk(MAX_SKIPPED), "JPEG").complete
    for data in (attacks.fill_bytes(MAX_SKIPPED + 1), attacks.junk(MAX_SKIPPED + 1), b"\xff\xd8" + bytes(100_000)):
        with pytest.raises(ContainerError, match="no segment"):
            follow(data, "JPEG")


def test_the_chunks_of_a_png_are_limited() -> None:
    own = 2
    assert follow(attacks.png_chunks(MAX_OTHER_CHUNKS - own), "PNG").complete
    assert follow(attacks.png_chunks(MAX_DATA_CHUNKS, b"IDAT"), "PNG").complete
    with pytest.raises(ContainerError, match="besides"):
        follow(attacks.png_chunks(MAX_OTHER_CHUNKS), "PNG")
    with pytest.raises(ContainerError, match="10000 chunks"):
        follow(attacks.png_chunks(MAX_DATA_CHUNKS + MAX_OTHER_CHUNKS, b"IDAT"), "PNG")


def test_a_png_is_complete_with_its_last_chunk() -> None:
    data = attacks.png(64, 64)
    assert follow(data, "PNG").complete
    assert not any(follow(data[:end], "PNG").complete for end in range(8, len(data)))
