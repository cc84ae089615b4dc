from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from PIL import Image

from app.faces import av1
from app.faces.containers import ContainerError, Pictures
from app.faces.isobmff import CutOffError, SequenceError, pictures
from tests.app.faces import attacks, boxes
from tests.app.faces.conftest import encode

SIZE = (96, 64)
NOISE = Image.effect_noise(SIZE, 60).convert("RGB")


@pytest.fixture(scope="module")
def picture() -> boxes.Picture:
    return boxes.encoded(NOISE)


def faded() -> Image.Image:
    image = NOISE.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(SIZE))
    return image


def full_header() -> bytes:
    """AV1 data of a picture with the long form of both headers, which Pillow writes for the first of several."""
    file = encode(NOISE, "AVIF", save_all=True, append_images=[NOISE.rotate(90)])
    table = boxes.body(file, b"stsz")
    (length,) = struct.unpack(">I", table[12:16])
    # The meta box shows the first picture, too, and both have their data in common.
    return boxes.body(file, b"mdat")[:length]


@pytest.mark.parametrize("options", [{}, {"subsampling": "4:4:4"}, {"tile_rows": 1}, {"codec": "aom", "speed": 9}])
def test_what_pillow_writes_is_understood(options: dict[str, object]) -> None:
    assert pictures(encode(NOISE, "AVIF", **options)) == Pictures(*SIZE, 96 * 64)


def test_every_picture_in_a_file_counts(picture: boxes.Picture) -> None:
    assert pictures(encode(faded(), "AVIF")) == Pictures(*SIZE, 2 * 96 * 64)
    thumbnail = boxes.encoded(NOISE.resize((48, 32))).item(48, 32)
    shown = picture.item(*SIZE)
    assert pictures(boxes.avif([shown, thumbnail], [(b"thmb", 2, [1])])).pixels == 96 * 64 + 48 * 32
    assert pictures(boxes.avif([thumbnail, shown], primary=2)) == Pictures(*SIZE, 96 * 64 + 48 * 32)


def test_a_grid_is_as_large_as_its_tiles() -> None:
    assert pictures(attacks.avif_grid(2, 3, tiles=6)) == Pictures(192, 128, 6 * 64 * 64)


def test_a_sequence_is_none_of_a_photograph() -> None:
    with pytest.raises(SequenceError):
        pictures(encode(NOISE, "AVIF", save_all=True, append_images=[NOISE.rotate(90)]))


def test_no_prefix_is_whole() -> None:
    data = encode(faded(), "AVIF")
    for end in range(12, len(data)):
        with pytest.raises(CutOffError):
            pictures(data[:end])


def test_data_behind_the_end_of_the_file_are_missing(picture: boxes.Picture) -> None:
    item = picture.item(*SIZE)
    with pytest.raises(CutOffError):
        pictures(boxes.avif([item], places=[(0, len(item.data) + 1)]))


def test_both_forms_of_the_headers_are_read(picture: boxes.Picture) -> None:
    assert av1.frame_size(picture.data) == SIZE
    data = full_header()
    assert av1.frame_size(data) == SIZE
    assert pictures(boxes.avif([replace(picture, data=data).item(*SIZE)])) == Pictures(*SIZE, 96 * 64)


