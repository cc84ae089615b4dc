"""What the service writes to standard error: one line a record, for people or for machines.

No record holds photographs, embeddings, metadata, ids of subjects, paths or query strings with them.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

OWN_LOGGERS = ("tessera", "app", "uvicorn")
INDENT = "    "


class LogFormat(StrEnum):
    """How a record is written."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least severe records that are written."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def configure_logging(format_: LogFormat, level: LogLevel) -> None:
    """Sends every record of this process to standard error, those of other libraries from ``warning`` on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if format_ is LogFormat.JSON else TextFormatter())
    root, least = logging.getLogger(), logging.getLevelNamesMapping()[level.upper()]
    root.handlers = [handler]
    root.setLevel(max(least, logging.WARNING))
    # Python prints warnings as they are, which is no line of a log.
    logging.captureWarnings(True)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(least)


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z INFO message``; the lines of a traceback follow, indented.

    What cannot be printed is escaped, so that nothing that a client sends can look like a record of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        lines = [f"{_time(record)} {record.levelname} {printable(record.getMessage())}"]
        if record.exc_info:
            lines += [INDENT + printable(line) for line in self.formatException(record.exc_info).splitlines()]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``message``, the fields of a request, ``traceback``."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        content: dict[str, Any] = {"time": _time(record), "level": record.levelname.lower()}
        content |= {"message": record.getMessage()} if fields is None else {"message": "request"} | fields
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str)


def printable(text: str) -> str:
    """The text in one line, with escapes for line breaks and for what else cannot be printed."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"
