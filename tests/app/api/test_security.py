"""Failed verifications, and the audit trail, as a client meets them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.recognition.service import RecognitionService
from app.security.errors import SecurityStoreUnavailable
from app.security.trail import AuditTrail, Entry, TrailRecord
from app.settings import GallerySettings, SecuritySettings, Settings
from tests.app.api.conftest import Enroll
from tests.app.api.helpers import files, ok, problem

MakeService = Callable[[Path], RecognitionService]


def trail_of(client: TestClient) -> AuditTrail:
    trail: AuditTrail = client.app.state.components.trail  # type: ignore[attr-defined]
    return trail


def records(client: TestClient, count: int) -> list[TrailRecord]:
    """The records, once there are as many."""
    deadline = time.monotonic() + 30
    while len(found := list(trail_of(client).records())) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def test_after_five_strangers_a_subject_has_to_wait(
    client: TestClient, enroll: Enroll, ada: bytes, grace: bytes
) -> None:
    enroll(ada, subject_id="ada")
    enroll(grace, subject_id="grace")
    for _ in range(5):
        assert ok(client.post("/verify", files=files(grace), data={"subject_id": "ada"}))["decision"] == "no_match"
    refused = client.post("/verify", files=files(ada), data={"subject_id": "ada"})
    assert 1 <= int(refused.headers["retry-after"]) == problem(refused, 429, "locked_out")["retry_after"] <= 30
    ok(client.post("/verify", files=files(ada), data={"subject_id": "grace"}))
    ok(client.post("/verify", files=files(grace, reference=ada)))
    # A new enrolment under the same id is another person: it does not inherit the wait.
    ok(client.delete("/subjects/ada"))
    enroll(ada, subject_id="ada")
    assert ok(client.post("/verify", files=files(ada), data={"subject_id": "ada"}))["decision"] == "match"


def test_a_loose_threshold_does_not_reset_the_count(
    client: TestClient, enroll: Enroll, ada: bytes, grace: bytes
) -> None:
    enroll(ada, subject_id="ada")
    for _ in range(5):
        loose = {"subject_id": "ada", "max_distance": "4"}
        assert ok(client.post("/verify", files=files(grace), data=loose))["decision"] == "match"
    problem(client.post("/verify", files=files(grace), data={"subject_id": "ada"}), 429, "locked_out")


def test_the_wait_can_be_switched_off(make_service: MakeService, tmp_path: Path, ada: bytes, grace: bytes) -> None:
    settings = Settings(gallery=GallerySettings(data_dir=tmp_path), security=SecuritySettings(lockout=False))
    with TestClient(create_app(settings, make_service(tmp_path))) as client:
        ok(client.post("/enroll", files=files(ada), data={"subject_id": "ada"}), 201)
        for _ in range(7):
            ok(client.post("/verify", files=files(grace), data={"subject_id": "ada"}))


def test_what_is_done_is_recorded_without_names(client: TestClient, enroll: Enroll, ada: bytes) -> None:
    enroll(ada, subject_id="ada-lovelace")
    ok(client.post("/verify", files=files(ada), data={"subject_id": "ada-lovelace"}))
    ok(client.post("/identify", files=files(ada)))
    problem(
        client.post("/verify", files=files(b"x"), data={"subject_id": "ada-lovelace"}), 415, "unsupported_image_format"
    )
    given = {"X-Request-Id": "trace-7"}
    ok(client.patch("/subjects/ada-lovelace", json={"metadata": {}}, headers=given))
    receipt = ok(client.delete("/subjects/ada-lovelace"))["receipt"]
    problem(client.delete("/subjects/ada-lovelace"), 404, "subject_not_found")
    found = records(client, 9)
    assert [(r.content["action"], r.content["outcome"]) for r in found] == [
        ("enroll", "append"),
        ("verify", "match"),
        ("identify", "match"),
        ("verify", "unsupported_image_format"),
        ("update_subject", "done"),
        ("delete_subject", "started"),
        ("delete_subject", "done"),
        ("delete_subject", "started"),
        ("delete_subject", "subject_not_found"),
    ]
    assert found[4].content["request_id"] == "trace-7"
    assert receipt == f"7:{found[6].hash}"
    assert {r.content["actor"] for r in found} == {"anonymous"}
    assert {r.content["subject"] for r in found} == {trail_of(client).name_of("default", "ada-lovelace")}
    assert found[1].content["details"]["encoder_version"].startswith("tessera-l")
    assert trail_of(client).verify() == []
    assert not any("lovelace" in str(r.content) for r in found)


def test_old_records_go_while_the_service_runs(
    make_service: MakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.main.PRUNE_SECONDS", 0.2)
    settings = Settings(gallery=GallerySettings(data_dir=tmp_path), security=SecuritySettings(audit_days=1))
    with TestClient(create_app(settings, make_service(tmp_path))) as client:
        two_days_ago = datetime.now(UTC) - timedelta(days=2)
        store = client.app.state.components.security  # type: ignore[attr-defined]
        AuditTrail(store, clock=lambda: two_days_ago).record(Entry("k", "verify", "match")).result(30)
        deadline = time.monotonic() + 30
        while [r.content["action"] for r in trail_of(client).records()] != ["prune_trail"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert trail_of(client).verify() == []


def test_decisions_need_not_be_recorded(make_service: MakeService, tmp_path: Path, ada: bytes) -> None:
    settings = Settings(gallery=GallerySettings(data_dir=tmp_path), security=SecuritySettings(audit_decisions=False))
    with TestClient(create_app(settings, make_service(tmp_path))) as client:
        ok(client.post("/enroll", files=files(ada), data={"subject_id": "ada"}), 201)
        ok(client.post("/identify", files=files(ada)))
        problem(client.post("/identify", files=files(b"x")), 415, "unsupported_image_format")
        problem(client.post("/verify", files=files(ada), data={"subject_id": "eve"}), 404, "subject_not_found")
        problem(client.post("/enroll", files=files(b"x")), 415, "unsupported_image_format")
        ok(client.post("/collections/default/audit"), 202)
        ok(client.delete("/subjects/ada"))
        assert [r.content["action"] for r in records(client, 5)] == [
            "enroll",
            "enroll",
            "start_audit",
            "delete_subject",
            "delete_subject",
        ]


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "/subjects/ada"), ("DELETE", "/collections/default?force=true")]
)
def test_nothing_is_erased_unrecorded(
    client: TestClient,
    enroll: Enroll,
    ada: bytes,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
) -> None:
    enroll(ada, subject_id="ada")

    def fail() -> None:
        raise SecurityStoreUnavailable("The audit trail cannot be written: the disk is full.")

    with monkeypatch.context() as broken:
        broken.setattr(client.app.state.components.security, "check", fail)  # type: ignore[attr-defined]
        problem(client.request(method, path), 503, "security_store_unavailable")
        problem(client.post("/identify", files=files(ada)), 503, "security_store_unavailable")
        assert problem(client.get("/readyz"), 503, "not_ready")["checks"]["audit_trail"].endswith("the disk is full.")
    assert len(ok(client.get("/subjects/ada"))["templates"]) == 1
