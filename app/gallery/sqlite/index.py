"""The in-memory search index of a collection: derived from the database and always consistent with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from app.embeddings import EMBEDDING_SIZE, Embedding
from app.gallery.protocol import CollectionNotFound, GalleryError, GalleryUnavailable
from app.gallery.records import CollectionSize
from app.gallery.sqlite.locks import ReadersWriterLock
from app.gallery.sqlite.template_counts import TemplateCounts

_LOGGER = logging.getLogger(__name__)

Keys = npt.NDArray[np.int64]
"""int64 [N], keys of subjects."""

SCORE_TOLERANCE = 2e-3
"""How far a score of the index may be from the exact one."""

_COMPONENTS = 136
# The embedding, one for the crowding, and zeros up to a multiple of eight, with which FAISS is fast.


class Batch(NamedTuple):
    """Keys of subjects, their fused templates, float32 [N, 128], and how many were fused, int64 [N].

    crowding: float32 [N], of the fused vectors (``app.crowding``).
    left_out: keys of further subjects, which are damaged and cannot be found, int64 [M].
    """

    keys: Keys
    vectors: npt.NDArray[np.float32]
    crowding: npt.NDArray[np.float32]
    templates: npt.NDArray[np.int64]
    left_out: Keys = np.empty(0, dtype=np.int64)


class SearchHits(NamedTuple):
    """Keys and scores, float32 [N], greatest first; no other vector has a greater score."""

    keys: Keys
    scores: npt.NDArray[np.float32]


class VectorIndex:
    """Finds the stored vectors with the smallest adjusted distance: compares the probe with every one of them.

    The adjusted squared distance of unit vectors is ``2 - 2 * score`` plus the crowding of the probe. The score is
    their inner product minus half the crowding of the stored vector: an inner product with one more component.

    Vectors are kept at half precision: 280 bytes a subject with its key. Half precision keeps 11 bits of each
    component, so the inner product of two unit vectors is off by at most 2**-11 with rounding to nearest and 2**-10
    with truncation. The same holds for half the crowding, which is at most 1.

    Searches may run in parallel with each other, but not with ``add`` or ``remove``.
    """

    def __init__(self) -> None:
        storage = faiss.IndexScalarQuantizer(_COMPONENTS, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        self._index = faiss.IndexIDMap(storage)

    @property
    def size(self) -> int:
        """How many vectors it holds."""
        return int(self._index.ntotal)

    def add(self, keys: Keys, vectors: npt.NDArray[np.float32], crowding: npt.NDArray[np.float32]) -> None:
        """Stores vectors, float32 [N, 128], and their crowding, [N], under new keys, int64 [N]."""
        stored = np.zeros((len(vectors), _COMPONENTS), dtype=np.float32)
        stored[:, :EMBEDDING_SIZE] = vectors
        stored[:, EMBEDDING_SIZE] = -crowding / 2
        self._index.add_with_ids(stored, keys)

    def remove(self, keys: Keys) -> None:
        """Removes vectors by key. Raises RuntimeError if any was missing."""
        removed = int(self._index.remove_ids(faiss.IDSelectorBatch(keys)))
        if removed != len(keys):
            raise RuntimeError(f"The index held {removed} of {len(keys)} vectors to be removed.")

    def search(self, probe: Embedding, count: int, *, crowded: bool = True) -> SearchHits:
        """The ``count`` (one or more) best vectors, or all if there are fewer; by distance alone unless crowded."""
        asked = np.zeros((1, _COMPONENTS), dtype=np.float32)
        asked[0, :EMBEDDING_SIZE] = probe
        asked[0, EMBEDDING_SIZE] = float(crowded)
        # Searches already run in parallel; splitting one search among threads costs more in synchronisation than it
        # saves, many times over on busy cores. The setting applies to the calling thread.
        faiss.omp_set_num_threads(1)
        scores, keys = self._index.search(asked, count)
        found = keys[0] >= 0
        return SearchHits(keys[0][found], scores[0][found])


class CollectionIndex:
    """The index of one collection, with the lock that keeps it consistent with the database.

    A commit and the change of the index happen under the same exclusive lock, and a search holds the shared lock while
    it reads both: it sees both before the write or both after it. So no search finds a subject without its templates
    while they are being replaced.

    ``load`` gives all that is committed, in batches. Start with ``rebuild``.
    """

    def __init__(self, collection: str, load: Callable[[], Generator[Batch, None, None]]) -> None:
        self._collection = collection
        self._load = load
        self._lock = ReadersWriterLock()
        self._vectors: VectorIndex | None = None
        self._counts = TemplateCounts()
        self._left_out: set[int] = set()
        self._dropped = False

    def rebuild(self) -> None:
        """Rebuilds the index from the database. Raises GalleryUnavailable; the next search then tries again."""
        with self._lock.writing():
            self._rebuild()

    @contextmanager
    def reading(self) -> Iterator[VectorIndex]:
        """The index, consistent with the database until the context is left.

        Raises CollectionNotFound if the collection has been erased, GalleryUnavailable if an index that had to be
        discarded cannot be rebuilt.
        """
        while True:
            with self._lock.reading():
                if self._dropped:
                    raise CollectionNotFound(f"There is no collection {self._collection!r}.")
                if self._vectors is not None:
                    yield self._vectors
                    return
            with self._lock.writing():
                if self._vectors is None and not self._dropped:
                    self._rebuild()

    def size(self) -> CollectionSize:
        """How large the collection is. Raises what ``reading`` raises."""
        with self.reading() as vectors:
            return CollectionSize(vectors.size, self._counts.most)

    @property
    def left_out(self) -> int:
        """How many subjects are damaged and not in the index; to be read inside ``reading``."""
        return len(self._left_out)

    def follow(self, commit: Callable[[], None], *, removed: Keys, added: Batch | None = None) -> None:
        """Commits, then changes the index accordingly; raises only what ``commit`` raises, the index unchanged.

        When the index fails after the commit it is rebuilt; when that fails too, searches raise GalleryUnavailable
        until it succeeds, for the write is durable and no search may answer without it.
        """
        with self._lock.writing():
            commit()
            try:
                self._change(removed, added)
            except Exception:
                _LOGGER.exception("The index of collection %r failed and is rebuilt.", self._collection)
                try:
                    self._rebuild()
                except GalleryError:
                    _LOGGER.exception("The index of collection %r cannot be rebuilt now.", self._collection)

    def drop(self, commit: Callable[[], None]) -> None:
        """Commits the erasure of the collection; later searches raise CollectionNotFound."""
        with self._lock.writing():
            commit()
            self._dropped = True
            self._vectors = None

    def _change(self, removed: Keys, added: Batch | None) -> None:
        if self._vectors is None:
            self._rebuild()
            return
        held = removed[[key not in self._left_out for key in removed.tolist()]] if self._left_out else removed
        self._left_out.difference_update(removed.tolist())
        if len(held):
            self._vectors.remove(held)
            self._counts.remove(held)
        if added is not None:
            self._add(self._vectors, self._counts, self._left_out, added)

    @staticmethod
    def _add(vectors: VectorIndex, counts: TemplateCounts, left_out: set[int], batch: Batch) -> None:
        if len(batch.keys):
            vectors.add(batch.keys, batch.vectors, batch.crowding)
            counts.add(batch.keys, batch.templates)
        left_out.update(batch.left_out.tolist())

    def _rebuild(self) -> None:
        self._vectors = None
        try:
            vectors, counts, left_out = VectorIndex(), TemplateCounts(), set[int]()
            with closing(self._load()) as batches:
                for batch in batches:
                    self._add(vectors, counts, left_out, batch)
        except GalleryError:
            raise
        except Exception as error:
            raise GalleryUnavailable(
                f"The search index of collection {self._collection!r} cannot be built: {error}."
            ) from error
        self._vectors, self._counts, self._left_out = vectors, counts, left_out
