from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from app.faces import Photograph, YunetDetector
from app.types import Pixels


@pytest.fixture(scope="session")
def astronaut() -> Pixels:
    """One face, uint8 [512, 512, 3]."""
    pixels: Pixels = skimage.data.astronaut()
    return pixels


@pytest.fixture(scope="session")
def detector() -> YunetDetector:
    return YunetDetector()


def encode(image: Image.Image | Pixels, kind: str, **options: Any) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def photograph(pixels: Pixels) -> Photograph:
    return Photograph(pixels=np.ascontiguousarray(pixels), format="PNG", width=pixels.shape[1], height=pixels.shape[0])
