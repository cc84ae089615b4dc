"""The OpenAPI document: complete, with an example everywhere, and what the application really does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from pydantic import BaseModel
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.types import Receive, Scope, Send

from app.api import examples, schemas
from app.api.problems import KINDS, MEDIA_TYPE, Problem
from app.encoding import EncoderWeights
from app.main import create_app
from app.settings import GallerySettings, ServerSettings, Settings
from tests.app.api.helpers import base64_of, files, ok, problem
from tests.app.conftest import MakeService

pytestmark = pytest.mark.slow

METHODS = {"get", "post", "patch", "put", "delete"}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

DOCUMENT = create_app(Settings()).openapi()
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    reference: str = schema.get("$ref", "")
    return DOCUMENT["components"]["schemas"][reference.rpartition("/")[2]] if reference else schema


def examples_of(content: dict[str, Any]) -> list[Any]:
    """The examples of one media type of a body."""
    given = [example["value"] for example in content.get("examples", {}).values()]
    given += [content["example"]] if "example" in content else []
    return given or list(resolved(content.get("schema", {})).get("examples", []))


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_path_is_there() -> None:
    paths = {"/enroll", "/verify", "/identify", "/detect", "/subjects", "/collections", "/livez", "/readyz", "/model"}
    assert paths <= DOCUMENT["paths"].keys()
    assert all(operations.keys() <= METHODS for operations in DOCUMENT["paths"].values())


def test_every_reference_leads_somewhere() -> None:
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(references(DOCUMENT)) <= known


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_described(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["description"]
    assert operation["tags"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_answer_has_an_example(name: str) -> None:
    responses = OPERATIONS[name]["responses"]
    successes = [status for status in responses if status.startswith("2")]
    assert len(successes) == 1
    assert "500" in responses
    for response in responses.values():
        for media_type, content in response["content"].items():
            assert examples_of(content), media_type


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_error_is_a_problem_with_its_code(name: str) -> None:
    for status, response in OPERATIONS[name]["responses"].items():
        if status.startswith("2"):
            continue
        assert list(response["content"]) == [MEDIA_TYPE]
        assert ("Retry-After" in response.get("headers", {})) == (status in {"429", "503"})
        for code, example in response["content"][MEDIA_TYPE]["examples"].items():
            problem = Problem.model_validate(example["value"])
            assert (problem.code, problem.status, KINDS[code].status) == (code, int(status), int(status))


@pytest.mark.parametrize("path", ["/enroll", "/verify", "/identify", "/detect"])
def test_that_there_are_too_many_photographs_is_documented(client: TestClient, ada: bytes, path: str) -> None:
    code = problem(client.post(path, files=files(*[ada] * 20)), 413, "too_many_images")["code"]
    assert code in OPERATIONS[f"POST {path}"]["responses"]["413"]["content"][MEDIA_TYPE]["examples"]


@pytest.mark.parametrize("name", [n for n, o in OPERATIONS.items() if "requestBody" in o])
def test_every_body_has_an_example(name: str) -> None:
    assert examples_of(OPERATIONS[name]["requestBody"]["content"]["application/json"])


@pytest.mark.parametrize(
    "model",
    [m for m in vars(schemas).values() if isinstance(m, type) and issubclass(m, BaseModel) and m is not BaseModel],
    ids=lambda m: m.__name__,
)
def test_examples_fit_their_schema(model: type[BaseModel]) -> None:
    for example in model.model_json_schema().get("examples", []):
        model.model_validate(example)


def test_the_examples_name_the_encoder_that_is_served(weights: EncoderWeights) -> None:
    assert f"{weights.name}-{weights.version}-{weights.sha256[:8]}" == examples.VERSION
    assert examples.MODEL["encoder"].items() >= {"version": weights.version, "sha256": weights.sha256}.items()


def test_the_examples_of_requests_work_as_they_stand(client: TestClient) -> None:
    for path, status in (("/detect", 200), ("/enroll", 201), ("/verify", 200), ("/identify", 200)):
        for example in examples_of(OPERATIONS[f"POST {path}"]["requestBody"]["content"]["application/json"]):
            answer = ok(client.post(path, json=example), status)
            assert answer.get("decision", "match") == "match"


def test_the_examples_of_paths_are_of_what_the_examples_of_bodies_make(client: TestClient) -> None:
    for name in ("/enroll", "/collections"):
        body = OPERATIONS[f"POST {name}"]["requestBody"]["content"]["application/json"]
        ok(client.post(name, json=examples_of(body)[0]), 201)
    for operation in ("/subjects/{subject_id}", "/collections/{collection}"):
        examples_by_name = {
            p["name"]: p["example"] for p in OPERATIONS[f"GET {operation}"]["parameters"] if p["in"] == "path"
        }
        assert ok(client.get(operation.format(**examples_by_name)))["id"] in examples_by_name.values()
    paths = [p for o in OPERATIONS.values() for p in o.get("parameters", []) if p["in"] == "path"]
    assert all(p["example"] for p in paths)


def test_every_schema_field_parameter_and_tag_is_described() -> None:
    schemas_of_all = DOCUMENT["components"]["schemas"]
    fields = {f"{n}.{f}": d for n, s in schemas_of_all.items() for f, d in s.get("properties", {}).items()}
    parameters = {f"{n} {p['name']}": p for n, o in OPERATIONS.items() for p in o.get("parameters", [])}
    assert [name for name, described in (fields | parameters).items() if not described.get("description")] == []
    assert [name for name, schema in schemas_of_all.items() if not schema.get("description")] == []
    used = {tag for operation in OPERATIONS.values() for tag in operation["tags"]}
    assert {tag["name"] for tag in DOCUMENT["tags"] if tag["description"]} == used


def test_a_form_comes_before_json_with_the_same_fields() -> None:
    for model in schemas.FORMS:
        operation = next(o for o in OPERATIONS.values() if f'{model.__name__}"' in json.dumps(o.get("requestBody")))
        form, as_json = operation["requestBody"]["content"].values()
        assert list(operation["requestBody"]["content"]) == ["multipart/form-data", "application/json"]
        assert list(resolved(form["schema"])["properties"]) == list(resolved(as_json["schema"])["properties"])
        assert next(iter(resolved(form["schema"])["properties"])) == "image"


def test_no_request_speaks_of_null() -> None:
    requests = [resolved(c["schema"]) for o in OPERATIONS.values() for c in bodies(o)]
    parameters = [p for o in OPERATIONS.values() for p in o.get("parameters", [])]
    assert requests
    assert "null" not in json.dumps([requests, parameters])


def bodies(operation: dict[str, Any]) -> list[dict[str, Any]]:
    return list(operation.get("requestBody", {}).get("content", {}).values())


def test_the_server_is_relative_and_has_the_prefix_of_a_proxy(tmp_path: Path) -> None:
    assert DOCUMENT["servers"] == [{"url": "/"}]
    prefixed = Settings(server=ServerSettings(root_path="/faces"), gallery=GallerySettings(data_dir=tmp_path))
    assert create_app(prefixed).openapi()["servers"] == [{"url": "/faces"}]


@pytest.fixture(scope="module")
def document(
    make_service: MakeService, tmp_path_factory: pytest.TempPathFactory, ada: bytes
) -> Iterator[schemathesis.BaseSchema]:
    """The document of a running application that knows the subject of the examples."""
    data_dir: Path = tmp_path_factory.mktemp("fuzzed") / "data"
    settings = Settings(server=ServerSettings(max_images=4), gallery=GallerySettings(data_dir=data_dir))
    app = create_app(settings, make_service(data_dir))
    with TestClient(app) as client:
        ok(client.post("/enroll", files=files(ada), data={"subject_id": "ada"}), 201)

        async def asked(scope: Scope, receive: Receive, send: Send) -> None:
            """Without the start and stop that would otherwise come with every request."""
            if scope["type"] == "lifespan":
                for moment in ("startup", "shutdown"):
                    await receive()
                    await send({"type": f"lifespan.{moment}.complete"})
            else:
                await app(scope, receive, send)

        loaded = schemathesis.openapi.from_asgi("/openapi.json", asked)

        @loaded.hook
        def map_body(_: Any, body: Any) -> Any:
            """Most random bodies hold no photograph, so nothing behind the decoder would be reached."""
            if isinstance(body, dict) and isinstance(body.get("image"), str):
                body = body | {"image": base64_of(ada)}
            return body

        yield loaded


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (name, mode)
        for name, operation in OPERATIONS.items()
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or operation.keys() & {"parameters", "requestBody"}
    ],
)
def test_the_application_does_what_the_document_says(
    document: schemathesis.BaseSchema, name: str, mode: GenerationMode
) -> None:
    method, path = name.split()
    operation = document[path][method]

    @hypothesis_settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case[Any]) -> None:
        case.call_and_validate(checks=CHECKS)

    ask()
