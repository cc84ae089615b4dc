"""Bytes to an upright 8-bit RGB photograph.

The first bytes decide the format, never a file name. Dimensions are checked in the header, before memory for the
picture is allocated. `decode` raises nothing but a `PhotographError`, whatever the bytes.

===================================  ==================================================================================
what comes in                        what comes out
===================================  ==================================================================================
JPEG, PNG, WebP, AVIF                decoded; the long side is brought down to ``working_side`` where it is longer
no bytes                             ``empty_image``
no known magic bytes                 ``unsupported_image_format``
GIF, TIFF, BMP, HEIC, ...            ``unsupported_image_format``; ``details["format"]`` names it
too many bytes, pixels, long side    ``image_too_large``
a side below ``min_side``            ``image_too_small``
several frames (APNG, WebP, AVIF)    ``animated_image``
ends early                           ``truncated_image``
cannot be decoded                    ``corrupt_image`` (also JPEG variants that libjpeg lacks)
more scans, segments, chunks or      ``corrupt_image`` (the limits are in ``app.faces.containers``, ``isobmff``, ``av1``
items than any photograph has        and below)
AVIF: tiles, alpha, thumbnails,      all their pixels count; whatever is unknown, layered or cropped by its header is
gain maps                            ``corrupt_image``
multi-picture JPEG (MPO)             its first picture, which is the photograph
EXIF orientation 1 to 8              applied; missing, broken or out of range: taken as 1; that of XMP does not count
AVIF ``irot`` and ``imir``           applied, and the EXIF orientation is not, as the format says
8-bit RGB, greyscale, 1-bit          RGB; greyscale and 1-bit in three equal channels
10 and 12 bits a channel (AVIF)      scaled to 8; the curve of HDR stays, which moves an embedding by 0.04
16 bits a channel                    the upper 8 bits of each value (v >> 8): scaled, not clipped
CMYK, YCCK                           RGB, through the embedded profile if there is one; Adobe's inverted inks undone
palette                              RGB
alpha, transparent colour            composited over white, the usual ground of cut-out portraits; a transparent colour
                                     of 16 bits a channel is told by the upper 8, a grey by all 16
embedded ICC profile                 converted to sRGB (perceptual intent); sRGB, broken or unfitting ones are ignored
===================================  ==================================================================================
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import AvifImagePlugin, ExifTags, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

from app.faces import containers, isobmff
from app.faces.budget import WorkBudget
from app.faces.colours import scale_transparent, to_eight_bits, to_rgb
from app.faces.errors import (
    AnimatedImageError,
    CorruptImageError,
    EmptyImageError,
    ImageTooLargeError,
    ImageTooSmallError,
    PhotographError,
    TooMuchWorkError,
    TruncatedImageError,
    UnsupportedFormatError,
)
from app.faces.types import Photograph
from app.memory import give_back
from app.types import Pixels

# The plugins are called directly: `Image.open` would judge sizes by the process-wide `Image.MAX_IMAGE_PIXELS`, and
# would open a multi-picture JPEG as an animation.
_OPENERS: dict[str, Callable[[io.BytesIO], ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    **({"AVIF": AvifImagePlugin.AvifImageFile} if AvifImagePlugin.SUPPORTED else {}),
}
FORMATS = ", ".join([*_OPENERS][:-1]) + " or " + [*_OPENERS][-1]
"""What is read, as words."""
_HINTS = {
    "HEIC": "Send a JPEG: on an iPhone, Settings, Camera, Formats, Most Compatible makes its camera write them, and "
    "browsers on it convert what they upload where a page asks for JPEG.",
}
# Process-wide, as Pillow has it; its default is every core of the machine for each picture.
AvifImagePlugin.DEFAULT_MAX_THREADS = 2
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_SCANS = 100
"""A progressive JPEG may repeat scans over the whole picture at a few bytes each. Encoders write about ten."""
MAX_SCANNED_PIXELS = 800_000_000
"""Scans times pixels of a JPEG: 16 scans of the largest photograph. The worst of them, arithmetic-coded refinements,
cost 1.5 ns each, and a photograph may be decoded twice (`benchmarks.attacks`)."""
_LARGE = 4_000_000
"""Pixels of a file; the memory that larger ones were decoded in is given back at once."""


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What `decode` accepts.

    Attributes:
        max_bytes: size of the file, bytes.
        max_pixels: width times height from the header.
        max_side: longer side, pixels.
        min_side: shorter side, pixels; a face in a smaller picture is useless to any encoder.
        working_side: the decoded picture's long side is brought down to this many pixels; smaller ones are left alone.
        coarse_side: in a coarse pass, a JPEG is decoded at a half, a quarter or an eighth of its size if its long side
            still has this many pixels.
    """

    max_bytes: int = 16 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_side: int = 16_384
    min_side: int = 16
    working_side: int = 2048
    coarse_side: int = 960


