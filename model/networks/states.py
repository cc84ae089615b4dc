"""Files of weights: written whole or not at all, and read with an error that names the file."""

from __future__ import annotations

import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch


def write_state(state: dict[str, Any], path: Path) -> None:
    """Replaces a file atomically: a kill leaves the old one or the new one. Raises OSError where the disk is full."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        # What kept torch from writing, which its own error does not say.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    part.replace(path)


def read_state(path: Path, parts: Collection[str], remedy: str, *, mmap: bool = False) -> dict[str, Any]:
    """Reads a file with these parts; ``remedy`` says what to do with another.

    Raises FileNotFoundError, and ValueError for a file that is damaged or holds other things.
    """
    try:
        state = torch.load(path, weights_only=True, mmap=mmap)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # It could not be opened; of torch's own reading, the system's error names no file.
        raise ValueError(f"{path} is damaged, or no file of weights: {remedy}") from error
    if not isinstance(state, dict) or not set(parts) <= state.keys():
        raise ValueError(f"{path} holds something else than {', '.join(parts)}: {remedy}")
    return state
