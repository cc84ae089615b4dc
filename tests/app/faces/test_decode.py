from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from app.faces import (
    AnimatedImageError,
    CorruptImageError,
    DecodeLimits,
    EmptyImageError,
    ImageTooLargeError,
    ImageTooSmallError,
    Photograph,
    PhotographError,
    TruncatedImageError,
    UnsupportedFormatError,
    decode,
)
from app.types import Pixels
from tests.app.faces import boxes
from tests.app.faces.conftest import encode

pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Tag data larger")

LIMITS = DecodeLimits()
ORIENTATION = 0x0112
CODES = {
    "empty_image",
    "unsupported_image_format",
    "image_too_large",
    "image_too_small",
    "animated_image",
    "truncated_image",
    "corrupt_image",
}


def sample(width: int = 96, height: int = 64) -> Image.Image:
    """Smooth colours that differ in every corner."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 200 / width + 20, y * 200 / height + 20, (x + y) * 100 / (width + height) + 50]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def close(photograph: Photograph, expected: Image.Image | Pixels, tolerance: float) -> None:
    expected = np.asarray(expected).astype(int)
    assert photograph.pixels.shape == expected.shape
    assert photograph.pixels.dtype == np.uint8
    assert np.abs(photograph.pixels.astype(int) - expected).mean() <= tolerance


@pytest.mark.parametrize(
    ("kind", "options", "name", "tolerance"),
    [
        ("JPEG", {"quality": 95}, "JPEG", 2),
        ("JPEG", {"quality": 95, "progressive": True}, "JPEG", 2),
        ("PNG", {}, "PNG", 0),
        ("WEBP", {"lossless": True}, "WebP", 0),
        ("WEBP", {"quality": 95}, "WebP", 3),
        ("AVIF", {"quality": 95}, "AVIF", 2),
        ("AVIF", {"quality": 95, "subsampling": "4:4:4", "range": "limited"}, "AVIF", 2),
    ],
)
def test_formats(kind: str, options: dict[str, object], name: str, tolerance: float) -> None:
    photograph = decode(encode(sample(), kind, **options), LIMITS)
    close(photograph, sample(), tolerance)
    assert (photograph.format, photograph.width, photograph.height, photograph.scale) == (name, 96, 64, 1.0)
    assert photograph.pixels.flags.c_contiguous
    assert photograph.pixels.flags.writeable


def test_greyscale_and_one_bit() -> None:
    grey = sample().convert("L")
    close(decode(encode(grey, "PNG"), LIMITS), grey.convert("RGB"), 0)
    close(decode(encode(grey, "JPEG", quality=95), LIMITS), grey.convert("RGB"), 2)
    close(decode(encode(grey, "AVIF", quality=95), LIMITS), grey.convert("RGB"), 2)
    bits = grey.convert("1")
    close(decode(encode(bits, "PNG"), LIMITS), bits.convert("RGB"), 0)


def test_sixteen_bit_greyscale_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = decode(encode(Image.fromarray(ramp), "PNG"), LIMITS).pixels
    np.testing.assert_array_equal(pixels[..., 0], ramp >> 8)
    np.testing.assert_array_equal(pixels[..., 1], pixels[..., 0])


def png(width: int, bits: int, colour: int, row: bytes, transparent: Sequence[int] = ()) -> bytes:
    """A square PNG of equal rows, in forms that Pillow cannot write; ``colour``: 0 grey, 2 RGB."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, width, bits, colour, 0, 0, 0))
    key = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    rows = chunk(b"IDAT", zlib.compress((b"\x00" + row) * width))
    return b"\x89PNG\r\n\x1a\n" + header + key + rows + chunk(b"IEND", b"")


def test_sixteen_bit_colour() -> None:
    row = np.asarray(sample(64, 64))[7]
    data = png(64, 16, 2, (row.astype(np.uint16) * 257).astype(">u2").tobytes())
    close(decode(data, LIMITS), np.stack([row] * 64), 0)


@pytest.mark.parametrize(
    ("bits", "row", "transparent", "expected"),
    [
        (1, bytes([0b00001111]), 0, [255] * 8),
        (2, bytes([0b00011011] * 2), 2, [0, 85, 255, 255] * 2),
        (2, bytes([0b00011011] * 2), 0, [255, 85, 170, 255] * 2),
        (4, bytes([0x1A] * 4), 10, [17, 255] * 4),
        (8, bytes([7, 200] * 4), 7, [255, 200] * 4),
        (16, bytes([7, 5, 7, 6] * 4), 0x0705, [255, 7] * 4),
    ],
)
def test_a_transparent_grey_becomes_white(bits: int, row: bytes, transparent: int, expected: list[int]) -> None:
    pixels = decode(png(32, bits, 0, row * 4, [transparent]), LIMITS).pixels
    assert pixels[0, :, 0].tolist() == expected * 4
    np.testing.assert_array_equal(pixels[..., 1:], pixels[..., :2])


