"""What is wrong with the fields of a request, in words that say what to do."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from app.api.problems import RequestError, invalid_fields
from app.api.schemas import ID_PATTERN

FILE_FIELDS = ("image", "reference")
ID_MESSAGE = "must be 1 to 128 letters, digits or any of . _ @ : + ~ - and begin with a letter or digit"


def in_order(names: Iterable[str]) -> list[str]:
    """The names of fields: photographs first, then whom they are of, then all others as they are."""
    first = [*FILE_FIELDS, "id", "subject_id"]
    return sorted(names, key=lambda name: first.index(name) if name in first else len(first))


def takes_one(model: type[BaseModel], name: str) -> bool:
    """Whether a field takes one value, not a list."""
    field = model.model_fields.get(name)
    return field is None or get_origin(field.annotation) is not list


def one_photograph(model: type[BaseModel], given: int | None = None) -> str:
    """The message for several photographs in a field that takes one."""
    sent = "" if given is None else f", not {given}"
    second = "; send the second one as `reference`" if "reference" in model.model_fields else ""
    return f"takes one photograph{sent}: a file in a form, base64 text in JSON{second}"


def field_errors(errors: Sequence[ErrorDetails], model: type[BaseModel], path: str) -> RequestError:
    """The error for a body that ``model`` refuses."""
    described = [
        {"field": ".".join(str(part) for part in e["loc"]) or "body", "message": _in_body(e, model, path)}
        for e in errors
    ]
    return invalid_fields(described)


def message_of(error: ErrorDetails) -> str:
    """What one value, of a body, a path or a query, should have been."""
    if error["type"] == "string_pattern_mismatch" and error.get("ctx", {}).get("pattern") == ID_PATTERN:
        return ID_MESSAGE
    return error["msg"].removeprefix("Value error, ")


def _in_body(error: ErrorDetails, model: type[BaseModel], path: str) -> str:
    name = str(error["loc"][0]) if error["loc"] else ""
    match error["type"]:
        case "extra_forbidden":
            return no_such_name(name, in_order(model.model_fields), kind="field", of=path)
        case "missing" if name in FILE_FIELDS:
            return "is missing: send a photograph, as a file in a form or as base64 text in JSON"
        case "missing":
            return "is missing"
        case "model_type" | "dict_type":
            return "must be a JSON object"
        case "bytes_type" if name in FILE_FIELDS and takes_one(model, name):
            return one_photograph(model)
    return message_of(error)


def no_such_name(name: str, known: Collection[str], *, kind: str, of: str) -> str:
    """The message for an unknown name of a ``kind``, such as a field, of a path or a route: the nearest and all."""
    nearest = difflib.get_close_matches(name[:64], known, n=1)
    hint = f"; did you mean `{nearest[0]}`?" if nearest else "."
    return f"there is no such {kind}{hint} The {kind}s of {of} are {', '.join(known)}"


def query_errors(errors: Sequence[Any]) -> RequestError:
    """The error for a path, a query or headers that FastAPI refuses."""
    return invalid_fields([{"field": ".".join(str(p) for p in e["loc"][1:]), "message": message_of(e)} for e in errors])