def decode(data: bytes, limits: DecodeLimits, *, coarse: bool = False, budget: WorkBudget | None = None) -> Photograph:
    """Decode a photograph, upright and in sRGB as far as the file describes it.

    Args:
        data: the whole file.
        limits: what is accepted.
        coarse: less detail is enough at first; the photograph's ``more_detail`` says whether any was left out.
        budget: pays for the photograph's pixels, before they are decoded; those of a JPEG are counted as they are
            decoded without ``coarse``, which for large ones is a quarter or less: so is the time they take. Of an AVIF,
            tiles, alpha, thumbnails and gain maps are paid for as well.

    Returns:
        The photograph; ``pixels`` is uint8 [H, W, 3], RGB, contiguous and writable. ``scale`` is the ratio of the long
        sides, which is the ratio of the widths up to the rounding of a pixel.

    Raises:
        PhotographError: one of its subclasses, see the table in the module's description.
        TooMuchWorkError: the budget does not suffice.
    """
    kind = _check_bytes(data, limits)
    container = _container(data, kind)
    try:
        photograph = _decode(data, kind, container, limits, coarse, budget)
    except (PhotographError, TooMuchWorkError):
        raise
    except Exception as error:  # Pillow's parsers raise nearly every built-in type on hostile bytes
        if not container.complete:
            raise _truncated(kind) from error
        raise CorruptImageError(
            f"The {kind} file cannot be decoded: it is damaged or uses a variant that is not supported. "
            "Open it in an image editor and save it again as JPEG or PNG.",
            format=kind,
        ) from error
    if photograph.width * photograph.height > _LARGE and not photograph.more_detail:
        give_back()
    return photograph


def _check_bytes(data: bytes, limits: DecodeLimits) -> str:
    """Check length and magic bytes; return the name of the format."""
    if not data:
        raise EmptyImageError(f"The file is empty. Send the photograph itself as {FORMATS}.")
    if len(data) > limits.max_bytes:
        raise ImageTooLargeError(
            f"The file has {len(data) / 1e6:.1f} MB; at most {limits.max_bytes / 1e6:.1f} MB are taken "
            f"({limits.max_bytes} bytes). Scale the photograph down.",
            bytes=len(data),
            max_bytes=limits.max_bytes,
        )
    kind = containers.sniff(data)
    if kind is None:
        raise UnsupportedFormatError(f"The file is not an image. Send a photograph as {FORMATS}.")
    if kind not in _OPENERS:
        hint = _HINTS.get(kind, f"Convert the photograph to {FORMATS}.")
        raise UnsupportedFormatError(f"{kind} files are not read. {hint}", format=kind)
    return kind


def _container(data: bytes, kind: str) -> containers.Container:
    """How the file is put together, if it is within the limits."""
    try:
        if kind == "AVIF":
            return containers.Container(complete=True, pictures=isobmff.pictures(data))
        return containers.follow(data, kind)
    except isobmff.CutOffError as error:
        raise _truncated(kind) from error
    except isobmff.SequenceError as error:
        raise AnimatedImageError(f"The {kind} file is animated. Send a single photograph.") from error
    except containers.ContainerError as error:
        raise CorruptImageError(
            f"The {kind} file is not made like a photograph: {error}. "
            "Open it in an image editor and save it again as JPEG or PNG.",
            format=kind,
        ) from error


def _pay(pictures: containers.Pictures, limits: DecodeLimits, budget: WorkBudget | None) -> None:
    """Check and pay for all pictures of a file before its decoder sees any of them."""
    _check_size(pictures.width, pictures.height, limits)
    if pictures.pixels > limits.max_pixels:
        raise ImageTooLargeError(
            f"The pictures in the file have {pictures.pixels} pixels together; at most {limits.max_pixels} are "
            "accepted. Scale the photograph down, or save it without transparency and gain map.",
            width=pictures.width,
            height=pictures.height,
            max_pixels=limits.max_pixels,
            max_side=limits.max_side,
        )
    if budget is not None:
        budget.spend(pictures.pixels)


