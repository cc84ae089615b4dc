"""Merging two subjects who are one person, through HTTP."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from app.api.gate import REFRESH_SECONDS
from app.recognition.service import MOST_TEMPLATES, RecognitionService
from app.security.keys import KeyStore, Scope
from app.security.trail import AuditTrail
from tests.app.api.conftest import Enroll
from tests.app.api.helpers import files, invalid_field, ok, problem
from tests.app.api.test_audits import finished
from tests.app.gallery.contract import axis, template
from tests.app.photographs import collins, variants

AGAIN = variants(collins())["smaller"]
"""Another photograph of whom ``ada`` shows."""


@pytest.fixture
def twice(enroll: Enroll, ada: bytes, grace: bytes) -> dict[str, list[str]]:
    """One person under two names, and somebody else: the ids of their templates."""
    stored: dict[str, Any] = {
        "ada": enroll(ada, subject_id="ada", metadata='{"name": "Ada"}'),
        "ada-2": enroll(AGAIN, ada, subject_id="ada-2", metadata='{"name": "Ada again"}'),
        "grace": enroll(grace, subject_id="grace"),
    }
    return {name: [t["template_id"] for t in answer["templates"]] for name, answer in stored.items()}


def merge(client: TestClient, into: str = "ada", duplicate: str = "ada-2", **options: Any) -> httpx.Response:
    headers, collection = options.pop("headers", {}), options.pop("collection", "default")
    response: httpx.Response = client.post(
        f"/subjects/{into}/merge",
        json={"duplicate": duplicate} | options,
        params={"collection": collection},
        headers=headers,
    )
    return response


def test_two_names_of_one_person_become_one_subject(
    client: TestClient, twice: dict[str, list[str]], ada: bytes
) -> None:
    before = ok(client.get("/subjects/ada-2"))["templates"]
    answer = ok(merge(client))
    assert answer["subject"] == ok(client.get("/subjects/ada"))
    assert (answer["duplicate"], answer["template_ids"]) == ("ada-2", twice["ada-2"])
    assert 0 <= answer["distance"] <= answer["threshold"]
    assert answer["subject"]["templates"][1:] == before
    assert answer["subject"]["metadata"] == {"name": "Ada"}
    problem(client.get("/subjects/ada-2"), 404, "subject_not_found")
    found = ok(client.post("/identify", files=files(ada)))
    assert [(c["subject_id"], c["templates"]) for c in found["candidates"]] == [("ada", 3), ("grace", 1)]
    assert ok(client.post("/verify", files=files(ada), data={"subject_id": "ada"}))["decision"] == "match"
    problem(merge(client), 404, "subject_not_found")


def test_whom_an_audit_reports_as_duplicates_can_be_merged_and_is_reported_no_more(
    client: TestClient, twice: dict[str, list[str]]
) -> None:
    ok(client.post("/collections/default/audit"), 202)
    [pair] = finished(client)["report"]["duplicates"]
    answer = ok(merge(client, pair["first"], pair["second"]))
    assert answer["distance"] == pytest.approx(pair["distance"], abs=1e-6)
    report = ok(client.get("/collections/default/audit"))["report"]
    assert (report["duplicate_count"], report["duplicates"]) == (0, [])
    assert [{found["first"], found["second"]} for found in report["confusable"]] == [{"ada", "grace"}]
    ok(client.post("/collections/default/audit"), 202)
    assert finished(client)["report"]["duplicate_count"] == 0


def test_two_people_are_merged_only_by_force(client: TestClient, twice: dict[str, list[str]]) -> None:
    before = ok(client.get("/subjects"))
    refused = problem(merge(client, "ada", "grace"), 409, "subjects_not_alike")
    assert refused["distance"] > refused["threshold"]
    assert f"{refused['distance']:.4f}" in refused["detail"]
    assert ok(client.get("/subjects")) == before
    answer = ok(merge(client, "ada", "grace", force=True))
    assert answer["distance"] == pytest.approx(refused["distance"], abs=1e-4)
    assert answer["threshold"] == refused["threshold"]
    assert {t["id"] for t in answer["subject"]["templates"]} == {*twice["ada"], *twice["grace"]}


def test_requests_that_cannot_be_are_refused(client: TestClient, twice: dict[str, list[str]]) -> None:
    problem(merge(client, "nobody", "ada"), 404, "subject_not_found")
    problem(merge(client, "ada", "nobody"), 404, "subject_not_found")
    problem(merge(client, collection="none"), 404, "collection_not_found")
    ok(client.post("/collections", json={"id": "staff"}), 201)
    problem(merge(client, collection="staff"), 404, "subject_not_found")
    invalid_field(merge(client, "ada", "ada"), "duplicate")
    invalid_field(merge(client, "ada", "a b"), "duplicate")
    invalid_field(merge(client, force="maybe"), "force")
    invalid_field(merge(client, into_="x"), "into_")
    invalid_field(client.post("/subjects/ada/merge", json={}), "duplicate")
    problem(client.post("/subjects/ada/merge", data={"duplicate": "ada-2"}), 415, "unsupported_media_type")
    assert len(ok(client.get("/subjects"))["subjects"]) == 3


def test_a_subject_cannot_get_more_templates_than_it_may_have(service: RecognitionService, client: TestClient) -> None:
    for name, number in {"ada": 60, "ada-2": MOST_TEMPLATES - 59}.items():
        service.gallery.enroll("default", name, [template(axis(0), f"{name}-{i}") for i in range(number)])
    refused = problem(merge(client), 409, "too_many_templates")
    assert all(number in refused["detail"] for number in ("60", "41", "100"))
    ok(client.delete("/subjects/ada-2/templates/ada-2-0"))
    assert len(ok(merge(client))["subject"]["templates"]) == MOST_TEMPLATES


def test_a_repeated_request_gets_the_first_answer(client: TestClient, twice: dict[str, list[str]]) -> None:
    key = {"Idempotency-Key": "m"}
    first = merge(client, headers=key)
    again = merge(client, headers=key)
    assert ok(again) == ok(first)
    assert ("idempotency-replayed" in first.headers, again.headers["idempotency-replayed"]) == (False, "true")
    problem(merge(client, "ada", "grace", headers=key), 422, "idempotency_key_reused")
    problem(merge(client, "ada", "ada-2", force=True, headers=key), 422, "idempotency_key_reused")
    ok(client.delete(f"/subjects/ada/templates/{twice['ada-2'][0]}"))
    problem(merge(client, headers=key), 404, "subject_not_found")


def test_a_merger_is_recorded_before_and_after_and_found_by_both_names(
    client: TestClient, twice: dict[str, list[str]]
) -> None:
    problem(merge(client, "ada", "grace"), 409, "subjects_not_alike")
    ok(merge(client, headers={"X-Request-Id": "m-1"}))
    components = client.app.state.components  # type: ignore[attr-defined]
    trail: AuditTrail = components.trail
    ada, gone, grace = (trail.name_of("default", name) for name in ("ada", "ada-2", "grace"))
    deadline = time.monotonic() + 30
    while len(found := [r.content for r in trail.records() if r.content["action"] == "merge_subjects"]) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert {r["subject"] for r in found} == {ada}
    assert sorted((r["details"]["duplicate"], r["outcome"]) for r in found) == sorted(
        [(grace, "started"), (grace, "subjects_not_alike"), (gone, "started"), (gone, "done")]
    )
    [done] = [r for r in found if r["outcome"] == "done"]
    assert done["details"] == {"duplicate": gone, "templates": 2, "force": False}
    named = [r.content for r in trail.records(subject=gone) if r.content["action"] == "merge_subjects"]
    assert [r["outcome"] for r in named] == ["started", "done"]
    assert trail.verify() == []


def test_a_merged_duplicate_is_named_nowhere(
    client: TestClient, twice: dict[str, list[str]], enroll: Enroll, tmp_path: Path, ada: bytes
) -> None:
    name = "the-vanished-subject"
    enroll(ada, subject_id=name, metadata='{"x": "metadata-of-the-vanished"}')
    fields, key = {"subject_id": "eve"}, {"Idempotency-Key": "k"}
    answer = ok(client.post("/enroll", files=files(ada), data=fields, headers=key), 201)
    assert name in [found["subject_id"] for found in answer["possible_duplicates"]]
    ok(client.post("/collections/default/audit"), 202)
    finished(client)
    contents = [path.read_bytes() for path in (tmp_path / "data").iterdir()]
    assert all(any(text in content for content in contents) for text in (name.encode(), b"metadata-of-the-vanished"))
    ok(merge(client, "ada", name, headers={"Idempotency-Key": "m"}))
    contents = [path.read_bytes() for path in (tmp_path / "data").iterdir()]
    assert not any(text in content for content in contents for text in (name.encode(), b"metadata-of-the-vanished"))
    for path in ("/subjects", "/collections/default/audit", "/collections/default/audit/page", "/metrics"):
        assert name not in client.get(path).text
    repeated = client.post("/enroll", files=files(ada), data=fields, headers=key)
    assert "idempotency-replayed" not in repeated.headers
    assert name not in repeated.text


def test_merging_needs_the_rights_to_enrol_and_to_erase(
    client: TestClient, service: RecognitionService, twice: dict[str, list[str]]
) -> None:
    store = client.app.state.components.security  # type: ignore[attr-defined]
    keys = KeyStore(store)
    made = {scopes: keys.create("-".join(scopes), list(scopes))[1] for scopes in (
        (Scope.ENROLL,), (Scope.DELETE,), (Scope.READ, Scope.IDENTIFY), (Scope.ENROLL, Scope.DELETE),
    )}  # fmt: skip
    time.sleep(REFRESH_SECONDS * 1.1)
    both = made.pop((Scope.ENROLL, Scope.DELETE))
    for key in made.values():
        problem(merge(client, headers={"Authorization": f"Bearer {key}"}), 403, "forbidden")
    ok(merge(client, headers={"Authorization": f"Bearer {both}"}))
