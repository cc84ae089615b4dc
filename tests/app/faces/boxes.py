"""AVIF files put together box by box, honest ones and others."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from tests.app.faces.conftest import encode


def box(kind: bytes, body: bytes = b"", *, version: int | None = None, flags: int = 0) -> bytes:
    """A box; a full box if it has a version."""
    head = b"" if version is None else struct.pack(">I", version << 24 | flags)
    return struct.pack(">I", 8 + len(head) + len(body)) + kind + head + body


def ispe(width: int, height: int) -> bytes:
    return box(b"ispe", struct.pack(">II", width, height), version=0)


def alpha() -> bytes:
    return box(b"auxC", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", version=0)


def grid(rows: int, columns: int, width: int, height: int) -> bytes:
    """The data of a grid."""
    return struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)


def padding(size: int) -> bytes:
    """A part of AV1 data that decoders pass over."""
    return b"\x7a" + bytes(0x80 | size >> shift & 0x7F for shift in (0, 7, 14)) + bytes([size >> 21]) + bytes(size)


@dataclass(frozen=True)
class Item:
    """One item; its number is its place in the list, from 1."""

    kind: bytes
    data: bytes
    properties: Sequence[bytes] = ()


@dataclass(frozen=True)
class Picture:
    """What an encoder makes of an image: AV1 data and the properties that belong to it."""

    data: bytes
    config: bytes
    depth: bytes

    def item(self, width: int, height: int, *more: bytes) -> Item:
        """As an item that says it has this size."""
        return Item(b"av01", self.data, [ispe(width, height), self.config, self.depth, *more])


def encoded(image: Image.Image, **options: object) -> Picture:
    """AV1 data of an opaque image."""
    file = encode(image, "AVIF", **options)
    return Picture(body(file, b"mdat"), whole(file, b"av1C"), whole(file, b"pixi"))


def whole(file: bytes, kind: bytes) -> bytes:
    """The first box of a kind, with its header."""
    at = file.index(kind) - 4
    return file[at : at + int.from_bytes(file[at : at + 4], "big")]


def body(file: bytes, kind: bytes) -> bytes:
    return whole(file, kind)[8:]


def avif(
    items: Sequence[Item],
    references: Sequence[tuple[bytes, int, Sequence[int]]] = (),
    *,
    primary: int = 1,
    more: bytes = b"",
    places: Sequence[tuple[int, int]] | None = None,
) -> bytes:
    """A file of these items.

    Args:
        items: the primary one is shown.
        references: kind, from which item, to which items.
        primary: its number.
        more: boxes at the end of the meta box.
        places: offset and length of each item's data in the media box; one behind the other by default.
    """
    data = b"".join(item.data for item in items)
    starts = [sum(len(item.data) for item in items[:place]) for place in range(len(items))]
    places = places or [(start, len(item.data)) for start, item in zip(starts, items, strict=True)]
    kinds = b"".join(
        box(b"infe", struct.pack(">HH", number, 0) + item.kind + b"\0", version=2)
        for number, item in enumerate(items, start=1)
    )
    known = list(dict.fromkeys(entry for item in items for entry in item.properties))
    used = b"".join(
        struct.pack(">HB", number, len(item.properties)) + bytes(0x80 | 1 + known.index(p) for p in item.properties)
        for number, item in enumerate(items, start=1)
    )
    links = b"".join(
        box(kind, struct.pack(f">HH{len(targets)}H", source, len(targets), *targets))
        for kind, source, targets in references
    )

    def meta(start: int) -> bytes:
        located = b"".join(
            struct.pack(">HHHII", number, 0, 1, start + offset, length)
            for number, (offset, length) in enumerate(places, start=1)
        )
        parts = [
            box(b"hdlr", bytes(4) + b"pict" + bytes(13), version=0),
            box(b"pitm", struct.pack(">H", primary), version=0),
            box(b"iloc", struct.pack(">HH", 0x4400, len(items)) + located, version=0),
            box(b"iinf", struct.pack(">H", len(items)) + kinds, version=0),
            box(b"iref", links, version=0) if references else b"",
            box(b"iprp", box(b"ipco", b"".join(known)) + box(b"ipma", struct.pack(">I", len(items)) + used, version=0)),
            more,
        ]
        return box(b"meta", b"".join(parts), version=0)

    head = box(b"ftyp", b"avif\0\0\0\0avifmif1miaf")
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", data)


def tiled(picture: Picture, tile: int, rows: int, columns: int) -> bytes:
    """A square picture again and again in a grid."""
    width, height = tile * columns, tile * rows
    shown = Item(b"grid", grid(rows, columns, width, height), [ispe(width, height), picture.depth])
    tiles = [picture.item(tile, tile)] * (rows * columns)
    return avif([shown, *tiles], [(b"dimg", 1, range(2, 2 + len(tiles)))])
