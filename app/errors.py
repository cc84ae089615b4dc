"""The base class of every failure that a caller can act on."""

from __future__ import annotations

from typing import Any


class TesseraError(Exception):
    """A failure with a stable, machine-readable ``code``.

    The message says what happened and what to do; ``details`` holds JSON-serialisable facts (limits, counts, names).
    Each package defines its own subclasses; ``app.api`` gives every code an HTTP status.
    """

    code = "internal_error"
    names_subjects = False
    """Whether the message names people."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def about(self, what: str) -> None:
        """Says what the failure is about, before the message."""
        self.message = f"{what}: {self.message}"
        self.args = (self.message,)

    @property
    def reason(self) -> str:
        """The message as the log may have it, which outlives erasures: without names of people."""
        if self.names_subjects:
            return "`/readyz`, asked with a key, and `tessera gallery check` say whom it concerns and what to do."
        return self.message
