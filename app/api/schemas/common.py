"""Shared by schemas: ids, photographs, metadata and base classes."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    WithJsonSchema,
)

from app.faces import FORMATS

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@:+~-]{0,127}$"
MAX_TOP_K = 100


def _decode_image(value: object) -> object:
    """Passes a file's bytes through; decodes text as base64, with or without a ``data:`` prefix."""
    if not isinstance(value, str):
        return value
    text = value.partition(";base64,")[2] or "?" if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            "an image in JSON is base64 (RFC 4648, section 4) without line breaks; in a form it is a file"
        ) from error


def _no_boolean(value: object) -> object:
    # Python takes true for 1: a top_k or a distance that nobody asked for.
    if isinstance(value, bool):
        raise ValueError("is a number, not true or false")
    return value


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


Number = Annotated[float, BeforeValidator(_no_boolean)]
Integer = Annotated[int, BeforeValidator(_no_boolean)]
Identifier = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
Image = Annotated[
    bytes,
    BeforeValidator(_decode_image),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": f"a photograph as {FORMATS}"}),
]
Images = Annotated[
    list[Image],
    Field(min_length=1),
    BeforeValidator(_as_list),
    WithJsonSchema(
        {
            "oneOf": [
                {"type": "string", "contentEncoding": "base64"},
                {"type": "array", "minItems": 1, "items": {"type": "string", "contentEncoding": "base64"}},
            ],
            "description": "one or more photographs of the subject",
        }
    ),
]
Metadata = dict[str, JsonValue]


class RequestModel(BaseModel):
    """A request body; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class AttributesModel(BaseModel):
    """Built from any object with attributes of these names."""

    model_config = ConfigDict(from_attributes=True)
