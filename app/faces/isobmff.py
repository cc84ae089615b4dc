"""What an AVIF file makes its decoder do, read from its boxes and AV1 headers without decoding it.

The file is a tree of boxes that describes items: pictures, grids of pictures, metadata. Decoders follow it from item to
item and believe the AV1 data about sizes. Here every picture in the file counts, whether it is shown or not, and
whatever is unknown, ambiguous or unlike a photograph is refused: the decoder sees only what was understood.

Sources: ISO/IEC 14496-12 (boxes, ``iloc``, ``iinf``, ``iref``), ISO/IEC 23008-12 (``ispe``, ``ipma``, grids), the AVIF
specification of the Alliance for Open Media.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.faces import av1
from app.faces.containers import ContainerError, Pictures

MAX_ITEMS = 500
"""Of a file. 48 megapixels in tiles of 512 x 512 with a gain map are about 260. They may refer to each other
as often: a tile belongs to one grid."""
MAX_BOXES = 1000
"""In one box, or beside each other in the file: every item and every property has one."""
MAX_EXTENTS = 32
"""Of one item. Encoders write one."""
MAX_SHARED = 4 * 1024 * 1024
"""Bytes by which the data of all items may exceed the file. Encoders keep equal tiles once; those are of one colour."""

_ONCE = frozenset({b"hdlr", b"pitm", b"iloc", b"iinf", b"iprp", b"iref", b"idat"})
_METADATA = frozenset({b"Exif", b"mime", b"uri ", b"tmap"})
"""Items that are not decoded. A tone map says how the picture looks on a brighter screen."""
_PROPERTIES = frozenset({b"ispe", b"av1C", b"pixi", b"colr", b"auxC", b"irot", b"imir", b"pasp", b"clli", b"mdcv"})
_REFUSED = {
    b"clap": "it is cropped by its header",
    **dict.fromkeys((b"a1op", b"a1lx", b"lsel"), "it has several layers"),
}


class CutOffError(ContainerError):
    """A box or the data of an item go on behind the end of the file."""


class SequenceError(ContainerError):
    """The file holds a sequence of pictures."""


@dataclass(frozen=True, slots=True)
class _Box:
    kind: bytes
    start: int
    end: int


@dataclass(slots=True)
class _Meta:
    """What the meta box says; items are known by their numbers."""

    kinds: dict[int, bytes] = field(default_factory=dict)
    data: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    properties: dict[int, list[_Box]] = field(default_factory=dict)
    tiles: dict[int, list[int]] = field(default_factory=dict)
    exif: list[int] = field(default_factory=list)


class _Reader:
    """Numbers from a part of the file, the most significant byte first."""

    def __init__(self, data: bytes, box: _Box) -> None:
        self._data, self.at, self._end = data, box.start, box.end

    def take(self, size: int) -> int:
        """A number of ``size`` bytes. Raises ContainerError if the part ends before."""
        self.at += size
        if self.at > self._end:
            raise ContainerError("one of its boxes is too short")
        return int.from_bytes(self._data[self.at - size : self.at], "big")

    def version(self) -> tuple[int, int]:
        """Version and flags, with which some boxes begin."""
        return self.take(1), self.take(3)


def pictures(data: bytes) -> Pictures:
    """Follow the boxes of a file to its pictures.

    Args:
        data: the whole file, which begins with a ``ftyp`` box.

    Raises:
        CutOffError: the file ends early.
        SequenceError: it is an image sequence.
        ContainerError: it is made unlike a photograph; the message says in what way.
    """
    boxes = list(_boxes(data, 0, len(data), outermost=True))
    if any(box.kind == b"moov" for box in boxes):
        raise SequenceError("it holds a sequence of pictures")
    metas = [box for box in boxes if box.kind == b"meta"]
    if not metas:
        raise CutOffError("the file ends before its box named meta")
    if len(metas) > 1:
        raise ContainerError("it has more than one box named meta")
    start = metas[0].start + 4
    parts = list(_boxes(data, start, metas[0].end))
    counts = Counter(part.kind for part in parts if part.kind in _ONCE)
    if twice := next((kind for kind, count in counts.items() if count > 1), None):
        raise ContainerError(f"it has more than one box named {twice.decode()}")
    found = {part.kind: part for part in parts}
    if missing := next((kind for kind in (b"pitm", b"iloc", b"iinf", b"iprp") if kind not in found), None):
        raise ContainerError(f"it has no box named {missing.decode()}")
    meta = _Meta()
    _read_kinds(data, found[b"iinf"], meta)
    _read_places(data, found[b"iloc"], found.get(b"idat"), meta)
    _read_properties(data, found[b"iprp"], meta)
    if b"iref" in found:
        _read_tiles(data, found[b"iref"], meta)
    reader = _Reader(data, found[b"pitm"])
    primary = reader.take(2 if reader.version()[0] == 0 else 4)
    return _measured(data, meta, primary)


def _boxes(data: bytes, at: int, end: int, *, outermost: bool = False) -> Iterator[_Box]:
    """The boxes between two places, without their headers."""
    for _ in range(MAX_BOXES):
        if at == end:
            return
        if at + 8 > end:
            break
        size, kind, start = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if size == 1:
            size, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        elif size == 0 and outermost:
            size = end - at
        if size < start - at:
            raise ContainerError("one of its boxes is too short")
        at += size
        if at > end:
            break
        yield _Box(kind, start, at)
    else:
        raise ContainerError(f"it has more than {MAX_BOXES} boxes")
    raise CutOffError("the file ends within a box") if outermost else ContainerError("one of its boxes is too short")


def _read_kinds(data: bytes, box: _Box, meta: _Meta) -> None:
    """Items and their kinds, from ``iinf``."""
    reader = _Reader(data, box)
    count = reader.take(2 if reader.version()[0] == 0 else 4)
    if count > MAX_ITEMS:
        raise ContainerError(f"it has more than {MAX_ITEMS} items")
    for entry in _boxes(data, reader.at, box.end):
        part = _Reader(data, entry)
        version, _ = part.version()
        if entry.kind != b"infe" or version not in (2, 3):
            raise ContainerError("it describes an item in an unknown way")
        item, protected = part.take(2 if version == 2 else 4), part.take(2)
        if item in meta.kinds or protected:
            raise ContainerError("one of its items is protected or described twice")
        meta.kinds[item] = part.take(4).to_bytes(4, "big")
        if meta.kinds[item] == b"Exif":
            meta.exif.append(part.at - 4)
    if len(meta.kinds) != count:
        raise ContainerError("it has more or fewer items than it says")


def _read_places(data: bytes, box: _Box, idat: _Box | None, meta: _Meta) -> None:
    """Where the data of each item are, from ``iloc``."""
    reader = _Reader(data, box)
    version, _ = reader.version()
    packed = reader.take(2)
    offset_size, length_size, base_size, index_size = (packed >> shift & 15 for shift in (12, 8, 4, 0))
    if version == 0:
        index_size = 0
    if version > 2 or not {offset_size, length_size, base_size, index_size} <= {0, 4, 8}:
        raise ContainerError("it locates its items in an unknown way")
    count, total = reader.take(2 if version < 2 else 4), 0
    for _ in range(count):
        item = reader.take(2 if version < 2 else 4)
        method = reader.take(2) & 15 if version else 0
        elsewhere, base = reader.take(2), reader.take(base_size)
        extents = reader.take(2)
        if item in meta.data or elsewhere or method > 1 or extents > MAX_EXTENTS or len(meta.data) >= MAX_ITEMS:
            raise ContainerError("it locates its items in an unknown way")
        if method and idat is None:
            raise ContainerError("it has no box named idat")
        whole = idat if method and idat is not None else _Box(b"", 0, len(data))
        meta.data[item] = places = []
        for _ in range(extents):
            reader.take(index_size)
            start = whole.start + base + reader.take(offset_size)
            end = start + reader.take(length_size)
            total += end - start
            if end > whole.end:
                raise CutOffError("the file ends before the data of an item")
            places.append((start, end))
    if total > len(data) + MAX_SHARED:
        raise ContainerError("its items share their data")


def _read_properties(data: bytes, box: _Box, meta: _Meta) -> None:
    """Properties of each item, from ``iprp``."""
    parts = list(_boxes(data, box.start, box.end))
    if [part.kind for part in parts] != [b"ipco", b"ipma"]:
        raise ContainerError("it describes its items in an unknown way")
    known = list(_boxes(data, parts[0].start, parts[0].end))
    reader = _Reader(data, parts[1])
    version, flags = reader.version()
    for _ in range(reader.take(4)):
        item = reader.take(2 if version == 0 else 4)
        if item in meta.properties or len(meta.properties) == MAX_ITEMS:
            raise ContainerError("it describes its items in an unknown way")
        meta.properties[item] = properties = []
        for _ in range(reader.take(1)):
            value = reader.take(2 if flags & 1 else 1)
            essential, index = divmod(value, 0x8000 if flags & 1 else 0x80)
            if index > len(known):
                raise ContainerError("it describes its items in an unknown way")
            if index == 0:
                continue
            found = known[index - 1]
            if found.kind in _REFUSED:
                raise ContainerError(_REFUSED[found.kind])
            if essential and found.kind not in _PROPERTIES:
                raise ContainerError("one of its items has an unknown property")
            properties.append(found)


def _read_tiles(data: bytes, box: _Box, meta: _Meta) -> None:
    """What each item is made of, from ``iref``. No item may be part of two others."""
    reader = _Reader(data, box)
    size, used, total = 2 if reader.version()[0] == 0 else 4, set[int](), 0
    for reference in _boxes(data, reader.at, box.end):
        part = _Reader(data, reference)
        item, count = part.take(size), part.take(2)
        total += count
        if total > MAX_ITEMS:
            raise ContainerError(f"its items refer to others more than {MAX_ITEMS} times")
        targets = [part.take(size) for _ in range(count)]
        if item in targets:
            raise ContainerError("one of its items refers to itself")
        if reference.kind != b"dimg" or meta.kinds.get(item) == b"tmap":
            continue
        if item in meta.tiles or len(targets) != len(set(targets)) or used.intersection(targets):
            raise ContainerError("one of its pictures is used more than once")
        used.update(targets)
        meta.tiles[item] = targets


def _measured(data: bytes, meta: _Meta, primary: int) -> Pictures:
    """Sizes of all pictures, as far as they fit what is shown."""
    if meta.kinds.get(primary) not in (b"av01", b"grid"):
        raise ContainerError("the picture that it shows is no AV1 picture")
    sizes = {item: _declared(data, meta, item) for item, kind in meta.kinds.items() if kind not in _METADATA}
    pixels = 0
    for item, size in sizes.items():
        kind = meta.kinds[item]
        if kind == b"av01":
            if av1.frame_size(_joined(data, meta, item)) != size:
                raise ContainerError("one of its pictures has another size than it declares")
            pixels += size[0] * size[1]
        elif kind == b"grid":
            _check_grid(_joined(data, meta, item), size, [sizes.get(tile) for tile in meta.tiles.get(item, [])])
            if any(meta.kinds.get(tile) != b"av01" for tile in meta.tiles[item]):
                raise ContainerError("a grid of its is not made of AV1 pictures")
        else:
            raise ContainerError("it has an item of a kind that no AVIF photograph has")
        if size[0] > sizes[primary][0] or size[1] > sizes[primary][1]:
            raise ContainerError("one of its pictures is larger than the one that it shows")
    return Pictures(*sizes[primary], pixels, tuple(meta.exif))


def _joined(data: bytes, meta: _Meta, item: int) -> bytes:
    return b"".join(data[start:end] for start, end in meta.data.get(item, []))


def _declared(data: bytes, meta: _Meta, item: int) -> tuple[int, int]:
    """Width and height of an item by its ``ispe`` property."""
    found = [box for box in meta.properties.get(item, []) if box.kind == b"ispe"]
    if len(found) != 1:
        raise ContainerError("one of its pictures does not declare its size once")
    reader = _Reader(data, found[0])
    reader.version()
    return reader.take(4), reader.take(4)


def _check_grid(body: bytes, size: tuple[int, int], tiles: list[tuple[int, int] | None]) -> None:
    """Check that tiles of one size make up the grid, and that it needs the last of them in each direction."""
    reader = _Reader(body, _Box(b"grid", 0, len(body)))
    version, flags, rows, columns = reader.take(1), reader.take(1), reader.take(1) + 1, reader.take(1) + 1
    wide = 4 if flags & 1 else 2
    tile = tiles[0] if tiles else None
    if version or (reader.take(wide), reader.take(wide)) != size or tile is None:
        raise ContainerError("one of its grids is of another size than it declares")
    needed = tuple(-(-length // max(1, part)) for length, part in zip(size, tile, strict=True))
    if needed != (columns, rows) or len(tiles) != rows * columns or any(other != tile for other in tiles):
        raise ContainerError("the tiles of one of its grids do not fit")