def test_a_frame_with_a_size_of_its_own_is_refused() -> None:
    data = full_header()
    frame = data.index(b"\x32")
    body = frame + 3
    assert data[frame + 1] & 0x80, "a length of two bytes"
    found = []
    for bit in range(8):
        changed = bytearray(data)
        changed[body] ^= 0x80 >> bit
        try:
            av1.frame_size(bytes(changed))
        except ContainerError as error:
            found.append((bit, str(error)))
    # Existing frame, two bits of its kind, shown; CDF update and screen content only move what follows.
    assert [bit for bit, message in found if "key frame" in message] == [0, 1, 2, 3]
    assert [bit for bit, message in found if "another size" in message] == [6]


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "declares less": (lambda: attacks.avif_declared(32, 64, 64), "another size than it declares"),
    "declares more": (lambda: attacks.avif_declared(64, 65, 64), "another size than it declares"),
    "frames": (lambda: attacks.avif_frames(2), "2 frames"),
    "parts": (lambda: attacks.avif_parts(av1.MAX_OBUS), "parts"),
    "no frame": (lambda: attacks.avif_frames(0), "0 frames"),
    "shared tile": (lambda: attacks.avif_grid(2, 3, tiles=5), "more than once"),
    "circle": (attacks.avif_circle, "not made of AV1|fit"),
    "own alpha": (attacks.avif_own_alpha, "itself"),
    "large alpha": (lambda: attacks.avif_large_alpha(65), "larger than the one"),
    "boxes": (lambda: attacks.avif_boxes(1001), "1000 boxes"),
    "layers": (attacks.avif_layers, "layers"),
    "items": (lambda: attacks.avif_grid(20, 25, tiles=500), "500 items"),
    "references of one item": (lambda: attacks.avif_references(1, 501), "more than 500 times"),
    "references of several": (lambda: attacks.avif_references(3, 167), "more than 500 times"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_refusals_say_what_is_wrong(make: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(ContainerError, match=reason):
        pictures(make())


def test_as_many_parts_as_allowed_are_followed() -> None:
    own = len(av1._obus(attacks.noise(64).data))
    assert pictures(attacks.avif_parts(av1.MAX_OBUS - own)).width == 64
    assert pictures(attacks.avif_boxes(900)).width == 64
    assert pictures(attacks.avif_references(2, 250)).width == 64


def test_items_may_share_little_of_their_data(picture: boxes.Picture) -> None:
    padded = replace(picture, data=boxes.padding(2**20) + picture.data).item(*SIZE)
    places = [(0, len(padded.data))]
    for count, allowed in ((4, True), (6, False)):
        data = boxes.avif([padded, *[replace(padded, data=b"")] * (count - 1)], places=places * count)
        if allowed:
            assert pictures(data).pixels == count * 96 * 64
        else:
            with pytest.raises(ContainerError, match="share"):
                pictures(data)


@pytest.mark.parametrize("kind", [b"hvc1", b"iovl", b"iden", b"sato", b"av02"])
def test_items_of_other_kinds_are_refused(picture: boxes.Picture, kind: bytes) -> None:
    shown = picture.item(*SIZE)
    for items in ([replace(shown, kind=kind)], [shown, replace(shown, kind=kind)]):
        with pytest.raises(ContainerError, match=r"no AV1 picture|no AVIF photograph"):
            pictures(boxes.avif(items))


def test_unknown_properties_are_refused_if_they_matter(picture: boxes.Picture) -> None:
    for entry, reason in ((boxes.box(b"clap", bytes(32)), "cropped"), (boxes.box(b"new!"), "unknown property")):
        with pytest.raises(ContainerError, match=reason):
            pictures(boxes.avif([picture.item(*SIZE, entry)]))


@pytest.mark.parametrize("kind", [b"pitm", b"iloc", b"iinf", b"iprp"])
def test_what_describes_the_items_is_there_once(picture: boxes.Picture, kind: bytes) -> None:
    data = boxes.avif([picture.item(*SIZE)])
    with pytest.raises(ContainerError, match=f"no box named {kind.decode()}"):
        pictures(data.replace(kind, b"free"))
    again = boxes.avif([picture.item(*SIZE)], more=boxes.whole(data, kind))
    with pytest.raises(ContainerError, match=f"more than one box named {kind.decode()}"):
        pictures(again)


@pytest.mark.parametrize(("rows", "columns", "size"), [(2, 2, (64, 128)), (2, 1, (64, 129)), (1, 1, (64, 128))])
def test_a_grid_needs_the_tiles_that_it_has(rows: int, columns: int, size: tuple[int, int]) -> None:
    tile = attacks.noise(64)
    shown = boxes.Item(b"grid", boxes.grid(rows, columns, *size), [boxes.ispe(*size), tile.depth])
    tiles = [tile.item(64, 64)] * 2
    with pytest.raises(ContainerError, match="do not fit"):
        pictures(boxes.avif([shown, *tiles], [(b"dimg", 1, [2, 3])]))
