"""Made-up faces and embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

CHIP_SIDE = 112


def unit_vectors(count: int, size: int = 16, seed: int = 0) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def small_backbone(*widths: int, embedding_size: int = 128, **changes: Any) -> dict[str, Any]:
    """A network with one residual block a width, each but the first halving the map."""
    stages = [{"width": width, "depth": 1, "stride": 2 if number else 1} for number, width in enumerate(widths)]
    return {"stem": {"width": widths[0]}, "stages": stages, "embedding_size": embedding_size, **changes}


def make_chips(identity: list[int], seed: int = 0) -> npt.NDArray[np.uint8]:
    """Each identity is a coarse pattern of colours, each photograph of it has noise of its own."""
    rng = np.random.default_rng(seed)
    patterns = {i: rng.integers(0, 256, (7, 7, 3)) for i in sorted(set(identity))}
    chips = np.stack([patterns[i].repeat(16, axis=0).repeat(16, axis=1) for i in identity])
    noisy: npt.NDArray[Any] = np.clip(chips + rng.normal(0, 12, chips.shape), 0, 255)
    return noisy.astype(np.uint8)
