"""How many templates the subjects of a collection have."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from app.embeddings import MOST_FUSED

Ints = npt.NDArray[np.int64]


class TemplateCounts:
    """Tracks the most compared templates of any subject; a subject with one template costs no memory."""

    def __init__(self) -> None:
        self._several: dict[int, int] = {}
        self._subjects_with = np.zeros(MOST_FUSED + 1, dtype=np.int64)

    def add(self, keys: Ints, templates: Ints) -> None:
        """Adds new subjects by key, [N], with the number of compared templates of each, [N]."""
        several = templates > 1
        self._several.update(zip(keys[several].tolist(), templates[several].tolist(), strict=True))
        self._subjects_with += np.bincount(templates, minlength=MOST_FUSED + 1)

    def remove(self, keys: Ints) -> None:
        """Removes subjects that were added."""
        for key in keys.tolist():
            self._subjects_with[self._several.pop(key, 1)] -= 1

    @property
    def most(self) -> int:
        """The largest number of compared templates of any subject; 0 if there are no subjects."""
        return int(np.max(np.flatnonzero(self._subjects_with), initial=0))
