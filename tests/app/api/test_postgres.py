"""What a client meets where keys, audit trail and failed verifications are in PostgreSQL."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app.main import create_app
from app.recognition.service import RecognitionService
from app.settings import GallerySettings, Settings
from benchmarks.postgres_server import PostgresServer
from tests.app.api.helpers import files, ok
from tests.app.postgres import postgres, url
from tests.app.process import wait_until

__all__ = ["postgres", "url"]

pytestmark = pytest.mark.slow

WAITING = "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'tessera.failures'::regclass AND NOT granted"


@pytest.fixture
def shared(service: RecognitionService, tmp_path: Path, url: str) -> Iterator[TestClient]:
    """A service whose keys, audit trail and failed verifications are in PostgreSQL."""
    settings = Settings(gallery=GallerySettings(data_dir=tmp_path / "data", url=SecretStr(url)))
    with TestClient(create_app(settings, service)) as client:
        yield client


def outcomes(client: TestClient) -> list[str]:
    trail = client.app.state.components.trail  # type: ignore[attr-defined]
    return [record.content["outcome"] for record in trail.records()]


ERASURES: dict[str, Callable[[TestClient], str]] = {
    "subject": lambda client: ok(client.delete("/subjects/ada"))["receipt"],
    "collection": lambda client: ok(client.delete("/collections/default?force=true"))["receipt"],
    "merger": lambda client: ok(client.post("/subjects/grace/merge", json={"duplicate": "ada", "force": True}))[
        "subject"
    ]["id"],
}


@pytest.mark.parametrize("erasure", ERASURES)
def test_an_erasure_is_recorded_and_answered_though_failures_cannot_be_forgotten(
    shared: TestClient,
    postgres: PostgresServer,
    ada: bytes,
    grace: bytes,
    caplog: pytest.LogCaptureFixture,
    erasure: str,
) -> None:
    ok(shared.post("/enroll", files=files(ada), data={"subject_id": "ada"}), 201)
    ok(shared.post("/enroll", files=files(grace), data={"subject_id": "grace"}), 201)
    postgres.execute("ALTER TABLE tessera.failures RENAME TO gone", "first")
    with caplog.at_level(logging.WARNING, logger="tessera"):
        assert ERASURES[erasure](shared)
    assert outcomes(shared)[-2:] == ["started", "done"]
    [warning] = [record.getMessage() for record in caplog.records if "Failed verifications" in record.getMessage()]
    assert "failures" in warning
    assert "ada" not in warning


def test_nobody_waits_while_failures_are_forgotten(shared: TestClient, postgres: PostgresServer, ada: bytes) -> None:
    ok(shared.post("/enroll", files=files(ada), data={"subject_id": "ada"}), 201)
    with ThreadPoolExecutor(1) as pool, psycopg.connect(postgres.url("first")) as other:
        other.execute("LOCK TABLE tessera.failures IN ACCESS EXCLUSIVE MODE")
        erasing = pool.submit(shared.delete, "/subjects/ada")
        wait_until(lambda: postgres.execute(WAITING, "first") == [(True,)], "the failures are about to be forgotten")
        ok(shared.get("/livez"))
        assert postgres.execute(WAITING, "first") == [(True,)]
        other.rollback()
        assert ok(erasing.result(60))["receipt"]
    assert outcomes(shared)[-2:] == ["started", "done"]
