"""Photographs of known people: two that come with the test dependencies, and LFW where it is at hand."""

from __future__ import annotations

import io
import tarfile
from functools import cache
from pathlib import Path

import matplotlib.cbook
import skimage.data
from PIL import Image, ImageFilter

from tests.shared_data import LFW

GREY = (123, 117, 104)


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@cache
def collins() -> Image.Image:
    """Eileen Collins, 512x512 (NASA)."""
    return Image.fromarray(skimage.data.astronaut())


@cache
def hopper() -> Image.Image:
    """Grace Hopper, 512x600 (US Navy)."""
    with Path(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).open("rb") as file:
        return Image.open(file).convert("RGB")


def variants(image: Image.Image) -> dict[str, bytes]:
    """The same photograph, changed in ways that leave the person the same."""
    width, height = image.size
    edge = width // 16
    return {
        "compressed": jpeg(image, 50),
        "png": png(image),
        "smaller": jpeg(image.resize((width * 3 // 4, height * 3 // 4))),
        "larger": jpeg(image.resize((width * 5 // 4, height * 5 // 4))),
        "cropped": jpeg(image.crop((edge, edge, width - edge, height - edge))),
        "mirrored": jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    }


@cache
def two_faces() -> bytes:
    """Collins large and Hopper small, side by side."""
    image = Image.new("RGB", (720, 512), GREY)
    image.paste(collins(), (0, 0))
    image.paste(hopper().resize((130, 152), Image.Resampling.LANCZOS), (550, 20))
    return jpeg(image, 95)


@cache
def two_alike() -> bytes:
    """Collins and Hopper side by side, her face hardly smaller."""
    image = Image.new("RGB", (860, 512), GREY)
    image.paste(collins(), (0, 0))
    image.paste(hopper().resize((205, 240), Image.Resampling.LANCZOS), (545, 20))
    return jpeg(image, 95)


def tiled(columns: int, rows: int, side: int) -> Image.Image:
    """Collins's head again and again, each so many pixels wide."""
    head = collins().crop((110, 0, 350, 240)).resize((side, side), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (columns * side, rows * side), GREY)
    for number in range(columns * rows):
        canvas.paste(head, (number % columns * side, number // columns * side))
    return canvas


@cache
def blank() -> bytes:
    """No face at all."""
    return jpeg(Image.new("RGB", (320, 240), GREY))


@cache
def blurred() -> bytes:
    """A face that is found but too blurred to be enrolled."""
    return jpeg(collins().filter(ImageFilter.GaussianBlur(5)))


@cache
def lfw_people(count: int) -> dict[str, tuple[bytes, ...]]:
    """Photographs of the first ``count`` LFW people who have two or more; empty where LFW is not at hand."""
    if not LFW.is_file():
        return {}
    photographs: dict[str, list[bytes]] = {}
    with tarfile.open(LFW) as archive:
        for member in archive:
            parts = Path(member.name).parts
            if len(parts) != 3 or not member.isfile():
                continue
            file = archive.extractfile(member)
            assert file is not None
            photographs.setdefault(parts[1], []).append(file.read())
            complete = {n: tuple(p) for n, p in photographs.items() if len(p) > 1 and n != parts[1]}
            if len(complete) >= count:
                return dict(list(complete.items())[:count])
    raise AssertionError(f"LFW has fewer than {count} people with two photographs")
