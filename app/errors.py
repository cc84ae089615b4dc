"""The base class of every failure that a caller can act on."""

from __future__ import annotations

from typing import Any


class TesseraError(Exception):
    """A failure with a stable, machine-readable ``code``.

    The message says what happened and what to do; ``details`` holds JSON-serialisable facts (limits, counts, names).
    Each package defines its own subclasses; ``app.api`` gives every code an HTTP status.
    """

    code = "internal_error"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
