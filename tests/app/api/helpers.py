"""Short ways to ask, and what every answer must be."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx

Files = list[tuple[str, tuple[str, bytes, str]]]


def files(*images: bytes, **named: bytes) -> Files:
    """Multipart files: ``image`` for each positional argument, other fields by name."""
    parts = [("image", image) for image in images] + list(named.items())
    return [(name, (f"{name}.jpg", data, "image/jpeg")) for name, data in parts]


def base64_of(image: bytes) -> str:
    return base64.b64encode(image).decode()


def ok(response: httpx.Response, status: int = 200) -> dict[str, Any]:
    """The body of a success."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body: dict[str, Any] = response.json()
    return body


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body of an error, which has every member that RFC 9457 and this service promise."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json"), (
        response.text
    )
    body: dict[str, Any] = json.loads(response.content, parse_constant=lambda name: f"not JSON: {name}")
    assert body["code"] == code, body
    assert body["type"] == f"urn:tessera:problem:{code}"
    assert body["status"] == status
    assert isinstance(body["title"], str)
    assert body["title"]
    assert isinstance(body["detail"], str)
    assert body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]
    return body


def invalid_field(response: httpx.Response, field: str) -> str:
    """The message about the only invalid field."""
    errors = problem(response, 422, "invalid_request")["errors"]
    assert [e["field"] for e in errors] == [field]
    message: str = errors[0]["message"]
    return message
