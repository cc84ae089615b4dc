"""A part of an index that takes no more vectors, searched exactly or, where it has a guide, nearly so."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from app.gallery.guides import Guide, Marks, Positions, Vectors
from app.gallery.index import FlatIndex, Found, Keys, half_precision
from app.types import Embedding

MakeGuide = Callable[[Any], Guide]
"""Gives a guide to a storage, empty both."""

# A few tenths of a second's work on a large graph, more on a busy machine: so long whoever closes an index waits.
_BATCH = 250
_SAMPLE = 5_000


class Segment:
    """Vectors under keys, int64 [N], that may be removed but not added to.

    What is removed is marked so and skipped by searches, but stays in memory until a build. A vector costs 256 bytes at
    half precision and 8 for its key, 8 more where the keys do not ascend, and what the guide needs, which has no copy
    of the vectors.

    ``remove`` may not run in parallel with anything else, the rest may.
    """

    def __init__(self, keys: Keys, storage: faiss.IndexScalarQuantizer, guide: Guide | None = None) -> None:
        self.keys = keys
        self.size = len(keys)
        self._storage, self._guide = storage, guide
        self._order = None if bool(np.all(keys[1:] > keys[:-1])) else np.argsort(keys)
        self._present = Marks(len(keys))

    @classmethod
    def of(cls, flat: FlatIndex) -> Segment:
        """What a flat index holds, without copying the vectors; the flat index may not be changed any more."""
        return cls(flat.keys, flat.storage)

    @property
    def has_guide(self) -> bool:
        """Whether it can be searched otherwise than exactly."""
        return self._guide is not None

    @property
    def removed(self) -> int:
        """How many vectors are only marked as removed."""
        return len(self.keys) - self.size

    def positions(self) -> Positions:
        """Of all vectors that have not been removed, ascending."""
        return self._present.positions()

    def removed_since(self, positions: Positions) -> Keys:
        """The keys of those that have been removed of the vectors at these positions."""
        return self.keys[positions[~self._present.at(positions)]]

    def vectors(self, positions: Positions) -> Vectors:
        """float32 [N, 128], as they are kept."""
        vectors: Vectors = self._storage.reconstruct_batch(positions)
        return vectors

    def remove(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Removes vectors by key; gives which of the keys it held, bool [N]."""
        places = np.minimum(np.searchsorted(self.keys, keys, sorter=self._order), len(self.keys) - 1)
        positions: Positions = places if self._order is None else self._order[places]
        held: npt.NDArray[np.bool_] = (self.keys[positions] == keys) & self._present.at(positions)
        self._present.clear(positions[held])
        self.size -= int(held.sum())
        return held

    def search(self, probe: Embedding, count: int, *, exact: bool) -> Found:
        """At most ``count`` keys with their scores, greatest first, by the guide unless ``exact`` is asked for.

        Where the guide does not lead to as many as there are, the search is exact after all.
        """
        count = min(count, self.size)
        if count == 0:
            return Found.nothing()
        marks = self._present if self.removed else None
        if self._guide is not None and not exact:
            scores, positions = self._guide.search(probe, count, marks)
            if len(positions) == count:
                return Found(self.keys[positions], scores, exact=False)
        parameters = faiss.SearchParameters(sel=None if marks is None else marks.selector)
        scores, positions = self._storage.search(probe[np.newaxis], count, params=parameters)
        return Found(self.keys[positions[0]], scores[0], exact=True)


def build_segment(
    sources: Sequence[tuple[Segment, Positions]], make_guide: MakeGuide | None
) -> Generator[None, None, Segment | None]:
    """Makes one segment of vectors of several; None when there are none. It may be left for good at every yield.

    Half precision is kept as it is: a score does not change with the segment that a vector is in.
    """
    keys = np.concatenate([source.keys[positions] for source, positions in sources])
    if len(keys) == 0:
        return None
    storage = half_precision()
    guide = None if make_guide is None else make_guide(storage)
    if guide is not None:
        step = -(-len(keys) // _SAMPLE)
        guide.train(np.concatenate([source.vectors(positions[::step]) for source, positions in sources]))
        yield
    add = storage.add if guide is None else guide.add
    for source, positions in sources:
        for start in range(0, len(positions), _BATCH):
            add(source.vectors(positions[start : start + _BATCH]))
            yield
    return Segment(keys, storage, guide)


def merged(parts: Sequence[Found], count: int) -> Found:
    """The ``count`` greatest scores of several searches."""
    scores = np.concatenate([part.scores for part in parts])
    best = np.argsort(-scores, kind="stable")[:count]
    keys = np.concatenate([part.keys for part in parts])
    return Found(keys[best], scores[best], exact=all(part.exact for part in parts))
