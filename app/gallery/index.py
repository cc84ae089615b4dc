"""The search index of a collection: derived from the database, in memory, always in step with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple, Protocol

import faiss
import numpy as np
import numpy.typing as npt

from app.gallery.lock import ReadersWriterLock
from app.gallery.protocol import CollectionNotFound, GalleryError, GalleryUnavailable
from app.gallery.tally import TemplateTally
from app.types import EMBEDDING_SIZE, CollectionSize, Embedding, SearchState

_LOGGER = logging.getLogger(__name__)

Keys = npt.NDArray[np.int64]
"""int64 [N], keys of subjects."""

ANY_PROBE: Embedding = np.full(EMBEDDING_SIZE, EMBEDDING_SIZE**-0.5, dtype=np.float32)
"""For a search whose answer does not matter."""


class Batch(NamedTuple):
    """Keys of subjects, what their templates are fused to, float32 [N, 128], and of how many, int64 [N]."""

    keys: Keys
    vectors: npt.NDArray[np.float32]
    templates: npt.NDArray[np.int64]


class Found(NamedTuple):
    """Keys and scores, float32 [N], greatest first, and whether no other vector can have a greater score than these."""

    keys: Keys
    scores: npt.NDArray[np.float32]
    exact: bool

    @classmethod
    def nothing(cls) -> Found:
        """What a search of no vectors gives."""
        return cls(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), exact=True)


class VectorIndex(Protocol):
    """Finds the stored vectors with the greatest inner product; exact or approximate.

    Searches may run in parallel with each other, but not with ``add`` or ``remove``. What an index does in the
    background is its own affair: it may run in parallel with everything. After ``close`` it is searched as before.
    """

    @property
    def size(self) -> int:
        """How many vectors it holds."""
        ...

    @property
    def tolerance(self) -> float:
        """How far a score may be from the exact inner product of two unit vectors."""
        ...

    @property
    def state(self) -> SearchState:
        """How searches are done at present; may be asked at any time."""
        ...

    def add(self, keys: Keys, vectors: npt.NDArray[np.float32]) -> None:
        """Stores vectors, float32 [N, 128], under keys, int64 [N], that it does not hold yet."""
        ...

    def remove(self, keys: Keys) -> None:
        """Removes vectors by key; RuntimeError when it did not hold them all."""
        ...

    def search(self, probe: Embedding, count: int) -> Found:
        """The ``count`` (one or more) nearest vectors, or all where there are fewer."""
        ...

    def check(self) -> None:
        """Searches for nothing in particular. Raises RuntimeError when the index does not answer."""
        ...

    def maintain(self) -> None:
        """Says that a change is complete: starts in the background what is due after it."""
        ...

    def close(self) -> None:
        """Ends what runs in the background, and starts nothing any more; a second call does nothing."""
        ...


def half_precision() -> faiss.IndexScalarQuantizer:
    """Vectors of 16 bits a component, compared by inner product."""
    return faiss.IndexScalarQuantizer(EMBEDDING_SIZE, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


class FlatIndex:
    """Compares the probe with every vector, kept at half precision: 264 bytes a subject with its key.

    Half precision keeps 11 bits of each component, so the inner product of two unit vectors is off by 2**-11 at most
    with rounding to nearest and by 2**-10 with truncation.
    """

    def __init__(self) -> None:
        self.storage = half_precision()
        self._index = faiss.IndexIDMap(self.storage)

    @property
    def size(self) -> int:
        return int(self._index.ntotal)

    @property
    def tolerance(self) -> float:
        return 1e-3

    @property
    def state(self) -> SearchState:
        return SearchState()

    @property
    def keys(self) -> Keys:
        """int64 [N], a copy, in the order of the vectors in ``storage``."""
        keys: Keys = faiss.vector_to_array(self._index.id_map)
        return keys

    def add(self, keys: Keys, vectors: npt.NDArray[np.float32]) -> None:
        self._index.add_with_ids(vectors, keys)

    def remove(self, keys: Keys) -> None:
        removed = self.discard(keys)
        if removed != len(keys):
            raise RuntimeError(f"The index held {removed} of {len(keys)} vectors to be removed.")

    def discard(self, keys: Keys) -> int:
        """Removes those of the vectors that it holds; returns how many those were."""
        return int(self._index.remove_ids(faiss.IDSelectorBatch(keys))) if len(keys) else 0

    def search(self, probe: Embedding, count: int) -> Found:
        # Searches run in parallel with each other already; sharing one probe's out among threads costs more in waiting
        # for them than it saves, many times over on busy cores. The setting holds for the calling thread.
        faiss.omp_set_num_threads(1)
        scores, keys = self._index.search(probe[np.newaxis], count)
        found = keys[0] >= 0
        return Found(keys[0][found], scores[0][found], exact=True)

    def check(self) -> None:
        self.search(ANY_PROBE, 1)

    def maintain(self) -> None:
        pass

    def close(self) -> None:
        pass


class CollectionIndex:
    """The index of one collection, together with the lock that keeps it in step with the database.

    The commit of a transaction and the change of the index happen under the same exclusive lock, and a search holds
    the shared one while it reads index and database: it sees both before the write or both after it. Hence nobody can
    find a subject without its templates while they are being replaced.

    ``load`` gives all that is committed, in batches. Start with ``rebuild``.
    """

    def __init__(
        self, collection: str, load: Callable[[], Generator[Batch, None, None]], make_index: Callable[[], VectorIndex]
    ) -> None:
        self._collection = collection
        self._load = load
        self._make_index = make_index
        self._lock = ReadersWriterLock()
        self._vectors: VectorIndex | None = None
        self._tally = TemplateTally()
        self._dropped = False

    def rebuild(self) -> None:
        """Derives the index anew. Raises GalleryUnavailable; the next search then tries again."""
        with self._lock.writing():
            self._rebuild()

    @contextmanager
    def reading(self) -> Iterator[VectorIndex]:
        """The index, equal to what is committed until the context is left.

        Raises CollectionNotFound when the collection has been erased, GalleryUnavailable when an index that had to be
        given up cannot be rebuilt.
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
            return CollectionSize(vectors.size, self._tally.most)

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
            self._give_up()

    @property
    def state(self) -> SearchState:
        """How searches are done at present; does not wait for anything."""
        vectors = self._vectors
        return SearchState() if vectors is None else vectors.state

    def close(self) -> None:
        """Ends what the index does in the background, after the searches and changes under way."""
        with self._lock.writing():
            if self._vectors is not None:
                self._vectors.close()

    def _give_up(self) -> None:
        if self._vectors is not None:
            self._vectors.close()
        self._vectors = None

    def _change(self, removed: Keys, added: Batch | None) -> None:
        if self._vectors is None:
            self._rebuild()
            return
        if len(removed):
            self._vectors.remove(removed)
            self._tally.remove(removed)
        if added is not None:
            self._vectors.add(added.keys, added.vectors)
            self._tally.add(added.keys, added.templates)
        self._vectors.maintain()

    def _rebuild(self) -> None:
        self._give_up()
        try:
            vectors, tally = self._make_index(), TemplateTally()
            with closing(self._load()) as batches:
                for batch in batches:
                    vectors.add(batch.keys, batch.vectors)
                    tally.add(batch.keys, batch.templates)
        except GalleryError:
            raise
        except Exception as error:
            raise GalleryUnavailable(
                f"The search index of collection {self._collection!r} cannot be built: {error}."
            ) from error
        self._vectors, self._tally = vectors, tally
        # Not before all is loaded: what is derived from a part of it would have to be derived again.
        vectors.maintain()
