"""After an erasure no file and no answer names what was erased."""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.app.api.conftest import Enroll
from tests.app.api.helpers import files, ok, problem
from tests.app.api.test_audits import finished
from tests.app.photographs import collins, variants

SECRET = "metadata-of-the-erased"
ERASED = "the-erased-subject"


def contents(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


def answers(client: TestClient, ada: bytes) -> str:
    """The text of every answer that could name somebody."""
    found = [
        client.get(path).text
        for path in (
            "/subjects?collection=staff",
            f"/subjects/{ERASED}x?collection=staff",
            "/collections",
            "/collections/staff/audit",
            "/collections/staff/audit/page",
            "/metrics",
            "/readyz",
        )
    ]
    found.append(client.post("/identify", files=files(ada), data={"collection": "staff"}).text)
    repeated = {"subject_id": "eileen", "collection": "staff"}
    key = {"Idempotency-Key": "k"}
    found.append(client.post("/enroll", files=files(variants(collins())["smaller"]), data=repeated, headers=key).text)
    return "\n".join(found)


@pytest.fixture
def enrolled(enroll: Enroll, client: TestClient, ada: bytes) -> TestClient:
    """Two subjects who look alike; the receipt and the audit of one name the other."""
    ok(client.post("/collections", json={"id": "staff"}), 201)
    enroll(ada, subject_id=ERASED, collection="staff", metadata=f'{{"x": "{SECRET}"}}')
    fields = {"subject_id": "eileen", "collection": "staff"}
    image = files(variants(collins())["smaller"])
    answer = ok(client.post("/enroll", files=image, data=fields, headers={"Idempotency-Key": "k"}), 201)
    assert [found["subject_id"] for found in answer["possible_duplicates"]] == [ERASED]
    ok(client.post("/collections/staff/audit"), 202)
    assert finished(client, "staff")["report"]["duplicates"]
    assert SECRET in answers(client, ada)
    assert ERASED in client.get("/collections/staff/audit").text
    return client


def test_an_erased_subject_is_named_nowhere(enrolled: TestClient, tmp_path: Path, ada: bytes) -> None:
    before = contents(tmp_path / "data")
    assert SECRET.encode() in before
    assert ERASED.encode() in before
    ok(enrolled.delete(f"/subjects/{ERASED}", params={"collection": "staff"}))
    after = contents(tmp_path / "data")
    assert SECRET.encode() not in after
    assert ERASED.encode() not in after
    told = answers(enrolled, ada).replace(f"{ERASED}x", "")
    assert SECRET not in told
    assert ERASED not in told
    report = ok(enrolled.get("/collections/staff/audit"))["report"]
    assert (report["duplicate_count"], report["duplicates"], report["confusable"]) == (0, [], [])


def test_a_subject_enrolled_anew_is_not_taken_for_the_erased_one(
    enrolled: TestClient, enroll: Enroll, grace: bytes
) -> None:
    ok(enrolled.delete(f"/subjects/{ERASED}", params={"collection": "staff"}))
    enroll(grace, subject_id=ERASED, collection="staff")
    assert ok(enrolled.get("/collections/staff/audit"))["report"]["duplicates"] == []


def test_replaced_templates_are_named_nowhere(enrolled: TestClient, tmp_path: Path, grace: bytes) -> None:
    where = {"collection": "staff"}
    [old] = ok(enrolled.get(f"/subjects/{ERASED}", params=where))["templates"]
    assert old["id"].encode() in contents(tmp_path / "data")
    replacing = {"subject_id": ERASED, "collection": "staff", "on_conflict": "replace"}
    ok(enrolled.post("/enroll", files=files(grace), data=replacing), 201)
    assert old["id"].encode() not in contents(tmp_path / "data")
    assert ok(enrolled.get("/collections/staff/audit"))["report"]["duplicates"] == []


@pytest.mark.parametrize("collection", ["staff", "default"])
def test_an_erased_collection_is_named_nowhere(
    client: TestClient, enroll: Enroll, tmp_path: Path, ada: bytes, collection: str
) -> None:
    if collection == "staff":
        ok(client.post("/collections", json={"id": "staff"}), 201)
    enroll(ada, subject_id=ERASED, collection=collection, metadata=f'{{"x": "{SECRET}"}}')
    enroll(variants(collins())["smaller"], subject_id="eileen", collection=collection)
    ok(client.post(f"/collections/{collection}/audit"), 202)
    finished(client, collection)
    ok(client.delete(f"/collections/{collection}", params={"force": "true"}))
    after = contents(tmp_path / "data")
    assert SECRET.encode() not in after
    assert ERASED.encode() not in after
    if collection == "staff":
        ok(client.post("/collections", json={"id": "staff"}), 201)
    problem(client.get(f"/collections/{collection}/audit"), 404, "audit_not_found")
    problem(client.get(f"/collections/{collection}/audit/page"), 404, "audit_not_found")
    assert ok(client.get("/subjects", params={"collection": collection}))["subjects"] == []
    assert ok(client.post("/identify", files=files(ada), data={"collection": collection}))["candidates"] == []
    ok(client.post(f"/collections/{collection}/audit"), 202)
    assert finished(client, collection)["report"]["subjects"] == 0


def test_a_locked_database_answers_soon_and_its_reason_is_logged(
    enroll: Enroll, client: TestClient, tmp_path: Path, ada: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    enroll(ada, subject_id="ada")
    with closing(sqlite3.connect(tmp_path / "data" / "gallery.sqlite3")) as other:
        other.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        answer = problem(
            client.post("/enroll", files=files(ada), data={"subject_id": "eve"}), 503, "gallery_unavailable"
        )
        # Two seconds of waiting, and time for a busy machine.
        assert time.monotonic() - started < 8
    [line] = [record.getMessage() for record in caplog.records if answer["request_id"] in record.getMessage()]
    assert caplog.records[-1].levelname == "WARNING"
    assert "gallery_unavailable" in line
    assert "Another process holds it" in line


def test_what_the_client_did_wrong_is_logged_without_its_words(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        problem(client.get("/subjects/nobody"), 404, "subject_not_found")
    [record] = [record for record in caplog.records if record.name == "tessera"]
    assert record.levelname == "INFO"
    assert "nobody" not in record.getMessage()
