from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.logs import JsonFormatter, LogFormat, LogLevel, TextFormatter, configure_logging
from tests.app.process import PATIENCE, Server

TIME = r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z"
HOSTILE = "a\nb\r\x1b[31m\u2028\x85\x00c"


def record(message: str, **extra: Any) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": message, "levelno": logging.INFO, "levelname": "INFO", "name": "tessera"})
    made.__dict__.update(extra)
    return made


def failed(message: str) -> logging.LogRecord:
    try:
        raise ValueError(message)
    except ValueError:
        return record("failed", exc_info=sys.exc_info())


def test_a_record_is_one_line_whatever_is_in_it() -> None:
    text = TextFormatter().format(record(HOSTILE))
    assert re.fullmatch(rf"{TIME} INFO [ -~]+", text)
    assert r"a\nb\r\x1b[31m\u2028\x85\x00c" in text
    line = JsonFormatter().format(record(HOSTILE))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["message"] == HOSTILE


def test_a_traceback_cannot_be_taken_for_a_record() -> None:
    forged = "x\n2026-01-01T00:00:00.000Z INFO forged\x1b[2J"
    first, *rest = TextFormatter().format(failed(forged)).splitlines()
    assert re.fullmatch(rf"{TIME} INFO failed", first)
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    assert "ValueError" in rest[-2]
    [line] = JsonFormatter().format(failed(forged)).splitlines()
    assert forged in json.loads(line)["traceback"]


def test_the_fields_of_a_request_are_fields() -> None:
    fields = {"route": "/verify", "status": 200}
    content = json.loads(JsonFormatter().format(record("POST /verify 200", fields=fields)))
    assert re.fullmatch(TIME, content.pop("time"))
    assert content == {"level": "info", "message": "request", "route": "/verify", "status": 200}


@pytest.fixture
def loggers() -> Iterator[None]:
    """Puts the loggers back."""
    root = logging.getLogger()
    names = ("tessera", "app", "uvicorn")
    handlers, levels = root.handlers, [(name, logging.getLogger(name).level) for name in (None, *names)]
    yield
    root.handlers = handlers
    for name, level in levels:
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize(
    ("level", "written"),
    [(LogLevel.INFO, ["own", "own bad", "other bad"]), (LogLevel.WARNING, ["own bad", "other bad"])],
)
@pytest.mark.usefixtures("loggers")
def test_the_level_holds_for_own_records(
    capsys: pytest.CaptureFixture[str], level: LogLevel, written: list[str]
) -> None:
    configure_logging(LogFormat.TEXT, level)
    logging.getLogger("tessera").info("own")
    logging.getLogger("uvicorn.error").warning("own bad")
    logging.getLogger("library").info("other")
    logging.getLogger("library").warning("other bad")
    assert [line.split(" ", 2)[2] for line in capsys.readouterr().err.splitlines()] == written


def answers(url: str) -> None:
    """A life's requests: a probe, a read with ids and a query, a bad one with a hostile header."""
    httpx.get(f"{url}/readyz", timeout=PATIENCE)
    httpx.get(f"{url}/subjects/the-subject-id", params={"collection": "the-collection"}, timeout=PATIENCE)
    httpx.get(f"{url}/the-path", headers={"X-Request-Id": "x\\n forged=1", "Authorization": "Bearer the-key"})


@pytest.mark.slow
def test_a_service_logs_one_object_a_request(tmp_path: Path) -> None:
    with Server(tmp_path / "data", TESSERA_SERVER__LOG_FORMAT="json") as server:
        answers(server.url)
        server.terminate()
        server.process.wait(PATIENCE)
        text = server.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert all(re.fullmatch(TIME, line["time"]) and line["level"] in {"info", "warning"} for line in lines)
    assert any("encoder" in line["message"] for line in lines)
    requests = [line for line in lines if line["message"] == "request"]
    assert [(r["route"], r["status"], r["error"]) for r in requests] == [
        ("/subjects/{subject_id}", 404, "collection_not_found"),
        ("unmatched", 401, "unauthenticated"),
    ]
    assert all(re.fullmatch("[0-9a-f]{32}", r["request_id"]) and r["duration_ms"] >= 0 for r in requests)
    for hidden in ("the-subject-id", "the-collection", "the-path", "the-key", "forged", "collection=", "/readyz"):
        assert hidden not in text
    assert any("Finished server process" in line["message"] for line in lines)


@pytest.mark.slow
def test_a_service_logs_one_line_a_request(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        answers(server.url)
        lines = server.log.read_text().splitlines()
    assert all(re.match(rf"{TIME} (INFO|WARNING) ", line) for line in lines)
    [line] = [line for line in lines if "/subjects" in line]
    assert re.search(
        r" INFO GET /subjects/\{subject_id\} 404 [\d.]+ ms request_id=\w{32} error=collection_not_found$", line
    )


@pytest.mark.slow
def test_every_line_is_json_with_a_prefix_too(tmp_path: Path) -> None:
    variables = {"TESSERA_SERVER__LOG_FORMAT": "json", "TESSERA_SERVER__ROOT_PATH": "/faces"}
    with Server(tmp_path / "data", TESSERA_SECURITY__ALLOW_ANONYMOUS="true", **variables) as server:
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert lines
    assert not any("Warning" in line["message"] for line in lines)
