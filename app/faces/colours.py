"""Any colours of a decoded file to 8-bit sRGB; what becomes of each is in the table of `app.faces.decode`."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms


def scale_transparent(image: Image.Image, bits: int) -> None:
    """Bring the transparent colour of a PNG to the 8 bits of its pixels; Pillow leaves it at those of the file.

    Args:
        image: before it is loaded; its ``info`` is changed. 16-bit greyscale is left alone, since it arrives whole.
        bits: of a channel in the file.
    """
    colour = image.info.get("transparency")
    if image.mode == "L" and isinstance(colour, int):
        most = 2**bits - 1
        image.info["transparency"] = (colour & most) * 255 // most
    elif image.mode == "RGB" and isinstance(colour, tuple) and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def to_eight_bits(image: Image.Image) -> Image.Image:
    """L, RGB, RGBA, CMYK or LA at 8 bits a channel: modes that can be filtered."""
    if image.mode.startswith("I"):  # Pillow reads 16-bit colour as its upper bytes; greyscale arrives whole
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        transparent = image.info.get("transparency")
        if transparent is None:
            return Image.fromarray(grey)
        return Image.fromarray(np.dstack([grey, np.where(values == transparent, 0, 255).astype(np.uint8)]))
    if image.mode == "P" or "transparency" in image.info:
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.convert("L") if image.mode == "1" else image


def to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Composite over white and convert to sRGB, through the embedded profile where it fits."""
    if image.mode in ("LA", "RGBA"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    if profile:
        image = _to_srgb(image, profile)
    return image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert by an ICC profile; the image itself if the profile is sRGB, broken or made for another mode."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
    except Exception:  # a broken profile costs colour fidelity, not the picture
        return image
