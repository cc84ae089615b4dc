"""Data passed between the steps from photograph to aligned face: frozen dataclasses over numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.types import Pixels

Landmarks = npt.NDArray[np.float32]
"""float32 [5, 2], x and y in pixels: the eye on the left of the picture, the other eye, nose tip, mouth corners."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """A decoded picture, upright.

    ``pixels`` may be smaller than the original: ``scale`` is decoded width / original width (1 or less), and ``width``
    and ``height`` are the upright original's, in pixels. ``more_detail``: the file could be decoded in more detail.
    """

    pixels: Pixels
    format: str
    width: int
    height: int
    scale: float = 1.0
    more_detail: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels; it may reach beyond the picture."""

    x: float
    y: float
    width: float
    height: float

    @property
    def side(self) -> float:
        """Side of the square of the same area, pixels."""
        return math.sqrt(self.width * self.height)


@dataclass(frozen=True, slots=True)
class DetectedFace:
    """One face of a photograph, in pixels of ``Photograph.pixels``; in an ``AlignedFace``, of the upright original.

    ``confidence`` is the detector's, 0..1. ``turned``: by how many degrees clockwise the picture was turned to find it
    upright: 0, 90, 180 or 270; box and landmarks are in the picture as it was, and "left" is left of the upright face.
    """

    box: Box
    landmarks: Landmarks
    confidence: float
    turned: int = 0


@dataclass(frozen=True, slots=True)
class Quality:
    """Measures of one face; ``issues`` names every measure outside its limits.

    eye_distance: between the eyes in the original, pixels. sharpness: variance of the Laplacian of the grey chip.
    brightness: mean grey level of the chip, 0..255. contrast: standard deviation of its grey levels.
    yaw: horizontal offset of the nose tip from the middle of the eyes, as a share of the eye distance, 0 = frontal,
    negative to the left of the picture. roll: inclination of the line through the eyes, degrees, clockwise positive.
    confidence: the detector's, 0..1.
    """

    eye_distance: float
    sharpness: float
    brightness: float
    contrast: float
    yaw: float
    roll: float
    confidence: float
    issues: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AlignedFace:
    """A face ready to be encoded: ``chip`` is uint8 [112, 112, 3], RGB."""

    detected: DetectedFace
    chip: Pixels
    quality: Quality
