"""What a request has and its route would not read is refused before anything is done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.app.api.conftest import Enroll
from tests.app.api.helpers import files, invalid_field, ok, problem
from tests.app.api.test_gate import requests

DOCUMENT = create_app(Settings()).openapi()
OPERATIONS = {
    (method.upper(), path): operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}
LENIENT = {("GET", "/livez"), ("GET", "/readyz"), ("GET", "/metrics")}
STRICT = sorted(OPERATIONS.keys() - LENIENT)
BODILESS = sorted(operation for operation in STRICT if "requestBody" not in OPERATIONS[operation])


def valid(operation: tuple[str, str], image: bytes) -> dict[str, Any]:
    """What makes the operation succeed, or at least be carried out."""
    others = {("POST", "/detect"): {"files": files(image)}}
    return dict((requests(image, "default") | others).get(operation, {}))


def state(client: TestClient) -> list[Any]:
    """Everything that an operation could change."""
    audit = client.get("/collections/default/audit").status_code
    return [ok(client.get("/collections")), ok(client.get("/subjects")), audit]


@pytest.fixture
def asked(client: TestClient, enroll: Enroll, ada: bytes) -> Iterator[TestClient]:
    """A service with a subject, whose state is the same after the test."""
    enroll(ada, subject_id="ada")
    before = state(client)
    yield client
    assert state(client) == before


def address(operation: tuple[str, str]) -> tuple[str, str]:
    method, path = operation
    return method, path.format(collection="default", subject_id="ada", template_id="t1")


@pytest.mark.parametrize("operation", STRICT, ids=" ".join)
def test_every_operation_refuses_an_unknown_parameter_and_does_nothing(
    asked: TestClient, ada: bytes, operation: tuple[str, str]
) -> None:
    request = valid(operation, ada)
    query = request.pop("params", {}) | {"colour": "blue"}
    message = invalid_field(asked.request(*address(operation), params=query, **request), "colour")
    known = [p["name"] for p in OPERATIONS[operation].get("parameters", []) if p["in"] == "query"]
    assert all(name in message for name in [*known, " ".join(operation)])
    assert (
        "invalid_request"
        in OPERATIONS[operation]["responses"]["422"]["content"]["application/problem+json"]["examples"]
    )


def test_a_slip_in_a_name_erases_nobody_elsewhere(client: TestClient, enroll: Enroll, ada: bytes) -> None:
    ok(client.post("/collections", json={"id": "staff"}), 201)
    for collection in ("default", "staff"):
        enroll(ada, subject_id="ada", collection=collection)
    message = invalid_field(client.delete("/subjects/ada", params={"colection": "staff"}), "colection")
    assert message == (
        "there is no such query parameter; did you mean `collection`? "
        "The query parameters of DELETE /subjects/{subject_id} are collection"
    )
    ok(client.get("/subjects/ada"))
    ok(client.delete("/subjects/ada", params={"collection": "staff"}))
    assert [c["subjects"] for c in ok(client.get("/collections"))["collections"]] == [1, 0]


def test_a_field_of_the_body_in_the_query_is_sent_back_to_the_body(asked: TestClient, ada: bytes) -> None:
    answer = asked.post("/enroll", params={"collection": "staff"}, files=files(ada))
    assert invalid_field(answer, "collection") == "POST /enroll has no query parameters; send it in the body"
    assert invalid_field(asked.get("/model?page=2"), "page") == "GET /model has no query parameters"


@pytest.mark.parametrize("values", [("default", "staff"), ("default", "default"), ("default", "")])
def test_a_parameter_is_given_once(asked: TestClient, values: tuple[str, ...]) -> None:
    answer = asked.delete("/subjects/ada", params={"collection": list(values)})
    assert invalid_field(answer, "collection") == "given more than once"


@pytest.mark.parametrize("query", ["collection", "collection=", "collection=default&", "&collection=default&x"])
def test_odd_queries_pick_nothing_silently(asked: TestClient, query: str) -> None:
    answer = asked.get(f"/subjects/ada?{query}")
    if query == "collection=default&":
        ok(answer)
    else:
        problem(answer, 422, "invalid_request")


def test_an_empty_cursor_is_not_the_first_page(asked: TestClient) -> None:
    invalid_field(asked.get("/subjects?cursor="), "cursor")


def test_what_is_said_of_many_unknown_parameters_is_bounded(asked: TestClient) -> None:
    query = "&".join(f"x{n}=1" for n in range(1000))
    assert len(problem(asked.get(f"/subjects?{query}"), 422, "invalid_request")["errors"]) == 10


@pytest.mark.parametrize("operation", BODILESS, ids=" ".join)
def test_a_body_that_no_one_reads_is_refused(asked: TestClient, operation: tuple[str, str]) -> None:
    message = invalid_field(asked.request(*address(operation), json={"collection": "staff"}), "body")
    assert message.startswith(f"{' '.join(operation)} reads no body")
    if operation == ("DELETE", "/subjects/{subject_id}"):
        assert message.endswith("; its query parameters are collection")


@pytest.mark.parametrize("chunks", [[], [b""], [b"", b"x"]])
def test_a_body_of_unknown_length_may_be_none(asked: TestClient, chunks: list[bytes]) -> None:
    answer = asked.request("GET", "/subjects/ada", content=iter(chunks))
    assert answer.request.headers["transfer-encoding"] == "chunked"
    if any(chunks):
        invalid_field(answer, "body")
    else:
        ok(answer)


@pytest.mark.parametrize(
    "path",
    ["/livez", "/readyz", "/metrics", "/", "/page/main.js", "/docs", "/docs/swagger-ui.css", "/openapi.json"],
)
def test_probes_and_pages_take_what_gets_round_a_cache(client: TestClient, path: str) -> None:
    assert client.get(f"{path}?_=1764232451&_=2", follow_redirects=False).status_code == 200
