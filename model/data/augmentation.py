"""Random augmentations that preserve identity: geometry, blur, colour, occlusion, borders, compression.

Each maps float [B, 3, H, W] in 0..255 to the same shape and draws from the generator passed in.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor
from torch.nn import functional

from app.types import OUTSIDE_COLOUR


class Augmentation(BaseModel):
    """Strength of each augmentation; probabilities are per image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rotation_degrees: float = Field(default=6.0, ge=0)
    scale: float = Field(default=0.08, ge=0, lt=1)
    shift_pixels: float = Field(default=4.0, ge=0)
    blur_probability: float = Field(default=0.25, ge=0, le=1)
    grey_probability: float = Field(default=0.1, ge=0, le=1)
    colour_probability: float = Field(default=0.6, ge=0, le=1)
    erase_probability: float = Field(default=0.15, ge=0, le=1)
    noise_probability: float = Field(default=0.15, ge=0, le=1)
    cover_probability: float = Field(default=0, ge=0, le=1)
    jpeg_probability: float = Field(default=0, ge=0, le=1)
    crop_probability: float = Field(default=0, ge=0, le=1)


def _uniform(low: float, high: float, size: int, rng: Generator) -> Tensor:
    return low + (high - low) * torch.rand(size, generator=rng)


def _chosen(probability: float, size: int, rng: Generator) -> Tensor:
    return (torch.rand(size, generator=rng) < probability).nonzero(as_tuple=True)[0]


def geometry(x: Tensor, config: Augmentation, rng: Generator) -> Tensor:
    """Flips half of the images and moves each by a small similarity transform.

    The uncovered area is filled by repeating the edge, or with one random flat colour for half of the images: tight
    source crops have painted borders, which must not become a feature.
    """
    size, side = len(x), x.shape[-1]
    angle = _uniform(-config.rotation_degrees, config.rotation_degrees, size, rng) * (math.pi / 180)
    zoom = 1 + _uniform(-config.scale, config.scale, size, rng)
    mirror = torch.where(torch.rand(size, generator=rng) < 0.5, -1.0, 1.0)
    limit = 2 * config.shift_pixels / side
    shift = torch.stack([_uniform(-limit, limit, size, rng) for _ in range(2)], dim=1)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = torch.stack([cos * mirror, -sin, sin * mirror, cos], dim=1).view(size, 2, 2)
    grid = functional.affine_grid(torch.cat([rows, shift[:, :, None]], dim=2), list(x.shape), align_corners=False)
    moved = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    painted = _chosen(0.5, size, rng)
    outside = (grid[painted].abs() > 1).any(dim=3)[:, None]
    colour = _uniform(0, 255, len(painted) * 3, rng).view(-1, 3, 1, 1)
    moved[painted] = torch.where(outside, colour, moved[painted])
    return moved


def blur(x: Tensor, config: Augmentation, rng: Generator) -> Tensor:
    """Downscales some images to 20-70 % and upscales them again, to imitate small or distant faces."""
    chosen = _chosen(config.blur_probability, len(x), rng)
    side = x.shape[-1]
    for part in chosen.chunk(4):
        small = int(side * float(_uniform(0.2, 0.7, 1, rng)))
        shrunk = functional.interpolate(x[part], size=small, mode="area")
        x[part] = functional.interpolate(shrunk, size=side, mode="bilinear", align_corners=False)
    return x


def colour(x: Tensor, config: Augmentation, rng: Generator) -> Tensor:
    """Changes brightness, contrast, saturation and white balance of some images and turns some grey."""
    chosen = _chosen(config.colour_probability, len(x), rng)
    y, size = x[chosen], len(chosen)
    contrast, saturation = (_uniform(0.7, 1.3, size, rng).view(-1, 1, 1, 1) for _ in range(2))
    gain = _uniform(0.9, 1.1, size * 3, rng).view(-1, 3, 1, 1)
    brightness = _uniform(-30, 30, size, rng).view(-1, 1, 1, 1)
    middle = y.mean(dim=(1, 2, 3), keepdim=True)
    luma = y.mean(dim=1, keepdim=True)
    y = (luma + (y - luma) * saturation) * gain
    x[chosen] = (middle + (y - middle) * contrast + brightness).clamp(0, 255)
    grey = _chosen(config.grey_probability, len(x), rng)
    x[grey] = x[grey].mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    return x


