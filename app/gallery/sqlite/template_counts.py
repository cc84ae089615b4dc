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
        self._subjects_with = [0] * (MOST_FUSED + 1)

    def add(self, keys: Ints, templates: Ints) -> None:
        """Adds new subjects by key, [N], with the number of compared templates of each, [N]."""
        for key, count in zip(keys.tolist(), templates.tolist(), strict=True):
            if count > 1:
                self._several[key] = count
            self._subjects_with[count] += 1

    def remove(self, keys: Ints) -> None:
        """Removes subjects that were added."""
        for key in keys.tolist():
            self._subjects_with[self._several.pop(key, 1)] -= 1

    @property
    def most(self) -> int:
        """The largest number of compared templates of any subject; 0 if there are no subjects."""
        return max((count for count, subjects in enumerate(self._subjects_with) if subjects), default=0)
