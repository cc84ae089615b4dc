"""Request bodies: multipart or JSON with the same fields, read within limits and never written to disk."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

import anyio.to_thread
import pydantic_core
from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.api.dependencies import components_of
from app.api.problems import RequestError, invalid_fields
from app.api.schemas import REQUESTS
from app.settings import ServerSettings

Body = TypeVar("Body", bound=BaseModel)

JSON = "application/json"
MULTIPART = "multipart/form-data"
SCHEMA_REFERENCE = "#/components/schemas/{model}"
FILE_FIELDS = ("image", "reference")
JSON_FIELDS = ("metadata",)
REPEATABLE_FIELDS = ("image",)
MAX_FORM_FIELDS = 16
LARGE_JSON = 64 * 1024


def body_of(model: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that reads and validates the body of a request, multipart or JSON, as ``model``."""

    async def read(request: Request) -> Body:
        settings = components_of(request).settings.server
        media_type = _media_type(request)
        if media_type == JSON:
            return await _read_json(model, request, settings)
        if media_type == MULTIPART:
            return _validated(model, await _read_form(request, settings), settings)
        raise RequestError(
            "unsupported_media_type", "Send multipart/form-data with files or application/json with base64 images."
        )

    return read


def json_body_of(model: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that reads and validates a JSON body as ``model``."""

    async def read(request: Request) -> Body:
        if _media_type(request) != JSON:
            raise RequestError("unsupported_media_type", "Send application/json.")
        return await _read_json(model, request, components_of(request).settings.server)

    return read


def openapi_body(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a body sent as multipart or JSON."""
    described = openapi_json_body(model)
    schema = model.model_json_schema(ref_template=SCHEMA_REFERENCE)
    form = {
        "type": "object",
        "properties": {name: _form_field(name, field) for name, field in schema["properties"].items()},
        "required": schema["required"],
        "additionalProperties": False,
    }
    described["requestBody"]["content"][MULTIPART] = {"schema": form}
    return described


def openapi_json_body(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a JSON body; ``request_definitions`` holds the schema it refers to."""
    reference = {"$ref": SCHEMA_REFERENCE.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": reference}}}}


def request_definitions() -> dict[str, Any]:
    """The schemas of all request bodies, by name."""
    models: list[tuple[type[BaseModel], Literal["validation"]]] = [(model, "validation") for model in REQUESTS]
    definitions: dict[str, Any] = models_json_schema(models, ref_template=SCHEMA_REFERENCE)[1]["$defs"]
    return definitions


def _media_type(request: Request) -> str:
    return parse_options_header(request.headers.get("content-type"))[0].decode("latin-1")


def _form_field(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    if name == "metadata":
        return {"type": "string", "description": "a JSON object kept with the subject; replaces the old one"}
    if name not in FILE_FIELDS:
        return schema
    file = {"type": "string", "format": "binary", "description": "a JPEG, PNG or WebP"}
    return {"type": "array", "minItems": 1, "items": file} if "oneOf" in schema else file


async def _read_json(model: type[Body], request: Request, settings: ServerSettings) -> Body:
    data = await request.body()

    def parse() -> Body:
        try:
            fields = pydantic_core.from_json(data, allow_inf_nan=False)
        except ValueError as error:
            raise RequestError("malformed_body", f"The body is not valid JSON: {error}.") from error
        return _validated(model, fields, settings)

    # Decoding megabytes of base64 would block the event loop.
    return parse() if len(data) < LARGE_JSON else await anyio.to_thread.run_sync(parse)


class _FormParser(MultiPartParser):
    """Records whether the form was complete; a truncated form would otherwise go unnoticed."""

    complete = False

    def on_end(self) -> None:
        self.complete = True


async def _read_form(request: Request, settings: ServerSettings) -> dict[str, Any]:
    # One more than allowed, so that our own count of images refuses the request, not the parser's limit.
    parser = _FormParser(
        request.headers,
        request.stream(),
        max_files=settings.max_images + len(FILE_FIELDS),
        max_fields=MAX_FORM_FIELDS,
        max_part_size=settings.max_body_bytes,
    )
    # A photograph must not touch the disk.
    parser.spool_max_size = settings.max_body_bytes
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many_images(settings) from error
        raise RequestError("malformed_body", f"The form cannot be read: {error.message}") from error
    except (KeyError, ValueError) as error:
        raise RequestError("malformed_body", f"The form cannot be read: {error}.") from error
    try:
        if not parser.complete:
            raise RequestError("malformed_body", "The form ends before its closing boundary; send it whole.")
        return await _form_fields(form)
    finally:
        await form.close()


async def _form_fields(form: FormData) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name in form:
        _require_unicode(name)
        values = form.getlist(name)
        if len(values) > 1 and name not in REPEATABLE_FIELDS:
            raise invalid_fields([{"field": name, "message": "given more than once"}])
        read = [await _form_value(name, value) for value in values]
        fields[name] = read if len(read) > 1 else read[0]
    return fields


async def _form_value(name: str, value: UploadFile | str) -> Any:
    if isinstance(value, UploadFile):
        if name not in FILE_FIELDS:
            raise invalid_fields([{"field": name, "message": "is text, not a file"}])
        return await value.read()
    _require_unicode(value)
    if name in FILE_FIELDS:
        raise invalid_fields([{"field": name, "message": "must be sent as a file (with a filename)"}])
    if name in JSON_FIELDS:
        try:
            return pydantic_core.from_json(value, allow_inf_nan=False)
        except ValueError as error:
            raise invalid_fields([{"field": name, "message": f"is not valid JSON: {error}"}]) from error
    return value


def _require_unicode(text: str) -> None:
    # A form's charset may decode to lone surrogates, which cannot be encoded in an answer.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError("malformed_body", "The text of the form is not valid Unicode; send it as UTF-8.") from error


def _validated(model: type[Body], fields: Any, settings: ServerSettings) -> Body:
    try:
        body = model.model_validate(fields)
    except ValidationError as error:
        details = [
            {"field": ".".join(str(part) for part in e["loc"]) or "body", "message": e["msg"]}
            for e in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise invalid_fields(details) from error
    images = getattr(body, "image", None)
    if isinstance(images, list) and len(images) > settings.max_images:
        raise _too_many_images(settings)
    _check_metadata(getattr(body, "metadata", None), settings)
    return body


def _check_metadata(metadata: Any, settings: ServerSettings) -> None:
    try:
        size = len(json.dumps(metadata, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode())
    except ValueError as error:
        # Numbers beyond the range of a double arrive as infinity.
        raise invalid_fields([{"field": "metadata", "message": "holds a number that is too large"}]) from error
    if size > settings.max_metadata_bytes:
        message = f"is larger than {settings.max_metadata_bytes} bytes of JSON"
        raise invalid_fields([{"field": "metadata", "message": message}])


def _too_many_images(settings: ServerSettings) -> RequestError:
    return RequestError(
        "too_many_images",
        f"At most {settings.max_images} images are taken in one request; send the others in another one.",
        max_images=settings.max_images,
    )
