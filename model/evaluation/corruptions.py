"""Image corruptions of known strength, for curves of accuracy against JPEG quality, size, blur and others.

Each maps one chip, uint8 [112, 112, 3] RGB, to another; the parameter's name gives the unit of its strength.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from app.faces import TEMPLATE, similarity
from model.data.face_set import CHIP_SIDE

Chip = npt.NDArray[np.uint8]
Change = Callable[[Chip, float, np.random.Generator], Chip]

MASK_LEVEL, GLASSES_LEVEL = 128, 20
"""Grey level of an occluder."""


def _warp(chip: Chip, matrix: npt.NDArray[np.float64]) -> Chip:
    warped = cv2.warpAffine(
        chip, matrix, (CHIP_SIDE, CHIP_SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(warped, dtype=np.uint8)


def jpeg(chip: Chip, quality: float, _rng: np.random.Generator) -> Chip:
    """Compressed as JPEG of this quality, 1..95."""
    file = io.BytesIO()
    Image.fromarray(chip).save(file, "JPEG", quality=int(quality))
    return np.asarray(Image.open(file).convert("RGB"))


def small(chip: Chip, side: float, _rng: np.random.Generator) -> Chip:
    """Shrunk to this many pixels a side and enlarged again, like a distant face."""
    shrunk = cv2.resize(chip, (int(side), int(side)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(shrunk, (CHIP_SIDE, CHIP_SIDE), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def blur(chip: Chip, sigma: float, _rng: np.random.Generator) -> Chip:
    """Gaussian blur with this standard deviation, pixels."""
    return np.asarray(cv2.GaussianBlur(chip, (0, 0), sigma), dtype=np.uint8)


def brightness(chip: Chip, factor: float, _rng: np.random.Generator) -> Chip:
    """Multiplied by this factor and clipped."""
    return np.asarray(np.clip(chip * float(factor), 0, 255), dtype=np.uint8)


def mask(chip: Chip, share: float, _rng: np.random.Generator) -> Chip:
    """Covered from the bottom over this share of the height, as by a mask."""
    covered = chip.copy()
    covered[round(CHIP_SIDE * (1 - share)) :] = MASK_LEVEL
    return covered


def sunglasses(chip: Chip, height: float, _rng: np.random.Generator) -> Chip:
    """A dark band of this height, pixels, over both eyes."""
    covered, eyes = chip.copy(), float(TEMPLATE[:2, 1].mean())
    covered[round(eyes - height / 2) : round(eyes + height / 2)] = GLASSES_LEVEL
    return covered


def rotation(chip: Chip, degrees: float, rng: np.random.Generator) -> Chip:
    """Rotated in the image plane, in a random direction."""
    centre = (CHIP_SIDE / 2, CHIP_SIDE / 2)
    return _warp(chip, cv2.getRotationMatrix2D(centre, float(degrees * rng.choice([-1, 1])), 1.0).astype(np.float64))


def landmarks(chip: Chip, sigma: float, rng: np.random.Generator) -> Chip:
    """Aligned by landmarks with a normal error of this standard deviation, pixels of the chip."""
    return _warp(chip, similarity(TEMPLATE + rng.normal(0, sigma, TEMPLATE.shape), TEMPLATE))


@dataclass(frozen=True, slots=True)
class Corruption:
    """A kind of change with the strengths that are measured, from harmless to hard; brightness is hard at both ends."""

    title: str
    change: Change
    strengths: tuple[float, ...]


CORRUPTIONS: dict[str, Corruption] = {
    "jpeg": Corruption("JPEG quality", jpeg, (90, 50, 30, 20, 10, 5)),
    "small": Corruption("side, pixels", small, (80, 56, 40, 28, 20, 14)),
    "blur": Corruption("blur sigma, pixels", blur, (1, 1.5, 2, 3, 4)),
    "brightness": Corruption("brightness factor", brightness, (0.1, 0.25, 0.5, 1.5, 2, 3)),
    "mask": Corruption("covered from below, share", mask, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "sunglasses": Corruption("band over the eyes, pixels", sunglasses, (8, 16, 24, 32)),
    "rotation": Corruption("rotation, degrees", rotation, (5, 10, 15, 20, 30)),
    "landmarks": Corruption("landmark error sigma, pixels", landmarks, (1, 2, 3, 4, 6)),
}


def corrupt(chips: Chip, name: str, strength: float, seed: int = 0) -> Chip:
    """Every chip changed, uint8 [N, 112, 112, 3]; the same seed gives the same pixels."""
    change = CORRUPTIONS[name].change
    rng = np.random.default_rng(seed)
    return np.stack([change(chip, strength, rng) for chip in chips])
