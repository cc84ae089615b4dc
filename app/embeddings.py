"""Embeddings as numbers: unit vectors, their squared distance, and several templates of one subject made one vector."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

EMBEDDING_SIZE = 128
MAX_DISTANCE = 4.0
UNIT_NORM_TOLERANCE = 1e-3
MOST_FUSED = 8
"""At most this many templates of a subject are fused, the newest: error rates of more were not measured."""

Embedding = npt.NDArray[np.float32]
"""float32 [128], unit length."""
Vectors = npt.NDArray[np.float32]
"""float32 [N, 128]."""


def have_unit_norm(vectors: Vectors) -> bool:
    """Whether every row is finite and has norm 1 within 1e-3."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return bool(np.all(np.abs(norms - 1.0) <= UNIT_NORM_TOLERANCE))


def squared_distances(probe: Embedding, vectors: Vectors) -> npt.NDArray[np.float32]:
    """float32 [N], each 0..4: squared L2 between the probe and every row, the same whatever else is in the rows."""
    distances: npt.NDArray[np.float32] = np.square(vectors - probe).sum(axis=1)
    return np.clip(distances, 0.0, MAX_DISTANCE)


def squared_distance(a: Embedding, b: Embedding) -> float:
    """The same of two embeddings."""
    return float(squared_distances(a, b[np.newaxis])[0])


def fuse(templates: Vectors) -> Vectors:
    """The mean direction of the templates of each subject: unit-length [S, K, D] -> unit-length [S, 1, D].

    At an equal false match rate the mean misses the subject less often than the nearest of the templates does, since
    what is particular to one photograph averages out. Templates that cancel each other to nothing, which no
    photographs of one person do, give their last. One template is given back as it is.
    """
    if templates.shape[1] == 1:
        return templates
    mean = templates.mean(axis=1, dtype=np.float64, keepdims=True)
    length = np.linalg.norm(mean, axis=2, keepdims=True)
    direction = np.where(length > 1e-6, mean / np.maximum(length, 1e-6), templates[:, -1:])
    fused: Vectors = direction.astype(np.float32)
    return fused


def fused_template(templates: Vectors) -> Vectors:
    """What stands for one subject: unit-length [K, D], the oldest first -> [D]."""
    result: Vectors = fuse(templates[np.newaxis, -MOST_FUSED:])[0, 0]
    return result
