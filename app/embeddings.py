"""Several templates of one subject -> the one vector that probes are compared with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MOST_FUSED = 8
"""So many templates of a subject are fused at most, the newest: error rates of more were not measured."""

Vectors = npt.NDArray[np.float32]


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
