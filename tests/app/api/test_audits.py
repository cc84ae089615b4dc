from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.gallery import StoredAudit
from app.recognition.service import RecognitionService
from tests.app.api.conftest import Enroll
from tests.app.api.helpers import ok, problem
from tests.app.photographs import collins, variants


def finished(client: TestClient, collection: str = "default") -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = ok(client.get(f"/collections/{collection}/audit"))
        if answer["status"] in {"done", "failed"}:
            return answer
        time.sleep(0.01)
    raise AssertionError("the audit does not end")


def test_an_audit_runs_in_the_background_and_is_kept(enroll: Enroll, client: TestClient, ada: bytes) -> None:
    enroll(ada, subject_id="ada")
    enroll(variants(collins())["smaller"], subject_id="eileen")
    started = ok(client.post("/collections/default/audit"), 202)
    assert started["collection"] == "default"
    answer = finished(client)
    assert (answer["status"], answer["progress"], answer["error"]) == ("done", 1.0, None)
    report = answer["report"]
    assert (report["subjects"], report["templates"], report["duplicate_count"]) == (2, 2, 1)
    assert (report["duplicates"][0]["first"], report["duplicates"][0]["second"]) == ("ada", "eileen")
    assert report["population"] == "too_few"
    assert ok(client.get("/collections/default/audit")) == answer


def test_the_report_is_a_page_too(enroll: Enroll, client: TestClient, ada: bytes) -> None:
    enroll(ada, subject_id="ada")
    ok(client.post("/collections/default/audit"), 202)
    finished(client)
    response = client.get("/collections/default/audit/page")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert "Audit of the collection default" in response.text


def test_the_page_of_an_audit_that_is_not_done_says_what_became_of_it(
    client: TestClient, service: RecognitionService
) -> None:
    begun = StoredAudit("running", datetime.now(UTC))
    service.gallery.save_audit("default", service.gallery.identity("default"), begun)
    answer = problem(client.get("/collections/default/audit/page"), 409, "audit_not_done")
    assert (answer["audit_status"], answer["progress"]) == ("interrupted", 0.0)


def test_a_collection_that_was_never_audited(client: TestClient) -> None:
    problem(client.get("/collections/default/audit"), 404, "audit_not_found")
    problem(client.get("/collections/default/audit/page"), 404, "audit_not_found")


@pytest.mark.parametrize("path", ["/collections/none/audit", "/collections/none/audit/page"])
def test_an_unknown_collection(client: TestClient, path: str) -> None:
    problem(client.get(path), 404, "collection_not_found")
    problem(client.post("/collections/none/audit"), 404, "collection_not_found")
