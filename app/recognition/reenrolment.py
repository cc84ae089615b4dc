"""A change of encoder: the chips that were kept, embedded by the new one."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from app.decisions import TargetUnsupported
from app.encoding import EncoderRuntime, Encodings
from app.gallery import Collection
from app.recognition.criteria import Criteria
from app.types import Pixels

Floats = npt.NDArray[np.float32]


class ChipEncoder:
    """Embeds many chips with all streams of an encoder. Leave its context to end its threads."""

    def __init__(self, encoder: EncoderRuntime) -> None:
        self._encoder, self._threads = encoder, ThreadPoolExecutor(encoder.streams)

    def __call__(self, chips: Pixels) -> tuple[Floats, Floats]:
        """Chips uint8 [B, 112, 112, 3] -> embeddings float32 [B, 128] of unit length, norms float32 [B]."""
        parts = np.array_split(chips, min(len(chips), self._encoder.streams))
        found = Encodings.join(list(self._threads.map(self._encoder.encode, parts)))
        return found.embeddings, found.norms

    def __enter__(self) -> ChipEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)


def require_targets(collections: Iterable[Collection], criteria: Criteria) -> None:
    """Raises TargetUnsupported if the encoder of these criteria cannot keep a collection's targets, and names it."""
    for collection in collections:
        try:
            criteria.check(collection.targets)
        except TargetUnsupported as error:
            raise TargetUnsupported(
                f"Collection {collection.id!r}: {error.message} Change its targets (PUT /collections/{collection.id}) "
                "before the encoder.",
                **error.details,
            ) from error
