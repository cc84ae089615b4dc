from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app.embeddings import EMBEDDING_SIZE
from app.gallery import NewTemplate
from app.recognition.service import RecognitionService
from tests.app.api.conftest import Enroll
from tests.app.api.helpers import files, invalid_field, ok, problem


def store(service: RecognitionService, *subject_ids: str, collection: str = "default") -> None:
    """Puts subjects with any embedding into the gallery."""
    embedding = np.full(EMBEDDING_SIZE, EMBEDDING_SIZE**-0.5, dtype=np.float32)
    for subject_id in subject_ids:
        service.gallery.enroll(collection, subject_id, [NewTemplate(f"t-{collection}-{subject_id}", embedding, 10.0)])


def test_a_subject_is_shown(enroll: Enroll, client: TestClient, ada: bytes) -> None:
    answer = enroll(ada, ada, subject_id="ada", metadata='{"name": "Eileen"}')
    shown = ok(client.get("/subjects/ada"))
    assert (shown["id"], shown["collection"], shown["metadata"]) == ("ada", "default", {"name": "Eileen"})
    assert [t["id"] for t in shown["templates"]] == [t["template_id"] for t in answer["templates"]]  # type: ignore[attr-defined]
    created, updated = (datetime.fromisoformat(shown[name]) for name in ("created_at", "updated_at"))
    assert created.tzinfo is not None
    assert created == updated


def test_an_unknown_subject_or_collection(client: TestClient) -> None:
    requests: list[tuple[str, dict[str, Any]]] = [("GET", {}), ("DELETE", {}), ("PATCH", {"json": {"metadata": {}}})]
    for method, options in requests:
        problem(client.request(method, "/subjects/nobody", **options), 404, "subject_not_found")
        params = {"collection": "none"}
        problem(client.request(method, "/subjects/nobody", params=params, **options), 404, "collection_not_found")
    problem(client.get("/subjects", params={"collection": "none"}), 404, "collection_not_found")
    problem(client.delete("/subjects/nobody/templates/t"), 404, "subject_not_found")


@pytest.mark.parametrize("odd", ["-a", ".a", "a b", "a\n", "ä", "a%00", "x" * 129, "%F0%9F%98%80"])
def test_an_id_with_odd_characters_is_refused(client: TestClient, ada: bytes, odd: str) -> None:
    path = odd.replace(" ", "%20").replace("\n", "%0A")
    invalid_field(client.get(f"/subjects/{path}"), "subject_id")
    invalid_field(client.get("/subjects", params={"collection": odd}), "collection")
    invalid_field(client.delete(f"/collections/{path}"), "collection")
    invalid_field(client.post("/collections", json={"id": odd}), "id")
    invalid_field(client.post("/enroll", files=files(ada), data={"subject_id": odd}), "subject_id")
    invalid_field(client.post("/identify", files=files(ada), data={"collection": odd}), "collection")


def test_metadata_is_replaced(service: RecognitionService, client: TestClient) -> None:
    store(service, "ada")
    before = ok(client.get("/subjects/ada"))
    changed = ok(client.patch("/subjects/ada", json={"metadata": {"name": "Ada"}}))
    assert changed == ok(client.get("/subjects/ada"))
    assert changed["metadata"] == {"name": "Ada"}
    assert changed["templates"] == before["templates"]
    assert changed["created_at"] == before["created_at"]
    assert datetime.fromisoformat(changed["updated_at"]) > datetime.fromisoformat(before["updated_at"])
    assert ok(client.patch("/subjects/ada", json={"metadata": {}}))["metadata"] == {}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "metadata"),
        ({"metadata": None}, "metadata"),
        ({"metadata": [1]}, "metadata"),
        ({"metadata": {"a": "x" * 1100}}, "metadata"),
        ({"metadata": {}, "id": "eve"}, "id"),
        ([], "body"),
    ],
)
def test_a_bad_change_is_refused(service: RecognitionService, client: TestClient, body: object, field: str) -> None:
    store(service, "ada")
    invalid_field(client.patch("/subjects/ada", json=body), field)
    assert ok(client.get("/subjects/ada"))["metadata"] == {}


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        '{"metadata": {"a": NaN}}',
        '{"metadata": {"a": "\\ud800"}}',
        '{"metadata": ' + '{"a":' * 3000 + "1" + "}" * 3001,
        '{"metadata": {"a": ' + "1" * 5000 + "}}",
        b'{"metadata": {"a": "\xff"}}',
    ],
)
def test_a_change_that_is_no_json_is_refused(
    service: RecognitionService, client: TestClient, body: str | bytes
) -> None:
    store(service, "ada")
    response = client.patch("/subjects/ada", content=body, headers={"content-type": "application/json"})
    problem(response, 400, "malformed_body")


