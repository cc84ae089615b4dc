"""The client against the OpenAPI document: every operation, every field of a request and of an answer, no other."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from typing import Any
from unittest.mock import create_autospec

import pytest

from app.api.problems import KINDS
from app.main import create_app
from app.settings import Settings
from tessera_client import AsyncClient, Client, operations, results
from tessera_client.errors import ERRORS

DOCUMENT = create_app(Settings()).openapi()
OPERATIONS = {o["operationId"]: o for path in DOCUMENT["paths"].values() for o in path.values()}
OF_THE_SHELL = {"X-Request-Id"}
"""Sent for the whole client, by ``headers``, or not at all."""
OTHER_NAMES = {"Idempotency-Key": "idempotency_key"}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def fields_of(operation: dict[str, Any]) -> set[str]:
    """The names of the parameters and of the fields of the body."""
    names = {p["name"] for p in operation.get("parameters", [])} - OF_THE_SHELL
    for content in operation.get("requestBody", {}).get("content", {}).values():
        names |= set(resolved(content["schema"])["properties"])
    return {OTHER_NAMES.get(name, name) for name in names}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_with_every_field_is_there(name: str) -> None:
    given = set(inspect.signature(getattr(operations, name)).parameters)
    wanted = fields_of(OPERATIONS[name])
    # A new collection is named as every other one.
    assert given == ({"collection" if f == "id" else f for f in wanted})


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_both_clients_have_every_operation_with_its_signature_and_description(client: type) -> None:
    service = client("http://127.0.0.1:9")
    for name in OPERATIONS:
        method, build = getattr(service, name), getattr(operations, name)
        shown, of_build = inspect.signature(method), inspect.signature(build)
        assert shown.parameters == of_build.parameters
        assert f"Call[{shown.return_annotation}]" == of_build.return_annotation
        assert method.__doc__


def test_mocks_of_a_client_take_what_it_takes() -> None:
    made_up = create_autospec(Client, instance=True)
    made_up.verify("a.jpg", "b.jpg")
    with pytest.raises(TypeError, match="image"):
        made_up.verify()


def properties(schema: dict[str, Any]) -> dict[str, Any]:
    """The properties of a schema, or of its only alternative to null."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    return dict(resolved(kinds[0]).get("properties", {}))


def names_typed(kind: Any) -> set[str]:
    """The names that a type lists."""
    if typing.get_origin(kind) is typing.Literal:
        return set(typing.get_args(kind))
    if typing.get_origin(kind) in {typing.Union, types.UnionType, tuple}:
        return set().union(*(names_typed(argument) for argument in typing.get_args(kind)))
    return set()


def names_listed(schema: dict[str, Any]) -> set[str]:
    """The names that a schema lists."""
    found = resolved(schema)
    inner = [*found.get("anyOf", []), *([found["items"]] if "items" in found else [])]
    const = [found["const"]] if "const" in found else []
    return {*found.get("enum", []), *const}.union(*(names_listed(one) for one in inner))


def differences(kind: Any, schema: dict[str, Any], at: str) -> list[str]:
    """Fields of a result that the schema does not have, or that only it has, or whose names are others."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        inner = next(a for a in arguments if a is not type(None))
        return differences(inner, next((k for k in schema.get("anyOf", []) if k.get("type") != "null"), schema), at)
    if origin is tuple:
        found = resolved(schema)
        return differences(arguments[0], found["items"], at) if "items" in found else []
    if not dataclasses.is_dataclass(kind):
        return []
    known, hints = properties(schema), typing.get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    wrong = [f"{at} leaves out {name}" for name in known if name not in names]
    for field in dataclasses.fields(kind):
        if field.name in known:
            wrong += differences(hints[field.name], known[field.name], f"{at}.{field.name}")
            if (typed := names_typed(hints[field.name])) != (listed := names_listed(known[field.name])):
                wrong.append(f"{at}.{field.name} is one of {sorted(typed)}, not of {sorted(listed)}")
        elif field.default is dataclasses.MISSING:
            wrong.append(f"{at}.{field.name}")
    return wrong


def test_every_field_of_a_result_is_in_the_answer() -> None:
    checked = set()
    for name, operation in OPERATIONS.items():
        kind = typing.get_type_hints(getattr(operations, name))["return"].__args__[0]
        success = next(r for status, r in operation["responses"].items() if status.startswith("2"))
        media_type, content = next(iter(success["content"].items()))
        if media_type == "application/json":
            schema = content["schema"]
            schema = resolved(schema)["properties"]["collections"] if name == "list_collections" else schema
            assert differences(kind, schema, name) == []
            checked.add(name)
    assert len(checked) == len(OPERATIONS) - 2


def test_errors_are_of_codes_that_exist() -> None:
    assert ERRORS.keys() <= KINDS.keys()
    assert {code for code, kind in KINDS.items() if kind.status in {401, 403, 404, 429}} - {
        "cross_origin"
    } <= ERRORS.keys()


def test_a_field_that_no_answer_has_would_be_found() -> None:
    made_up = dataclasses.make_dataclass("MadeUp", [("mood", str)], bases=(results.Verification,), frozen=True)
    answer = DOCUMENT["components"]["schemas"]["VerifyResponse"]
    assert differences(made_up, answer, "verify") == ["verify.mood"]
    assert differences(results.Verification, answer, "verify") == []


def test_a_field_that_is_left_out_would_be_found() -> None:
    kept = [(f.name, f.type) for f in dataclasses.fields(results.Erasure) if f.name != "receipt"]
    less = dataclasses.make_dataclass("Less", kept, frozen=True)
    assert differences(less, DOCUMENT["components"]["schemas"]["Erased"], "delete") == ["delete leaves out receipt"]


def test_names_that_the_document_does_not_list_would_be_found() -> None:
    answer = DOCUMENT["components"]["schemas"]["VerifyResponse"]
    for kind in (
        str,
        typing.Literal["match", "no_match"],
        typing.Literal["match", "no_match", "inconclusive", "maybe"],
    ):
        made_up = dataclasses.make_dataclass("Wrong", [("decision", kind)], bases=(results.Verification,), frozen=True)
        wrong = differences(made_up, answer, "verify")
        assert [w.partition(" ")[0] for w in wrong] == ["verify.decision"]
