"""Files that are valid, or nearly so, and cost far more than their size: the corpus of the tests and of the fuzzer.

Every generator is deterministic. Sizes are arguments, so that tests can be small and measurements large.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial

from PIL import Image

from tests.app.faces import boxes
from tests.app.faces.conftest import encode

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START = b"\x89PNG\r\n\x1a\n"
GREY = (123, 117, 104)


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def comment(body: bytes = b"") -> bytes:
    return segment(0xFE, body)


def progressive(width: int, height: int, **options: object) -> bytes:
    return encode(Image.new("RGB", (width, height), GREY), "JPEG", progressive=True, **options)


def after_first_scan(data: bytes) -> int:
    """Where the second start-of-scan marker is."""
    first = data.index(b"\xff\xda")
    return data.index(b"\xff\xda", first + 2)


def repeated_scans(width: int, height: int, scans: int) -> bytes:
    """The last scan of a progressive JPEG again and again, until there are ``scans``."""
    data = progressive(width, height)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * (scans - data.count(b"\xff\xda")) + JPEG_END


def hidden_scans(width: int, height: int, scans: int) -> bytes:
    """As ``repeated_scans``, behind a comment after the first scan that holds the bytes of an end-of-image marker."""
    data = repeated_scans(width, height, scans)
    # A table belongs to the second scan, so the comment stands between that table's segment and the scan.
    at = after_first_scan(data)
    return data[:at] + comment(JPEG_END) + data[at:]


def scans_behind_fill(width: int, height: int, scans: int) -> bytes:
    """As ``repeated_scans``; fill bytes stand before every marker code, which a search for FF DA alone still finds."""
    return repeated_scans(width, height, scans).replace(b"\xff\xda", b"\xff\xff\xff\xda")


def fill_bytes(count: int) -> bytes:
    """Fill bytes before the first segment."""
    data = encode(Image.new("RGB", (64, 64), GREY), "JPEG")
    return data[:2] + b"\xff" * count + data[2:]


def junk(count: int) -> bytes:
    """Bytes before the second segment that belong to none; decoders skip them."""
    data = encode(Image.new("RGB", (64, 64), GREY), "JPEG")
    at = data.index(b"\xff\xdb")
    return data[:at] + b"\x00" * count + data[at:]


def comments(count: int) -> bytes:
    """Empty comments before the first scan."""
    data = encode(Image.new("RGB", (64, 64), GREY), "JPEG")
    return data[:2] + comment() * count + data[2:]


def late_comments(count: int) -> bytes:
    """Empty comments between two scans."""
    data = progressive(64, 64)
    at = after_first_scan(data)
    return data[:at] + comment() * count + data[at:]


def restart_markers(count: int) -> bytes:
    """Restart markers that no interval asks for, after the scan."""
    data = encode(Image.new("RGB", (64, 64), GREY), "JPEG")
    return data[:-2] + b"\xff\xd0\xff\xd1" * (count // 2) + JPEG_END


def arithmetic(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG that says it is arithmetic-coded; its data decode to noise."""
    return repeated_scans(width, height, scans).replace(b"\xff\xc2", b"\xff\xca", 1)


def empty_refinements(width: int, height: int, scans: int) -> bytes:
    """An arithmetic-coded JPEG of the costliest scans per byte: refinements of all coefficients without any data."""
    data = encode(Image.new("RGB", (width, height)), "JPEG", progressive=True, subsampling=0)
    first = data.index(b"\xff\xda")
    length = int.from_bytes(data[first + 2 : first + 4], "big")
    refinement = segment(0xDA, bytes([1, 1, 0, 1, 63, 0x10]))
    head = data[: first + 2 + length].replace(b"\xff\xc2", b"\xff\xca", 1)
    return head + refinement * (scans - 1) + JPEG_END


def exif_parts(parts: int, size: int) -> bytes:
    """An EXIF block in very many segments, which decoders join."""
    data = encode(Image.new("RGB", (64, 64), GREY), "JPEG")
    return data[:2] + segment(0xE1, b"Exif\x00\x00" + bytes(size)) * parts + data[2:]


def exif_entries(entries: int, size: int) -> bytes:
    """A PNG whose EXIF block has many entries that each claim all of its bytes."""
    rows = b"".join(struct.pack("<HHLL", tag, 7, size, 8) for tag in range(entries))
    block = b"II*\x00" + struct.pack("<L", 8) + struct.pack("<H", entries) + rows
    return png(64, 64, before=[(b"eXIf", block.ljust(size, b"\x00"))])


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def zeros(size: int) -> bytes:
    """So many zero bytes, deflated."""
    packer, block = zlib.compressobj(9), bytes(1024 * 1024)
    parts = [packer.compress(block[: min(len(block), size - done)]) for done in range(0, size, len(block))]
    return b"".join([*parts, packer.flush()])