def test_a_transparent_colour_of_sixteen_bits_is_told_by_its_upper_half() -> None:
    row = np.array([[0x0705, 0x1006, 0x2007], [0x0706, 0x1006, 0x2107]] * 16, dtype=">u2").tobytes()
    pixels = decode(png(32, 16, 2, row, [0x0705, 0x1006, 0x2007]), LIMITS).pixels
    assert pixels[0].tolist() == [[255, 255, 255], [0x07, 0x10, 0x21]] * 16


def test_cmyk_comes_back_as_the_colours_that_went_in() -> None:
    # Pillow writes CMYK JPEGs the Adobe way, inverted and with the Adobe marker.
    data = encode(sample().convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    close(decode(data, LIMITS), sample(), 3)


def test_palette() -> None:
    palette = sample().quantize(64)
    close(decode(encode(palette, "PNG"), LIMITS), palette.convert("RGB"), 0)


def test_transparency_is_composited_over_white() -> None:
    rgba = sample().convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize(rgba.size))
    white = Image.new("RGBA", rgba.size, "white")
    expected = Image.alpha_composite(white, rgba).convert("RGB")
    close(decode(encode(rgba, "PNG"), LIMITS), expected, 0)
    close(decode(encode(rgba, "WEBP", lossless=True, exact=True), LIMITS), expected, 1)
    close(decode(encode(rgba, "AVIF", quality=95), LIMITS), expected, 3)
    grey = rgba.convert("LA")
    close(decode(encode(grey, "PNG"), LIMITS), Image.alpha_composite(white, grey.convert("RGBA")).convert("RGB"), 0)


def test_transparent_palette_entry_and_colour_key_become_white() -> None:
    palette = Image.new("P", (64, 64), 0)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.paste(1, (0, 0, 64, 32))
    for image, key in ((palette, 0), (palette.convert("RGB"), (0, 0, 0))):
        pixels = decode(encode(image, "PNG", transparency=key), LIMITS).pixels
        assert (pixels[:32] == (200, 0, 0)).all()
        assert (pixels[32:] == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animated_is_refused(kind: str) -> None:
    data = encode(sample(), kind, save_all=True, append_images=[sample().rotate(90)], duration=100)
    with pytest.raises(AnimatedImageError) as caught:
        decode(data, LIMITS)
    assert caught.value.code == "animated_image"
    assert caught.value.details["frames"] == 2


def test_an_avif_sequence_is_refused() -> None:
    data = encode(sample(), "AVIF", save_all=True, append_images=[sample().rotate(90)], duration=100)
    with pytest.raises(AnimatedImageError):
        decode(data, LIMITS)


def test_multi_picture_jpeg_is_its_first_picture() -> None:
    data = encode(sample(), "MPO", save_all=True, append_images=[Image.new("RGB", (48, 48))], quality=95)
    close(decode(data, LIMITS), sample(), 2)


def test_empty() -> None:
    with pytest.raises(EmptyImageError):
        decode(b"", LIMITS)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "ICO", "PDF"])
def test_known_but_unsupported_formats_are_named(kind: str) -> None:
    with pytest.raises(UnsupportedFormatError) as caught:
        decode(encode(sample(), kind), LIMITS)
    assert caught.value.details["format"] == kind
    assert kind in caught.value.message


