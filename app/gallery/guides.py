"""What leads a search to the vectors that are likely to be nearest, without comparing the probe with all of them."""

from __future__ import annotations

from typing import Protocol

import faiss
import numpy as np
import numpy.typing as npt

from app.types import EMBEDDING_SIZE, Embedding

Positions = npt.NDArray[np.int64]
"""int64 [N], places of vectors in a storage."""
Vectors = npt.NDArray[np.float32]
"""float32 [N, 128]."""
Scored = tuple[npt.NDArray[np.float32], Positions]
"""Inner products, float32 [N], greatest first, and where the vectors are."""

_PARTS = 64
_BITS = 4
_RESCORED = 500
_RESCORED_PER_RESULT = 4


class Marks:
    """One bit for each of ``size`` positions: whether its vector is there; at first all are."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._bits = np.full((size + 7) // 8, 0xFF, dtype=np.uint8)
        self.selector = faiss.IDSelectorBitmap(self._bits)

    def at(self, positions: Positions) -> npt.NDArray[np.bool_]:
        """The marks at these positions, bool [N]."""
        marks: npt.NDArray[np.bool_] = (self._bits[positions >> 3] >> (positions & 7) & 1).astype(np.bool_)
        return marks

    def clear(self, positions: Positions) -> None:
        """Takes the marks at these positions away."""
        np.bitwise_and.at(self._bits, positions >> 3, ~(1 << (positions & 7)).astype(np.uint8))

    def positions(self) -> Positions:
        """Of all marks, ascending."""
        return np.flatnonzero(np.unpackbits(self._bits, count=self._size, bitorder="little"))


class Guide(Protocol):
    """Leads to the vectors of a storage at half precision, which it fills itself; it is made with an empty one.

    First ``train``, then ``add`` as often as it takes, then searches, which may run in parallel with each other.
    """

    def train(self, sample: Vectors) -> None:
        """Learns from some of the vectors that will be added."""
        ...

    def add(self, vectors: Vectors) -> None:
        """Stores vectors, at the next positions, and leads to them from now on."""
        ...

    def search(self, probe: Embedding, count: int, marks: Marks | None) -> Scored:
        """The likely nearest of the vectors that are marked, or of all; fewer than ``count`` if it finds no more."""
        ...


class Codes:
    """Every vector has a short code too; all codes are compared, then the vectors with the best of them.

    A code is a product quantizer's of 64 parts at 4 bits, and 32 of them are compared at a time within registers;
    source: André, Kermarrec and Le Scouarnec 2017, arXiv:1704.07355. 32 bytes a vector beside the storage's 256.
    """

    def __init__(self, storage: faiss.IndexScalarQuantizer) -> None:
        self._storage = storage
        self._index = faiss.IndexPQFastScan(EMBEDDING_SIZE, _PARTS, _BITS, faiss.METRIC_INNER_PRODUCT)
        self._index.pq.cp.min_points_per_centroid = 1

    def train(self, sample: Vectors) -> None:
        # At least one vector for each of the 16 centroids of a part.
        self._index.train(np.resize(sample, (max(len(sample), 1 << _BITS), EMBEDDING_SIZE)))

    def add(self, vectors: Vectors) -> None:
        self._storage.add(vectors)
        self._index.add(vectors)

    def search(self, probe: Embedding, count: int, marks: Marks | None) -> Scored:
        proposed = min(max(_RESCORED, _RESCORED_PER_RESULT * count), self._index.ntotal)
        positions = self._index.search(probe[np.newaxis], proposed)[1][0]
        positions = positions[positions >= 0]
        if marks is not None:
            positions = positions[marks.at(positions)]
        scores = self._stored(positions) @ probe
        best = np.argsort(-scores, kind="stable")[:count]
        return scores[best], positions[best]

    def _stored(self, positions: Positions) -> Vectors:
        # Read in place: the storage's own way takes several times as long, and more than comparing all codes.
        components = faiss.rev_swig_ptr(self._storage.codes.data(), self._storage.ntotal * self._storage.code_size)
        vectors: Vectors = components.view(np.float16).reshape(-1, EMBEDDING_SIZE)[positions].astype(np.float32)
        return vectors