def png(
    width: int,
    height: int,
    *,
    bits: int = 8,
    colour: int = 0,
    interlaced: bool = False,
    before: Iterable[tuple[bytes, bytes]] = (),
    after: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """A black PNG with more chunks before and after its data; ``colour``: 0 grey, 2 RGB, 6 RGBA."""
    pixel = bits * {0: 1, 2: 3, 6: 4}[colour]
    size = height * (1 + -(-width * pixel // 8))
    if interlaced:
        # Seven passes: first column and row, and the steps between them.
        passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
        sizes = [(len(range(x, width, dx)), len(range(y, height, dy))) for x, y, dx, dy in passes]
        size = sum(rows * (1 + -(-columns * pixel // 8)) for columns, rows in sizes if columns)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    chunks = [(b"IHDR", header), *before, (b"IDAT", zeros(size)), *after, (b"IEND", b"")]
    return PNG_START + b"".join(chunk(kind, body) for kind, body in chunks)


def png_chunks(count: int, kind: bytes = b"teSt") -> bytes:
    """Empty chunks before the data."""
    return png(64, 64).replace(chunk(b"IEND", b""), chunk(kind, b"") * count + chunk(b"IEND", b""))


def png_profiles(count: int) -> bytes:
    """Colour profiles of a megabyte each, a kilobyte when deflated."""
    return png(64, 64, before=[(b"iCCP", b"icc\x00\x00" + zeros(1024 * 1024))] * count)


def png_texts(count: int) -> bytes:
    """Compressed texts of a megabyte each."""
    return png(64, 64, before=[(b"zTXt", b"text\x00\x00" + zeros(1024 * 1024 - 1))] * count)


def blank_webp(width: int, height: int) -> bytes:
    """One colour: very many pixels in a few dozen bytes."""
    return encode(Image.new("RGB", (width, height)), "WEBP", lossless=True)


def speckles(side: int) -> Image.Image:
    """The same noise every time, in colour."""
    return Image.frombytes("RGB", (side, side), random.Random(side).randbytes(3 * side * side))


@cache
def noise(side: int) -> boxes.Picture:
    """A square picture of noise as AV1 data."""
    return boxes.encoded(speckles(side), max_threads=1)


def avif_declared(width: int, height: int, side: int) -> bytes:
    """A picture that declares another size than its AV1 data have."""
    return boxes.avif([noise(side).item(width, height)])


def avif_frames(count: int) -> bytes:
    """The frame of a picture again and again: decoders decode each and show one."""
    picture = noise(64)
    return boxes.avif([replace(picture, data=picture.data * count).item(64, 64)])


def avif_parts(count: int) -> bytes:
    """Empty parts, which decoders pass over, before the frame."""
    picture = noise(64)
    return boxes.avif([replace(picture, data=b"\x7a\x00" * count + picture.data).item(64, 64)])


def avif_items(count: int, padding: int) -> bytes:
    """Thumbnails that share their data, of which most is a part that decoders pass over."""
    picture = noise(64)
    item = replace(picture, data=boxes.padding(padding) + picture.data).item(64, 64)
    others = [replace(item, data=b"")] * (count - 1)
    return boxes.avif([item, *others], places=[(0, len(item.data))] * count)


def avif_grid(rows: int, columns: int, *, tiles: int) -> bytes:
    """A grid that uses so many pictures in turns."""
    picture, used = noise(64), rows * columns
    size = (64 * columns, 64 * rows)
    shown = boxes.Item(b"grid", boxes.grid(rows, columns, *size), [boxes.ispe(*size), picture.depth])
    targets = [2 + place % tiles for place in range(used)]
    return boxes.avif([shown, *[picture.item(64, 64)] * tiles], [(b"dimg", 1, targets)])


def avif_circle() -> bytes:
    """Two grids, each the only tile of the other."""
    entries = [boxes.ispe(64, 64), noise(64).depth]
    items = [boxes.Item(b"grid", boxes.grid(1, 1, 64, 64), entries)] * 2
    return boxes.avif(items, [(b"dimg", 1, [2]), (b"dimg", 2, [1])])


def avif_own_alpha() -> bytes:
    """A picture that is its own alpha."""
    return boxes.avif([noise(64).item(64, 64, boxes.alpha())], [(b"auxl", 1, [1])])


def avif_large_alpha(side: int) -> bytes:
    """A small picture with large alpha."""
    alpha = boxes.encoded(Image.new("L", (side, side), 200))
    return boxes.avif([noise(64).item(64, 64), alpha.item(side, side, boxes.alpha())], [(b"auxl", 2, [1])])


def avif_boxes(count: int) -> bytes:
    """Empty boxes within the one that describes the picture."""
    return boxes.avif([noise(64).item(64, 64)], more=boxes.box(b"free") * count)


def avif_references(count: int, targets: int) -> bytes:
    """A picture that says again and again of so many others that it describes them."""
    return boxes.avif([noise(64).item(64, 64)], [(b"cdsc", 1, [2] * targets)] * count)


def avif_layers() -> bytes:
    """A picture that says it has several layers."""
    return boxes.avif([noise(64).item(64, 64, boxes.box(b"a1op", b"\1"))])


def avif_tools(rows: int, columns: int) -> bytes:
    """A grid of tiles of 1024 x 1024 that were made with every tool of the encoder, in full colour resolution."""
    speckled = speckles(300).resize((1024, 1024))
    return boxes.tiled(boxes.encoded(speckled, speed=4, quality=75, subsampling="4:4:4"), 1024, rows, columns)


def blank_avif(width: int, height: int) -> bytes:
    """One colour in full colour resolution."""
    return encode(Image.new("RGB", (width, height), GREY), "AVIF", speed=10, subsampling="4:4:4")


SMALL: dict[str, Callable[[], bytes]] = {
    "hidden_scans": partial(hidden_scans, 64, 64, 110),
    "scans_behind_fill": partial(scans_behind_fill, 64, 64, 110),
    "repeated_scans": partial(repeated_scans, 64, 64, 90),
    "fill_bytes": partial(fill_bytes, 1000),
    "junk": partial(junk, 1000),
    "comments": partial(comments, 100),
    "late_comments": partial(late_comments, 100),
    "restart_markers": partial(restart_markers, 100),
    "arithmetic": partial(arithmetic, 64, 64, 12),
    "empty_refinements": partial(empty_refinements, 64, 64, 12),
    "exif_parts": partial(exif_parts, 20, 40),
    "exif_entries": partial(exif_entries, 60, 1000),
    "png_chunks": partial(png_chunks, 100),
    "png_data_chunks": partial(png_chunks, 100, b"IDAT"),
    "png_profiles": partial(png_profiles, 2),
    "png_texts": partial(png_texts, 2),
    "png_interlaced": partial(png, 64, 48, interlaced=True, colour=2),
    "png_sixteen_bits": partial(png, 64, 48, bits=16, colour=6),
    "blank_webp": partial(blank_webp, 64, 48),
    "avif_declared": partial(avif_declared, 32, 64, 64),
    "avif_frames": partial(avif_frames, 2),
    "avif_parts": partial(avif_parts, 10),
    "avif_items": partial(avif_items, 5, 100),
    "avif_grid": partial(avif_grid, 2, 3, tiles=6),
    "avif_shared_tiles": partial(avif_grid, 2, 3, tiles=2),
    "avif_circle": avif_circle,
    "avif_own_alpha": avif_own_alpha,
    "avif_large_alpha": partial(avif_large_alpha, 128),
    "avif_boxes": partial(avif_boxes, 10),
    "avif_references": partial(avif_references, 3, 10),
    "avif_layers": avif_layers,
    "blank_avif": partial(blank_avif, 64, 48),
}
"""Every attack at a size that costs next to nothing: seeds for the fuzzer."""


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The file with some bytes changed, removed, repeated or cut off."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(out))
        length = rng.choice((1, 2, 4, 16, 200))
        kind = rng.randrange(5)
        if kind == 0:
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xD9, 0xDA, 0xFF, rng.randrange(256)))
        elif kind == 1:
            out[at : at + length] = rng.randbytes(length)
        elif kind == 2 and len(out) > length + 16:
            del out[at : at + length]
        elif kind == 3:
            out[at:at] = out[at : at + length] * rng.choice((1, 2, 50))
        elif kind == 4 and rng.random() < 0.2:
            del out[max(at, 16) :]
    return bytes(out)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The file with some bytes of its second half changed: its lengths still hold, so that decoders get further."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        out[rng.randrange(len(out) // 2, len(out))] = rng.randrange(256)
    return bytes(out)
