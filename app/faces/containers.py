"""What can be read from an image file without decoding it: format, WebP size, completeness, JPEG scans.

Sources: ITU-T T.81 annex B (JPEG markers), W3C PNG third edition section 5, RFC 9649 (WebP container).
"""

from __future__ import annotations

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
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"),
}
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = b"\xff\xd9"
# TEM, RST0..7 and SOI stand alone; every other marker is followed by the length of its segment.
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})


def sniff(data: bytes) -> str | None:
    """Name of the format by magic bytes; None if it is not an image."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp" and (brand := _BRANDS.get(data[8:12])):
        return brand
    return next((name for magic, name in _SIGNATURES if data.startswith(magic)), None)


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


def jpeg_scans(data: bytes) -> int:
    """How many scans the first picture of a JPEG file has; 0 if its headers never reach one."""
    start = _first_scan(data)
    if start is None:
        return 0
    end = data.find(_END_OF_IMAGE, start)
    return data.count(b"\xff\xda", start, end if end >= 0 else len(data))


def ends_early(data: bytes, kind: str) -> bool:
    """Whether a JPEG, PNG or WebP file stops before the end that its own structure declares."""
    if kind == "WebP":
        return len(data) < 20 or len(data) < 8 + int.from_bytes(data[4:8], "little")
    if kind == "PNG":
        return _png_ends_early(data)
    start = _first_scan(data)
    # Entropy-coded data stuffs every FF with a zero, so the marker cannot occur in it by chance.
    return start is None or data.find(_END_OF_IMAGE, start) < 0


def _first_scan(data: bytes) -> int | None:
    """Offset of the first start-of-scan marker; None if the segments before it run past the end."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] in (0x00, 0xFF):  # fill bytes, or garbage that decoders skip too
            at += 1
        elif data[at + 1] == _START_OF_SCAN:
            return at
        elif data[at + 1] in _BARE_MARKERS:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _png_ends_early(data: bytes) -> bool:
    """Follow the chunks to IEND."""
    at = 8
    while at + 12 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return False
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return True
