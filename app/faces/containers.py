"""What can be read from an image file without decoding it: format, WebP size, completeness, JPEG scans.

Decoders follow the segments of a JPEG and the chunks of a PNG one by one, some of them in Python, so how many there are
is limited here, before a decoder sees the file.

Sources: ITU-T T.81 annex B (JPEG markers), W3C PNG third edition section 5, RFC 9649 (WebP container).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"%PDF-", "PDF"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"<svg", "SVG"),
)
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"), "HEIC"),
}
_GENERAL_BRANDS = frozenset({b"mif1", b"msf1"})
"""Of any picture in boxes; how it is coded is said by the brands that follow."""
MAX_BRANDS = 32
# A marker that decoders stop at, after any fill bytes. They pass over entropy-coded data and the markers that stand
# alone: TEM, RST0 to RST7, and the codes below SOF0, which are reserved.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = 0xD8, 0xD9, 0xDA
_DATA_CHUNKS = frozenset({b"IDAT", b"fdAT", b"fcTL"})

MAX_SEGMENTS = 2000
"""Of a JPEG. Cameras write dozens; 16 MB of metadata take 256 of the largest size, and 100 scans a few hundred."""
MAX_SKIPPED = 64 * 1024
"""Bytes before the first scan of a JPEG that belong to no segment; Pillow passes over them one by one."""
MAX_DATA_CHUNKS = 10_000
"""Of a PNG. Encoders cut the data every 8 KiB or later, which makes 2,000 of 16 MB."""
MAX_OTHER_CHUNKS = 250
"""Of a PNG. There are about 20 kinds, nearly all allowed once; each may inflate to a megabyte."""


class ContainerError(ValueError):
    """A file is made unlike any photograph, mostly of too many parts; the message says in what way."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """What an AVIF file holds.

    Attributes:
        width: of the picture that is shown, pixels, before it is turned.
        height: likewise.
        pixels: of all pictures in the file together: tiles, alpha, thumbnails and gain maps.
        exif: where in the file the four letters stand that make an item an EXIF block.
    """

    width: int
    height: int
    pixels: int
    exif: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Container:
    """How a file is put together.

    Attributes:
        complete: whether it reaches the end that its own structure declares.
        scans: of the first picture of a JPEG; 0 for the other formats.
        pictures: of an AVIF; None for the other formats.
    """

    complete: bool
    scans: int = 0
    pictures: Pictures | None = None


def sniff(data: bytes) -> str | None:
    """Name of the format by magic bytes; None if it is not an image."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp" and (kind := _branded(data)):
        return kind
    return next((name for magic, name in _SIGNATURES if data.startswith(magic)), None)


def _branded(data: bytes) -> str | None:
    """By the brand of a file made of boxes, and by the first one that says more if that one is general."""
    if data[8:12] not in _GENERAL_BRANDS:
        return _BRANDS.get(data[8:12])
    end = min(int.from_bytes(data[:4], "big"), len(data), 16 + 4 * MAX_BRANDS)
    others = (data[at : at + 4] for at in range(16, end, 4))
    return next((_BRANDS[brand] for brand in others if brand in _BRANDS), "HEIC")


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of the canvas in pixels, from the first chunk.

    Raises:
        ValueError: the first chunk is too short or not one that a WebP file may begin with.
    """
    kind, body = data[12:16], data[20:30]
    if len(body) == 10 and kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if len(body) == 10 and kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        # 14 bits each; the two bits above are only a scaling hint for the viewer.
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    if len(body) >= 5 and kind == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise ValueError("not a WebP header")


def follow(data: bytes, kind: str) -> Container:
    """Follow the structure of a file from its beginning to the end of its first picture.

    Args:
        data: the whole file.
        kind: ``JPEG``, ``PNG`` or ``WebP``, as ``sniff`` says.

    Raises:
        ContainerError: it has too many segments or chunks.
    """
    if kind == "WebP":
        return Container(complete=len(data) >= 20 and len(data) >= 8 + int.from_bytes(data[4:8], "little"))
    return _follow_png(data) if kind == "PNG" else _follow_jpeg(data)


def _follow_jpeg(data: bytes) -> Container:
    """As libjpeg's ``next_marker`` and ``skip_variable``: what a segment holds is never taken for a marker."""
    at, scans, skipped = 2, 0, 0
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        skipped += 0 if scans else (found.start() if found else len(data)) - at
        if skipped > MAX_SKIPPED:
            raise ContainerError(f"more than {MAX_SKIPPED} bytes before its first scan belong to no segment")
        if found is None:
            return Container(complete=False, scans=scans)
        marker, at = found[1][0], found.end()
        if marker == _END_OF_IMAGE:
            return Container(complete=True, scans=scans)
        scans += marker == _START_OF_SCAN
        if marker != _START_OF_IMAGE:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
    raise ContainerError(f"it has more than {MAX_SEGMENTS} segments")


def _follow_png(data: bytes) -> Container:
    """Follow the chunks to IEND."""
    at, others = 8, 0
    for _ in range(MAX_DATA_CHUNKS + MAX_OTHER_CHUNKS):
        if at + 12 > len(data):
            return Container(complete=False)
        chunk = data[at + 4 : at + 8]
        if chunk == b"IEND":
            return Container(complete=True)
        others += chunk not in _DATA_CHUNKS
        if others > MAX_OTHER_CHUNKS:
            raise ContainerError(f"it has more than {MAX_OTHER_CHUNKS} chunks besides those of its pixels")
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    raise ContainerError(f"it has more than {MAX_DATA_CHUNKS} chunks")
