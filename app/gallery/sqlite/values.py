"""How metadata and times are stored as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any


def dump_metadata(metadata: Mapping[str, Any]) -> str:
    """JSON text, ASCII; TypeError or ValueError when it is not JSON."""
    return json.dumps(dict(metadata), allow_nan=False, separators=(",", ":"))


def load_metadata(text: object) -> dict[str, Any]:
    """The inverse of ``dump_metadata``; ValueError for anything that it does not write."""
    if not isinstance(text, str) or not text.isascii():
        raise ValueError("The stored metadata are no ASCII text.")
    try:
        metadata = json.loads(text)
    except RecursionError as error:
        raise ValueError("The stored metadata are nested too deeply.") from error
    if not isinstance(metadata, dict):
        raise ValueError("The stored metadata are no JSON object.")
    return metadata


def is_metadata(text: object) -> bool:
    """Whether ``load_metadata`` takes it; most subjects have none, which costs nothing here."""
    if text == "{}":
        return True
    try:
        load_metadata(text)
    except ValueError:
        return False
    return True


def timestamp(moment: datetime) -> str:
    """UTC, ISO 8601, of constant length, so that text order is time order."""
    return moment.isoformat(timespec="microseconds")


def load_timestamp(text: object) -> datetime:
    """The inverse of ``timestamp``; ValueError for anything that it does not write."""
    if not isinstance(text, str):
        raise ValueError("A stored time is no text.")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("A stored time has no time zone.")
    return moment
