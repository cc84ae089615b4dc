"""What holds for every request: its id, the form of errors, and that nothing internal shows."""

from __future__ import annotations

import ast
import logging
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import app
from app.api.connections import REFUSALS
from app.api.problems import KINDS, MEMBERS, problem_response
from app.api.remedies import BEFORE_REQUESTS, REMEDIES
from app.errors import TesseraError
from app.faces import DegenerateLandmarksError
from app.gallery import GalleryInUse
from app.recognition.service import RecognitionService
from tests.app.api.helpers import files, invalid_field, ok, problem
from tests.app.photographs import blank


def all_subclasses(parent: type[TesseraError]) -> set[type[TesseraError]]:
    found = set(parent.__subclasses__())
    return found.union(*(all_subclasses(child) for child in found))


def raised_classes() -> set[type[TesseraError]]:
    """Every error class of the application that is no mere base of others."""
    for module in pkgutil.walk_packages(app.__path__, "app."):
        import_module(module.name)
    classes = {c for c in all_subclasses(TesseraError) if c.__module__.startswith("app.")}
    return {c for c in classes if not c.__subclasses__() and c.__name__ != "RequestError"}


def codes_of_requests() -> set[str]:
    """The codes that ``app.api`` gives by name."""
    sources = "".join(path.read_text() for path in (Path(app.__path__[0]) / "api").rglob("*.py"))
    return set(re.findall(r'RequestError\(\s*"(\w+)"', sources)) | set(re.findall(r'40\d: "(\w+)"', sources))


def test_every_error_has_a_kind() -> None:
    assert {c.code for c in raised_classes()} | codes_of_requests() <= KINDS.keys()


def test_every_kind_belongs_to_an_error() -> None:
    assert KINDS.keys() - {"internal_error"} == {c.code for c in raised_classes()} | codes_of_requests()


def test_no_two_errors_share_a_code() -> None:
    codes = [c.code for c in raised_classes()]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("code", KINDS)
def test_every_kind_makes_a_problem(code: str) -> None:
    kind = KINDS[code]
    assert 400 <= kind.status < 600
    assert kind.title
    assert problem_response(code, kind.example, "id", {"most": 1}).status_code == kind.status


@pytest.mark.parametrize("name", ["type", "title", "status", "detail", "code", "request_id"])
def test_a_detail_that_a_member_would_hide_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        problem_response("no_face", "No face.", "id", {"most": 1, name: "x"})


def test_no_error_has_such_a_detail() -> None:
    errors = {c.__name__ for c in all_subclasses(TesseraError)}
    for path in Path(app.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in errors:
                named = {keyword.arg for keyword in node.keywords}
                assert not named & MEMBERS, f"{path}:{node.lineno}"


def test_every_response_has_an_id_of_its_own(client: TestClient) -> None:
    ids = {client.get("/livez").headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5


@pytest.mark.parametrize("given", ["a", "0" * 128, "trace-1.2_3~4+5/6=="])
def test_a_given_id_is_kept(client: TestClient, given: str) -> None:
    headers = {"X-Request-Id": given}
    assert client.get("/livez", headers=headers).headers["x-request-id"] == given
    response = client.get("/nothing", headers=headers)
    assert problem(response, 404, "not_found")["request_id"] == given


@pytest.mark.parametrize("given", ["", "a b", "0" * 129, "a,b", 'a"b', "<script>", "ä".encode()])
def test_an_id_that_is_not_safe_to_repeat_is_replaced(client: TestClient, given: str | bytes) -> None:
    response = client.get("/livez", headers={b"X-Request-Id": given})
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


def test_unknown_paths_and_methods_are_problems(client: TestClient) -> None:
    for path in ("/nothing", "/subjects/a/b", "/enroll/x", "/%00"):
        problem(client.get(path), 404, "not_found")
    assert client.get("/enroll").headers["allow"] == "POST"
    for method, path in (("GET", "/enroll"), ("DELETE", "/livez"), ("PUT", "/subjects/a"), ("POST", "/metrics")):
        problem(client.request(method, path), 405, "method_not_allowed")
    response = client.put("/subjects/a")
    assert response.headers["allow"] == "GET, PATCH, DELETE"
    assert "GET, PATCH, DELETE" in response.json()["detail"]


@pytest.fixture
def failing(service: RecognitionService, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every search of the gallery fails in a way nobody expects; the text is what must not be seen."""
    secret = "password=hunter2 /var/lib/secret"

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError(secret)

    monkeypatch.setattr(service.gallery, "search", fail)
    monkeypatch.setattr(service.gallery, "collections", fail)
    return secret


def test_an_unexpected_failure_shows_nothing_internal(
    client: TestClient, failing: str, ada: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"X-Request-Id": "trace-7"}
    with caplog.at_level(logging.ERROR, logger="tessera"):
        response = client.post("/identify", files=files(ada), headers=headers)
    assert problem(response, 500, "internal_error")["request_id"] == "trace-7"
    for hidden in (failing, "ZeroDivisionError", "Traceback", ".py"):
        assert hidden not in response.text
    assert "trace-7" in caplog.text
    assert failing in caplog.text
    problem(client.get("/collections"), 500, "internal_error")
    ok(client.get("/livez"))


def test_expected_failures_of_the_parts_have_their_own_code(
    client: TestClient, service: RecognitionService, ada: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, status in (
        (GalleryInUse("held by process 7"), 503),
        (DegenerateLandmarksError("five equal points"), 422),
    ):

        def fail(*_: object, raised: TesseraError = error, **__: object) -> None:
            raise raised

        monkeypatch.setattr(service, "identify", fail)
        answer = problem(client.post("/identify", files=files(ada)), status, error.code)
        assert answer["detail"] == error.message


def test_details_are_members_of_the_problem(
    client: TestClient, service: RecognitionService, ada: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise GalleryInUse("held", process="7")

    monkeypatch.setattr(service, "identify", fail)
    assert problem(client.post("/identify", files=files(ada)), 503, "gallery_in_use")["process"] == "7"


def test_a_field_of_the_query_is_named(client: TestClient) -> None:
    assert "greater than or equal to 1" in invalid_field(client.get("/subjects?limit=0"), "limit")


def test_several_invalid_fields_are_all_named(client: TestClient) -> None:
    form = {"top_k": "0", "face_policy": "none", "collection": "*", "nonsense": "1"}
    answer = problem(client.post("/identify", files=files(blank()), data=form), 422, "invalid_request")
    assert {e["field"] for e in answer["errors"]} == set(form)
    assert all(e["message"] for e in answer["errors"])


def test_every_kind_has_a_cause_and_a_cure() -> None:
    assert list(REMEDIES) == list(KINDS)
    for cause, cure in REMEDIES.values():
        assert cause.endswith((".", ")"))
        assert cure.endswith(".")


def test_refusals_of_connections_have_them_too() -> None:
    refused = {code: status.value for status, (code, _) in REFUSALS.items() if code not in KINDS}
    assert {code: status for code, (status, _) in BEFORE_REQUESTS.items()} == refused