def erase(x: Tensor, config: Augmentation, rng: Generator) -> Tensor:
    """Covers a rectangle of some images with one colour (Zhong et al. 2020, arXiv 1708.04896)."""
    side = x.shape[-1]
    for i in _chosen(config.erase_probability, len(x), rng).tolist():
        height, width = (int(v) for v in _uniform(0.1 * side, 0.45 * side, 2, rng))
        top = int(torch.randint(side - height, (1,), generator=rng))
        left = int(torch.randint(side - width, (1,), generator=rng))
        x[i, :, top : top + height, left : left + width] = _uniform(0, 255, 3, rng).view(3, 1, 1)
    return x


def noise(x: Tensor, config: Augmentation, rng: Generator) -> Tensor:
    """Adds normal noise of 2-15 grey levels to some images."""
    chosen = _chosen(config.noise_probability, len(x), rng)
    level = _uniform(2, 15, len(chosen), rng).view(-1, 1, 1, 1)
    x[chosen] = (x[chosen] + level * torch.randn(x[chosen].shape, generator=rng)).clamp(0, 255)
    return x


def cover(x: Tensor, config: Augmentation, rng: Generator) -> Tensor:
    """Covers the lower face of some images like a mask, or both eyes like sunglasses, in one colour.

    Rows follow the alignment template: eyes at 52, nose at 72, mouth at 92 of 112.
    """
    side = x.shape[-1]
    for i in _chosen(config.cover_probability, len(x), rng).tolist():
        low, high, which = (float(v) for v in torch.rand(3, generator=rng))
        bottom, top = (1.0, 0.55 + 0.15 * low) if which < 0.5 else (0.5 + 0.1 * high, 0.42 - 0.08 * low)
        x[i, :, round(top * side) : round(bottom * side)] = _uniform(0, 255, 3, rng).view(3, 1, 1)
    return x


def crop(x: Tensor, config: Augmentation, rng: Generator) -> Tensor:
    """Imitates tight, possibly rotated crops on some images: the area outside is grey (123, 117, 104) or black.

    Each edge moves inwards by up to a fifth of the side; the crop is rotated by up to 20 degrees about the centre.
    """
    chosen, side = _chosen(config.crop_probability, len(x), rng), x.shape[-1]
    if len(chosen) == 0:
        return x
    angle = _uniform(-20, 20, len(chosen), rng).view(-1, 1, 1) * (math.pi / 180)
    across = torch.linspace(-1, 1, side)
    u = across[None, None, :] * torch.cos(angle) + across[None, :, None] * torch.sin(angle)
    v = across[None, :, None] * torch.cos(angle) - across[None, None, :] * torch.sin(angle)
    edges = _uniform(0.6, 1.2, 4 * len(chosen), rng).view(4, -1, 1, 1)
    inside = (u < edges[0]) & (-u < edges[1]) & (v < edges[2]) & (-v < edges[3])
    shown = (torch.rand(len(chosen), generator=rng) < 0.5).view(-1, 1, 1, 1)
    beyond = torch.tensor(OUTSIDE_COLOUR, dtype=torch.float32).view(1, 3, 1, 1) * shown
    x[chosen] = torch.where(inside[:, None], x[chosen], beyond)
    return x


def jpeg(x: Tensor, config: Augmentation, rng: Generator) -> Tensor:
    """Compresses some images as JPEG, quality 15 to 85."""
    chosen = _chosen(config.jpeg_probability, len(x), rng)
    qualities = _uniform(15, 85, len(chosen), rng).tolist()
    for i, quality in zip(chosen.tolist(), qualities, strict=True):
        pixels = x[i].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=int(quality))
        x[i] = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float()
    return x


def augment(chips: Tensor, config: Augmentation, rng: Generator) -> Tensor:
    """uint8 [B, H, W, 3] -> augmented float [B, 3, H, W] in 0..255; the input is not modified."""
    x = chips.permute(0, 3, 1, 2).float()
    for change in (geometry, blur, colour, erase, noise):
        x = change(x, config, rng)
    # Drawn only where configured, so that older recipes keep their random numbers.
    if config.crop_probability:
        x = crop(x, config, rng)
    if config.cover_probability:
        x = cover(x, config, rng)
    if config.jpeg_probability:
        x = jpeg(x, config, rng)
    return x