def _decode(
    data: bytes,
    kind: str,
    container: containers.Container,
    limits: DecodeLimits,
    coarse: bool,
    budget: WorkBudget | None,
) -> Photograph:
    """Decode a file of known format; may raise anything."""
    if kind == "WebP":
        # The WebP decoder allocates its canvas when it is opened, and reports a short file only as a failure.
        size = containers.webp_size(data)
        _check_size(*size, limits)
        if not container.complete:
            raise _truncated(kind)
        if budget is not None:
            budget.spend(size[0] * size[1])
    if container.pictures is not None:
        _pay(container.pictures, limits, budget)
    with _OPENERS[kind](_without_exif(data, container.pictures)) as image:
        width, height = image.size
        _check_size(width, height, limits)
        if container.pictures is not None and image.size != (container.pictures.width, container.pictures.height):
            raise ValueError("the decoder understands the file otherwise")
        if getattr(image, "is_animated", False):
            raise AnimatedImageError(
                f"The {kind} file is animated. Send a single photograph.", frames=getattr(image, "n_frames", None)
            )
        scale_transparent(image, bits=data[24] if kind == "PNG" else 8)
        divisor = _divisor(image.size, limits.working_side) if kind == "JPEG" else 1
        if kind == "JPEG":
            _check_scans(container.scans, width * height)
        if kind not in ("WebP", "AVIF") and budget is not None:
            budget.spend(width * height // divisor**2)
        coarser = _divisor(image.size, limits.coarse_side) if coarse and kind == "JPEG" else divisor
        if coarser > 1:
            image.draft(None, (width // coarser, height // coarser))
        return _photograph(image, kind, limits, (width, height), more_detail=coarser > divisor)


def _without_exif(data: bytes, pictures: containers.Pictures | None) -> io.BytesIO:
    """The file; an AVIF without its EXIF, which never counts: the decoder would refuse the file if that is broken."""
    file = io.BytesIO(data)
    for place in pictures.exif if pictures is not None else ():
        file.seek(place)
        file.write(b"skip")  # a kind of item that decoders do not know
    file.seek(0)
    return file


def _photograph(
    image: ImageFile, kind: str, limits: DecodeLimits, size: tuple[int, int], *, more_detail: bool
) -> Photograph:
    """Decode an opened file whose header says ``size``, width and height."""
    width, height = size
    image.load()
    orientation = _orientation(image)
    profile = image.info.get("icc_profile")
    decoded = _shrink(to_eight_bits(image), limits.working_side)
    decoded = to_rgb(decoded, profile)
    scale = min(1.0, max(decoded.size) / max(width, height))
    if orientation in _TRANSPOSES:
        decoded = decoded.transpose(_TRANSPOSES[orientation])
        if orientation >= 5:
            width, height = height, width
    pixels: Pixels = np.array(decoded, dtype=np.uint8)
    return Photograph(pixels=pixels, format=kind, width=width, height=height, scale=scale, more_detail=more_detail)


def _check_scans(scans: int, pixels: int) -> None:
    """Check what the scans of a JPEG would cost before they are decoded."""
    if scans > MAX_SCANS or scans * pixels > MAX_SCANNED_PIXELS:
        raise CorruptImageError(
            f"The JPEG file has {scans} scans of {pixels} pixels; at most {MAX_SCANS} scans, and {MAX_SCANNED_PIXELS} "
            "pixels in all of them, are decoded. Save it again as baseline JPEG.",
            format="JPEG",
            scans=scans,
        )


def _check_size(width: int, height: int, limits: DecodeLimits) -> None:
    """Check the size in the header before pixels are allocated."""
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise ImageTooLargeError(
            f"The picture is {width} x {height}; at most {limits.max_pixels} pixels and {limits.max_side} a side are "
            "accepted. Scale the photograph down.",
            width=width,
            height=height,
            max_pixels=limits.max_pixels,
            max_side=limits.max_side,
        )
    if min(width, height) < limits.min_side:
        raise ImageTooSmallError(
            f"The picture is {width} x {height}; each side needs at least {limits.min_side} pixels. "
            "Send a larger photograph.",
            width=width,
            height=height,
            min_side=limits.min_side,
        )


def _truncated(kind: str) -> TruncatedImageError:
    return TruncatedImageError(
        f"The {kind} file ends before the picture does. It was probably cut off on the way; send it again.", format=kind
    )


def _divisor(size: tuple[int, int], side: int) -> int:
    """By how much the JPEG decoder may reduce (8, 4, 2 or 1) so that the long side still has ``side`` pixels."""
    return next((d for d in (8, 4, 2) if max(size) // d >= side and min(size) >= d), 1)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 if it is missing or invalid."""
    # Where EXIF names none, Pillow takes that of XMP, which no viewer does: it is shown nothing but EXIF.
    bare = Image.Image()
    bare.info = {name: image.info[name] for name in ("exif", "Raw profile type exif") if name in image.info}
    try:
        value = bare.getexif().get(ExifTags.Base.Orientation, 1)
        return int(value) if int(value) in _TRANSPOSES else 1
    except Exception:  # broken EXIF raises nearly every built-in type, but the picture may be fine
        return 1


def _shrink(image: Image.Image, working_side: int) -> Image.Image:
    """Shrink the long side to ``working_side``; returns a copy or the image itself, never enlarged."""
    long_side = max(image.size)
    if long_side <= working_side:
        return image
    width, height = (max(1, round(side * working_side / long_side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
