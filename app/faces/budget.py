"""How much work the photographs of one request may cost, whatever they are."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from app.faces.errors import TooMuchWorkError


@dataclass(frozen=True, slots=True)
class WorkLimits:
    """What one request may cost.

    Attributes:
        max_pixels: summed over its photographs, as they are decoded.
        max_seconds: from the beginning of the work to its end.
    """

    max_pixels: int = 200_000_000
    max_seconds: float = 10.0


class WorkBudget:
    """What is left of the limits for one request; the clock runs from its creation. Several threads may spend it."""

    def __init__(self, limits: WorkLimits) -> None:
        self._limits, self._pixels, self._spending = limits, 0, threading.Lock()
        self._deadline = time.monotonic() + limits.max_seconds

    def spend(self, pixels: int) -> None:
        """Counts a photograph that is about to be decoded. Raises TooMuchWorkError if the pixels are used up."""
        with self._spending:
            self._pixels += pixels
            spent = self._pixels
        if spent > self._limits.max_pixels:
            raise TooMuchWorkError(
                f"The photographs of this request have more than {self._limits.max_pixels} pixels together. "
                "Send fewer in one request, or scale them down.",
                budget="pixels",
                max_request_pixels=self._limits.max_pixels,
            )

    def check(self) -> None:
        """Raises TooMuchWorkError if the time is used up."""
        if time.monotonic() > self._deadline:
            raise TooMuchWorkError(
                f"The photographs of this request take more than {self._limits.max_seconds:g} s. "
                "Send fewer in one request, scale them down, or save them as baseline JPEG.",
                budget="seconds",
                max_request_seconds=self._limits.max_seconds,
            )
