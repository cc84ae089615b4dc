"""Label cleaning by teacher embeddings: a face far from all others of its identity is probably someone else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.data.face_set import UNLABELLED


def without_outliers(
    embeddings: npt.NDArray[np.float32], identity: npt.NDArray[np.int64], max_distance: float
) -> npt.NDArray[np.int64]:
    """Identities, int64 [N], with ``UNLABELLED`` for each face that is far from the centre of its identity.

    embeddings: unit-length [N, D]. ``max_distance`` is the squared distance to the centre of the identity's *other*
    faces, scaled to unit length, so that an outlier does not pull the centre towards itself. If an identity has two
    faces and they are far apart, both lose their label.
    """
    cleaned = identity.copy()
    labelled = np.flatnonzero(identity != UNLABELLED)
    order = labelled[np.argsort(identity[labelled], kind="stable")]
    starts = np.flatnonzero(np.diff(identity[order], prepend=UNLABELLED - 1))
    for members in np.split(order, starts[1:]):
        if len(members) < 2:
            continue
        own = embeddings[members]
        centres = own.sum(axis=0) - own
        centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
        cleaned[members[2 - 2 * (own * centres).sum(axis=1) > max_distance]] = UNLABELLED
    return cleaned
