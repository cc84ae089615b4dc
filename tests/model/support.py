"""Made-up faces and embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

CHIP_SIDE = 112


def unit_vectors(count: int, size: int = 16, seed: int = 0) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_chips(identity: list[int], seed: int = 0) -> npt.NDArray[np.uint8]:
    """Each identity is a coarse pattern of colours, each photograph of it has noise of its own."""
    rng = np.random.default_rng(seed)
    patterns = {i: rng.integers(0, 256, (7, 7, 3)) for i in sorted(set(identity))}
    chips = np.stack([patterns[i].repeat(16, axis=0).repeat(16, axis=1) for i in identity])
    noisy: npt.NDArray[Any] = np.clip(chips + rng.normal(0, 12, chips.shape), 0, 255)
    return noisy.astype(np.uint8)