def test_a_change_must_be_sent_as_json(service: RecognitionService, client: TestClient) -> None:
    store(service, "ada")
    for content_type in ("text/plain", "application/jsonx", "multipart/form-data"):
        response = client.patch("/subjects/ada", content='{"metadata": {}}', headers={"content-type": content_type})
        problem(response, 415, "unsupported_media_type")


def test_an_infinite_number_is_refused(service: RecognitionService, client: TestClient) -> None:
    store(service, "ada")
    headers = {"content-type": "application/json"}
    invalid_field(client.patch("/subjects/ada", content='{"metadata": {"a": 1e999}}', headers=headers), "metadata")


def test_a_subject_is_erased_with_all_its_templates(enroll: Enroll, client: TestClient, ada: bytes) -> None:
    enroll(ada, ada, subject_id="ada")
    assert ok(client.delete("/subjects/ada"))["templates"] == 2
    problem(client.get("/subjects/ada"), 404, "subject_not_found")
    problem(client.delete("/subjects/ada"), 404, "subject_not_found")
    problem(client.post("/verify", files=files(ada), data={"subject_id": "ada"}), 404, "subject_not_found")


def test_one_template_is_erased_but_never_the_last(
    enroll: Enroll, client: TestClient, ada: bytes, grace: bytes
) -> None:
    templates = enroll(ada, grace, subject_id="ada")["templates"]
    first, second = (t["template_id"] for t in templates)  # type: ignore[attr-defined]
    left = ok(client.delete(f"/subjects/ada/templates/{first}"))
    assert [t["id"] for t in left["templates"]] == [second]
    assert ok(client.post("/verify", files=files(ada), data={"subject_id": "ada"}))["decision"] == "no_match"
    problem(client.delete(f"/subjects/ada/templates/{first}"), 404, "template_not_found")
    problem(client.delete(f"/subjects/ada/templates/{second}"), 409, "last_template")
    assert [t["id"] for t in ok(client.get("/subjects/ada"))["templates"]] == [second]


def test_pages_follow_each_other_until_the_end(service: RecognitionService, client: TestClient) -> None:
    ids = sorted([f"s{i}" for i in range(7)] + ["A", "a.b", "~z".lstrip("~"), "S0"])
    store(service, *ids)
    ok(client.post("/collections", json={"id": "staff"}), 201)
    store(service, "other", collection="staff")
    for limit in (1, 2, 3, len(ids), len(ids) + 1):
        seen, cursor, pages = [], None, 0
        while pages == 0 or cursor is not None:
            page = ok(client.get("/subjects", params={"limit": limit} | ({"cursor": cursor} if cursor else {})))
            assert 0 < len(page["subjects"]) <= limit
            seen += [s["id"] for s in page["subjects"]]
            cursor, pages = page["next_cursor"], pages + 1
        assert seen == ids
        assert pages == -(-len(ids) // limit)


def test_a_page_continues_after_its_last_subject_was_erased(service: RecognitionService, client: TestClient) -> None:
    store(service, "a", "b", "c")
    cursor = ok(client.get("/subjects", params={"limit": 2}))["next_cursor"]
    ok(client.delete("/subjects/b"))
    page = ok(client.get("/subjects", params={"cursor": cursor}))
    assert [s["id"] for s in page["subjects"]] == ["c"]


def test_no_subjects_are_an_empty_page(client: TestClient) -> None:
    assert ok(client.get("/subjects")) == {"subjects": [], "next_cursor": None}


@pytest.mark.parametrize(
    "cursor",
    [
        "!",
        "abc",
        "ä",
        "_w==",
        "YQ",
        "x" * 257,
        *(base64.b64encode(text).decode() for text in (b"\xff\xfe", b"\0", b"a\0", b"a\n", b" ", b"a" * 129)),
    ],
)
def test_a_bad_cursor_is_refused(client: TestClient, cursor: str) -> None:
    invalid_field(client.get("/subjects", params={"cursor": cursor}), "cursor")


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x"])
def test_a_bad_limit_is_refused(client: TestClient, limit: str) -> None:
    invalid_field(client.get("/subjects", params={"limit": limit}), "limit")


def test_metadata_of_every_kind_comes_back_as_it_was(enroll: Enroll, client: TestClient, ada: bytes) -> None:
    metadata = {"": "\u0000\u2028\U0001f600", "big": 2**63 + 1, "small": 1e-300, "deep": [[[{"a": [None, False]}]]]}
    enroll(ada, subject_id="ada", metadata=json.dumps(metadata))
    assert ok(client.get("/subjects/ada"))["metadata"] == metadata
    [candidate] = ok(client.post("/identify", files=files(ada)))["candidates"]
    assert candidate["metadata"] == metadata
