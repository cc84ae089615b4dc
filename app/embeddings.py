"""Embeddings as numbers: unit vectors, squared distances, and fusing several templates of a subject into one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

EMBEDDING_SIZE = 128
MAX_DISTANCE = 4.0
UNIT_NORM_TOLERANCE = 1e-3
MOST_FUSED = 8
"""At most this many templates of a subject are fused, the newest ones: error rates of more were not measured."""

Embedding = npt.NDArray[np.float32]
"""float32 [128], unit length."""
Vectors = npt.NDArray[np.float32]
"""float32 [N, 128]."""


def have_unit_norm(vectors: Vectors) -> bool:
    """Whether every row is finite and has norm 1 within 1e-3."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return bool(np.all(np.abs(norms - 1.0) <= UNIT_NORM_TOLERANCE))


def squared_distances(probe: Embedding, vectors: Vectors) -> npt.NDArray[np.float32]:
    """float32 [N], each 0..4: squared L2 between the probe and every row, independent of the other rows."""
    distances: npt.NDArray[np.float32] = np.square(vectors - probe).sum(axis=1)
    return np.clip(distances, 0.0, MAX_DISTANCE)


def squared_distance(a: Embedding, b: Embedding) -> float:
    """Squared L2 between two embeddings, 0..4."""
    return float(squared_distances(a, b[np.newaxis])[0])


def fuse(templates: Vectors) -> Vectors:
    """The mean direction of the templates of each subject: unit-length [S, K, D] -> unit-length [S, 1, D].

    At an equal false match rate, the mean has a lower false non-match rate than the nearest template, because the
    peculiarities of single photographs average out. If the templates cancel out, which photographs of one person never
    do, the last one is returned. A single template is returned as it is.
    """
    if templates.shape[1] == 1:
        return templates
    mean = templates.mean(axis=1, dtype=np.float64, keepdims=True)
    length = np.linalg.norm(mean, axis=2, keepdims=True)
    direction = np.where(length > 1e-6, mean / np.maximum(length, 1e-6), templates[:, -1:])
    fused: Vectors = direction.astype(np.float32)
    return fused


def fused_template(templates: Vectors, most: int = MOST_FUSED) -> Vectors:
    """The newest ``most`` templates of one subject fused: unit-length [K, D], oldest first -> [D]."""
    result: Vectors = fuse(templates[np.newaxis, -most:])[0, 0]
    return result