@pytest.mark.parametrize("brands", [b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1miaf"])
def test_heic_is_named_and_the_way_out(brands: bytes) -> None:
    with pytest.raises(UnsupportedFormatError, match=r"HEIC files are not read.*Most Compatible"):
        decode(b"\x00\x00\x00\x18ftyp" + brands + bytes(64), LIMITS)


def test_an_avif_may_begin_with_a_general_brand() -> None:
    data = encode(sample(), "AVIF")
    assert data[8:12] == b"avif"
    close(decode(data[:8] + b"mif1" + data[12:], LIMITS), sample(), 3)


def test_text_is_no_image() -> None:
    with pytest.raises(UnsupportedFormatError) as caught:
        decode(b"holiday.jpg, but not really" * 100, LIMITS)
    assert caught.value.details == {}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_every_prefix_is_refused_or_decoded_and_the_middle_is_truncated(kind: str) -> None:
    data = encode(sample(), kind)
    whole = decode(data, LIMITS).pixels
    for end in range(1, len(data), max(1, len(data) // 300)):
        outcome = attempt(data[:end])
        if isinstance(outcome, Photograph):  # only what lies behind the last pixel is missing
            np.testing.assert_array_equal(outcome.pixels, whole)
        else:
            assert outcome.code in {"truncated_image", "unsupported_image_format"}, end
    with pytest.raises(TruncatedImageError):
        decode(data[: len(data) // 2], LIMITS)


def test_progressive_jpeg_truncated() -> None:
    data = encode(sample(), "JPEG", progressive=True)
    with pytest.raises(TruncatedImageError):
        decode(data[: len(data) * 3 // 4], LIMITS)


def test_a_whole_but_damaged_file_is_corrupt() -> None:
    data = bytearray(encode(sample(), "PNG"))
    start = data.index(b"IDAT") + 4
    data[start : start + 40] = bytes(40)
    with pytest.raises(CorruptImageError) as caught:
        decode(bytes(data), LIMITS)
    assert caught.value.details == {"format": "PNG"}


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    data = encode(sample(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    bomb = data[:-2] + data[last:-2] * 200 + data[-2:]
    with pytest.raises(CorruptImageError) as caught:
        decode(bomb, LIMITS)
    assert caught.value.details["scans"] > 200


def test_byte_limit() -> None:
    data = encode(sample(), "PNG")
    decode(data, replace(LIMITS, max_bytes=len(data)))
    with pytest.raises(ImageTooLargeError) as caught:
        decode(data, replace(LIMITS, max_bytes=len(data) - 1))
    assert caught.value.details == {"bytes": len(data), "max_bytes": len(data) - 1}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_size_guards(kind: str) -> None:
    data = encode(sample(96, 64), kind)
    decode(data, replace(LIMITS, max_pixels=96 * 64, max_side=96, min_side=64))
    for limits in (replace(LIMITS, max_pixels=96 * 64 - 1), replace(LIMITS, max_side=95)):
        with pytest.raises(ImageTooLargeError) as caught:
            decode(data, limits)
        assert caught.value.details["width"] == 96
    with pytest.raises(ImageTooSmallError):
        decode(data, replace(LIMITS, min_side=65))


def test_small_pictures_are_accepted_down_to_a_bound() -> None:
    assert decode(encode(sample(16, 20), "PNG"), DecodeLimits()).width == 16
    for size in ((15, 20), (1, 1)):
        with pytest.raises(ImageTooSmallError, match="each side needs at least 16 pixels"):
            decode(encode(sample(*size), "PNG"), DecodeLimits())


def bombs() -> dict[str, bytes]:
    """Small files whose headers claim very many pixels."""
    png = bytearray(encode(sample(), "PNG"))
    png[16:24] = struct.pack(">II", 100_000, 100_000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    jpeg = bytearray(encode(sample(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16_000).to_bytes(3, "little") * 2
    webp = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    return {"PNG": bytes(png), "JPEG": bytes(jpeg), "WebP": webp}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP"])
def test_decompression_bombs_are_refused_without_a_warning(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageTooLargeError):
            decode(bombs()[kind], LIMITS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    upright = sample(96, 64)
    data = encode(turned(upright, orientation), kind, exif=exif(orientation))
    photograph = decode(data, LIMITS)
    assert (photograph.width, photograph.height) == (96, 64)
    close(photograph, upright, 5)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def turned(upright: Image.Image, orientation: int) -> Image.Image:
    """The picture as a camera stores it that names this orientation."""
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    return upright.transpose(inverse[orientation]) if orientation in inverse else upright


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_avif_is_turned_by_its_boxes_and_not_again_by_exif(orientation: int) -> None:
    # Pillow moves the orientation of EXIF into boxes; cameras write both, some only EXIF, which then does not count.
    upright = sample(96, 64)
    tag = b"\x12\x01\x03\x00\x01\x00\x00\x00"
    tags = b"II*\0\x08\0\0\0\x01\0" + tag + bytes([orientation, 0, 0, 0]) + bytes(4)
    stored = turned(upright, orientation)
    moves = whole_boxes(encode(stored, "AVIF", quality=95, exif=exif(orientation)))
    close(decode(avif_with_exif(stored, tags, *moves), LIMITS), upright, 2)
    close(decode(avif_with_exif(stored, tags), LIMITS), stored, 2)


def whole_boxes(file: bytes) -> list[bytes]:
    return [boxes.whole(file, kind) for kind in (b"irot", b"imir") if kind in file]


@pytest.mark.parametrize("bits", [10, 12])
def test_more_bits_of_an_avif_are_scaled_not_clipped(bits: int) -> None:
    # Pillow writes 8 bits only.
    deep = (np.asarray(sample())[..., ::-1] * ((2**bits - 1) / 255)).astype(np.uint16)
    options = [cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_QUALITY, 95]
    close(decode(cv2.imencode(".avif", deep, options)[1].tobytes(), LIMITS), sample(), 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize(
    "broken",
    [b"", b"MM\x00*\xff\xff\xff\xff", b"II*\x00" + b"\xff" * 64, b"no TIFF at all"],
    ids=["empty", "cut off", "nonsense", "something else"],
)
def test_broken_exif_is_ignored(kind: str, broken: bytes) -> None:
    data = (
        avif_with_exif(sample(), broken)
        if kind == "AVIF"
        else encode(sample(), kind, quality=95, exif=b"Exif\x00\x00" + broken)
    )
    close(decode(data, LIMITS), sample(), 3)


def avif_with_exif(image: Image.Image, block: bytes, *moves: bytes) -> bytes:
    """An AVIF with any EXIF block, also one that Pillow would not write."""
    picture = boxes.encoded(image, quality=95, subsampling="4:4:4")
    return boxes.avif([picture.item(*image.size, *moves), boxes.Item(b"Exif", bytes(4) + block)], [(b"cdsc", 2, [1])])


def test_broken_exif_leaves_the_boxes_of_an_avif_in_force() -> None:
    moves = whole_boxes(encode(turned(sample(), 6), "AVIF", exif=exif(6)))
    close(decode(avif_with_exif(turned(sample(), 6), b"no TIFF at all", *moves), LIMITS), sample(), 2)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def xmp(kind: str) -> dict[str, Any]:
    """What makes Pillow write XMP that names an orientation."""
    if kind != "PNG":
        return {"xmp": XMP}
    texts = PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    return {"pnginfo": texts}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("software", [None, "Camera 1.0"])
def test_the_orientation_of_xmp_does_not_count(kind: str, software: str | None) -> None:
    tags = Image.Exif()
    if software:
        tags[ExifTags.Base.Software] = software
        # Pillow reads EXIF of such a JPEG, and XMP with it, when it is opened.
        tags[ExifTags.Base.ResolutionUnit], tags[ExifTags.Base.XResolution] = 2, 72.0
    data = encode(sample(), kind, quality=95, exif=tags, **xmp(kind))
    assert b"tiff:Orientation" in data
    close(decode(data, LIMITS), sample(), 3)


def test_exif_in_a_text_of_a_png_counts() -> None:
    block = exif(6).tobytes()
    texts = PngInfo()
    texts.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    close(decode(encode(turned(sample(), 6), "PNG", pnginfo=texts), LIMITS), sample(), 0)


def test_orientation_out_of_range_is_ignored() -> None:
    close(decode(encode(sample(), "PNG", exif=exif(77)), LIMITS), sample(), 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_large_pictures_are_brought_down_to_the_working_side(kind: str) -> None:
    data = encode(sample(1000, 600), kind, quality=95, exif=exif(6))
    photograph = decode(data, replace(LIMITS, working_side=200))
    assert photograph.pixels.shape == (200, 120, 3)
    assert (photograph.width, photograph.height) == (600, 1000)
    assert photograph.scale == pytest.approx(0.2)
    expected = sample(1000, 600).resize((200, 120), Image.Resampling.BOX).transpose(Image.Transpose.ROTATE_270)
    close(photograph, expected, 3)


def test_jpeg_is_never_drafted_below_the_working_side() -> None:
    for width in (399, 400, 401, 799, 801, 1601):
        photograph = decode(encode(sample(width, 300), "JPEG"), replace(LIMITS, working_side=200))
        assert max(photograph.pixels.shape) == 200


def test_smaller_pictures_are_not_enlarged() -> None:
    assert decode(encode(sample(), "PNG"), replace(LIMITS, working_side=96)).scale == 1.0


def test_icc_profile_is_converted_to_srgb() -> None:
    # A profile whose first channel is blue turns red into blue, so it would show if it were ignored.
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    swapped = swap_red_and_blue(srgb.tobytes())
    image = Image.new("RGB", (64, 64), (220, 40, 40))
    pixels = decode(encode(image, "PNG", icc_profile=swapped), LIMITS).pixels
    red, _, blue = pixels[0, 0]
    assert red < 90
    assert blue > 180
    for ignored in (srgb.tobytes(), lab.tobytes(), b"not a profile", swapped[:200]):
        close(decode(encode(image, "PNG", icc_profile=ignored), LIMITS), image, 0)
    red, _, blue = decode(encode(image, "AVIF", icc_profile=swapped), LIMITS).pixels[0, 0]
    assert red < 90
    assert blue > 180


def swap_red_and_blue(profile: bytes) -> bytes:
    """An RGB profile whose first channel is blue, under a description that does not say sRGB."""
    out = profile.replace(b"s\x00R\x00G\x00B", b"x\x00X\x00Y\x00Z").replace(b"sRGB", b"xXYZ")
    return out.replace(b"rXYZ", b"tmp!").replace(b"bXYZ", b"rXYZ").replace(b"tmp!", b"bXYZ")


def attempt(data: bytes, limits: DecodeLimits = LIMITS) -> Photograph | PhotographError:
    try:
        return decode(data, limits)
    except PhotographError as error:
        return error


def only_photograph_errors(data: bytes) -> None:
    outcome = attempt(data, replace(LIMITS, max_pixels=1_000_000))
    if isinstance(outcome, Photograph):
        assert outcome.pixels.shape == (*outcome.pixels.shape[:2], 3)
    else:
        assert outcome.code in CODES
        assert outcome.message


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {"exif": exif(6)}),
    ("JPEG", {"progressive": True}),
    ("PNG", {"exif": exif(3), "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}),
    ("WEBP", {"exif": exif(8)}),
    ("WEBP", {"lossless": True}),
    ("AVIF", {"exif": exif(6)}),
]
SEEDS = [encode(sample(40, 36), kind, **options) for kind, options in VARIANTS]
SEEDS += [encode(sample(40, 36).quantize(8), "PNG", transparency=2), encode(sample(40, 36).convert("CMYK"), "JPEG")]
MAGIC = [
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\x40\x00\x00\x00WEBPVP8X",
    b"\xff\xd8\xff\xe1\x00\x20Exif\x00\x00",
    b"\x00\x00\x00\x18ftypavif\0\0\0\0avifmif1",
]


@given(st.binary(max_size=300), st.sampled_from([b"", *MAGIC]))
@settings(max_examples=300, deadline=None)
def test_random_bytes_raise_nothing_else(tail: bytes, magic: bytes) -> None:
    only_photograph_errors(magic + tail)


@given(st.sampled_from(SEEDS), st.data())
@settings(max_examples=400, deadline=None)
def test_mutated_files_raise_nothing_else(seed: bytes, data: st.DataObject) -> None:
    mutated = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 8))):
        mutated[data.draw(st.integers(0, len(seed) - 1))] = data.draw(st.integers(0, 255))
    only_photograph_errors(
        bytes(mutated[: data.draw(st.integers(1, len(seed)))]) if data.draw(st.booleans()) else bytes(mutated)
    )


def test_mutated_headers_raise_nothing_else() -> None:
    rng = random.Random(7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3000):
            mutated = bytearray(rng.choice(SEEDS))
            for _ in range(rng.randint(1, 6)):
                mutated[rng.randrange(min(len(mutated), 160))] = rng.choice(
                    (0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))
                )
            only_photograph_errors(bytes(mutated))


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 30_000), st.integers(1, 200), st.integers(1, 200))
@settings(max_examples=100, deadline=None)
def test_what_is_decoded_is_within_the_limits(
    width: int, height: int, pixels: int, longest: int, shortest: int
) -> None:
    limits = DecodeLimits(max_pixels=pixels, max_side=longest, min_side=shortest, working_side=64)
    allowed = width * height <= pixels and max(width, height) <= longest and min(width, height) >= shortest
    data = encode(Image.new("RGB", (width, height)), "PNG")
    if allowed:
        assert max(decode(data, limits).pixels.shape[:2]) == min(64, max(width, height))
    else:
        with pytest.raises((ImageTooLargeError, ImageTooSmallError)):
            decode(data, limits)


def test_threads_decode_alike() -> None:
    profile = swap_red_and_blue(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data = encode(sample(), "JPEG", icc_profile=profile)
    expected = decode(data, LIMITS).pixels
    with ThreadPoolExecutor(8) as pool:
        for photograph in pool.map(lambda _: decode(data, LIMITS), range(64)):
            np.testing.assert_array_equal(photograph.pixels, expected)


def test_the_pillow_globals_are_left_alone() -> None:
    before = (Image.MAX_IMAGE_PIXELS, Image.open(io.BytesIO(encode(sample(), "PNG"))).size)
    decode(encode(sample(), "PNG"), LIMITS)
    assert before == (Image.MAX_IMAGE_PIXELS, (96, 64))
