"""Request bodies: multipart or JSON, the same fields in both, read within the limits and never written to disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pydantic_core
from fastapi import Request
from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.api.problems import RequestError, invalid_fields
from app.settings import ServerSettings

Body = TypeVar("Body", bound=BaseModel)

FILE_FIELDS = ("image", "reference")
JSON_FIELDS = ("metadata",)
REPEATABLE_FIELDS = ("image",)
MAX_FORM_FIELDS = 16


def body_of(model: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that reads and validates the body of a request as ``model``."""

    async def read(request: Request) -> Body:
        settings: ServerSettings = request.app.state.settings.server
        media_type = parse_options_header(request.headers.get("content-type"))[0]
        if media_type == b"application/json":
            fields = await _read_json(request)
        elif media_type == b"multipart/form-data":
            fields = await _read_form(request, settings)
        else:
            raise RequestError(
                "unsupported_media_type", "send multipart/form-data with files or application/json with base64 images"
            )
        return _validated(model, fields, settings)

    return read


def openapi_body(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a body that comes as multipart or JSON."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    form = {**schema, "properties": {name: _form_field(name, s) for name, s in schema["properties"].items()}}
    example = {"image": "/9j/4AAQSkZJRgABAQ..."}
    if "subject_id" in schema["properties"]:
        example["subject_id"] = "ada"
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": schema, "example": example},
            },
        }
    }


def _form_field(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    if name == "metadata":
        return {"type": "string", "description": "a JSON object kept with the subject; replaces the old one"}
    if name not in FILE_FIELDS:
        return schema
    file = {"type": "string", "format": "binary", "description": "a JPEG, PNG or WebP"}
    return {"type": "array", "minItems": 1, "items": file} if "oneOf" in schema else file


async def _read_json(request: Request) -> Any:
    data = await request.body()
    try:
        return pydantic_core.from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError("malformed_body", f"the body is not valid JSON: {error}") from error


async def _read_form(request: Request, settings: ServerSettings) -> dict[str, Any]:
    # One more than allowed, so that the request is refused by its count of images and not by a parser's limit.
    parser = MultiPartParser(
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
        raise RequestError("malformed_body", f"the form cannot be read: {error.message}") from error
    except (KeyError, ValueError) as error:
        raise RequestError("malformed_body", f"the form cannot be read: {error}") from error
    try:
        return await _form_fields(form)
    finally:
        await form.close()


async def _form_fields(form: FormData) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name in form:
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
    if name in FILE_FIELDS:
        raise invalid_fields([{"field": name, "message": "must be sent as a file (with a filename)"}])
    if name in JSON_FIELDS:
        try:
            return pydantic_core.from_json(value, allow_inf_nan=False)
        except ValueError as error:
            raise invalid_fields([{"field": name, "message": f"is not valid JSON: {error}"}]) from error
    return value


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
    check_metadata(getattr(body, "metadata", None), settings)
    return body


def check_metadata(metadata: Any, settings: ServerSettings) -> None:
    """Raises RequestError if the metadata of a subject takes more bytes as JSON than is allowed."""
    if metadata and len(pydantic_core.to_json(metadata)) > settings.max_metadata_bytes:
        message = f"is larger than {settings.max_metadata_bytes} bytes of JSON"
        raise invalid_fields([{"field": "metadata", "message": message}])


def _too_many_images(settings: ServerSettings) -> RequestError:
    return RequestError(
        "too_many_images",
        f"at most {settings.max_images} images are taken in one request; send the others in another one",
        max_images=settings.max_images,
    )
