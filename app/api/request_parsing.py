"""Request bodies: multipart or JSON with the same fields, read within limits and never written to disk."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio.to_thread
import jiter
from fastapi import Request
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser, parse_options_header
from pydantic import BaseModel, ValidationError

from app.api.dependencies import components_of
from app.api.field_errors import FILE_FIELDS, field_errors, one_photograph, takes_one
from app.api.middleware import too_large
from app.api.problems import RequestError, invalid_fields
from app.settings import ServerSettings

Body = TypeVar("Body", bound=BaseModel)

JSON = "application/json"
MULTIPART = "multipart/form-data"
UTF_8 = frozenset({"", "utf-8", "utf8"})
JSON_FIELDS = ("metadata",)
REPEATABLE_FIELDS = ("image",)
MAX_FORM_FIELDS = 16
MAX_SEGMENTS = 512
"""Parts of a form that are looked at: enough to tell how many images there are too many."""
MAX_CONTENT_TYPE = 512
MEDIA_TYPE_NAME = re.compile(r"[\w.+-]{1,64}/[\w.+-]{1,64}")
LARGE_BODY = 64 * 1024
"""Larger bodies are parsed on a thread: decoding megabytes of base64 would block the event loop."""
RECORD_BODY = 16 * 1024
"""Room in the body of a record besides its metadata, whose JSON may be escaped."""
JSON_MARKS = 1024
"""Commas, brackets and braces in a JSON body, besides those of its metadata."""


def body_of(model: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that reads and validates the body of a request, multipart or JSON, as ``model``."""

    async def read(request: Request) -> Body:
        components = components_of(request)
        settings = components.settings.server
        components.admission.require_room()
        media_type, options = _media_type(request)
        if media_type not in (JSON, MULTIPART):
            raise _unsupported(
                media_type,
                "Send multipart/form-data with files, such as `curl -F image=@photograph.jpg`, or application/json "
                "with base64 images",
            )
        data, path = await _read(request, settings.max_body_bytes, too_large), _path(request)
        if media_type == JSON:
            return await _on_thread_if_large(data, lambda: _parsed_json(model, path, data, settings))
        boundary = options.get("boundary", "")
        return await _on_thread_if_large(
            data, lambda: _validated(model, path, _read_form(model, data, boundary, settings), settings)
        )

    return read


def json_body_of(model: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that reads and validates a JSON body as ``model``; photographs are none of it, so it is small."""

    async def read(request: Request) -> Body:
        settings = components_of(request).settings.server
        media_type, _ = _media_type(request)
        if media_type != JSON:
            raise _unsupported(media_type, "Send application/json")
        most = min(RECORD_BODY + 6 * settings.max_metadata_bytes, settings.max_body_bytes)
        data, path = await _read(request, most, _record_too_large), _path(request)
        return await _on_thread_if_large(data, lambda: _parsed_json(model, path, data, settings))

    return read


def _media_type(request: Request) -> tuple[str, dict[str, str]]:
    """The media type and its options. Nothing that a client says chooses a codec: text is UTF-8."""
    header = request.headers.get("content-type", "")
    if len(header) > MAX_CONTENT_TYPE:
        raise RequestError("unsupported_media_type", "The Content-Type is too long.")
    media_type, options = parse_options_header(header)
    if options.get("charset", "").lower() not in UTF_8:
        raise RequestError("unsupported_media_type", "Send text as UTF-8; no other charset is read.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError("unsupported_media_type", "Send the body as it is, without a Content-Encoding.")
    return media_type, options


def _unsupported(media_type: str, advice: str) -> RequestError:
    given = f"`{media_type}`" if MEDIA_TYPE_NAME.fullmatch(media_type) else "none that can be read"
    return RequestError("unsupported_media_type", f"{advice}; the Content-Type of this request is {given}.")


def _path(request: Request) -> str:
    """The path as the documentation has it."""
    path: str = getattr(request.scope.get("route"), "path", request.url.path)
    return path


async def _read(request: Request, most: int, refusal: Callable[[int], RequestError]) -> bytes:
    """The whole body. Raises the ``refusal`` of more than ``most`` bytes."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise refusal(most)
        chunks.append(chunk)
    return b"".join(chunks)


def _record_too_large(most: int) -> RequestError:
    return RequestError(
        "body_too_large",
        f"The body is larger than {most} bytes, the most without photographs: {RECORD_BODY} and six times "
        "TESSERA_SERVER__MAX_METADATA_BYTES. Send less metadata.",
        max_body_bytes=most,
    )


async def _on_thread_if_large(data: bytes, parse: Callable[[], Body]) -> Body:
    return parse() if len(data) < LARGE_BODY else await anyio.to_thread.run_sync(parse)


def _parsed_json(model: type[Body], path: str, data: bytes, settings: ServerSettings) -> Body:
    # Base64 has none of these characters: a body with many of them is no request, and costs memory to take apart.
    marks = sum(data.count(mark) for mark in (b",", b"[", b"{"))
    if marks > JSON_MARKS + settings.max_metadata_bytes:
        raise RequestError("malformed_body", "The JSON has far more values than any request; see /docs.")
    try:
        fields = _json(data)
    except ValueError as error:
        raise RequestError("malformed_body", f"The body is not valid JSON: {error}.") from error
    return _validated(model, path, fields, settings)


def _read_form(model: type[BaseModel], data: bytes, boundary: str, settings: ServerSettings) -> dict[str, Any]:
    try:
        return _form_fields(model, _segments(data, boundary, settings))
    except ParserLimitReached as error:
        raise RequestError("malformed_body", f"The form is beyond its limits: {error}.") from error
    except (MultipartError, UnicodeError) as error:
        raise RequestError("malformed_body", f"The form cannot be read: {error}.") from error


def _segments(data: bytes, boundary: str, settings: ServerSettings) -> list[tuple[MultipartSegment, bytes]]:
    """The parts of a form with their contents. Raises MultipartError, RequestError."""
    found: list[tuple[MultipartSegment, bytes]] = []
    files = texts = 0
    with PushMultipartParser(boundary, max_segment_count=MAX_SEGMENTS, strict=True) as parser:
        for event in parser.parse(data):
            if isinstance(event, MultipartSegment):
                files, texts = files + (event.filename is not None), texts + (event.filename is None)
                # Two more than allowed, so that a field that takes one image says so itself.
                if files > settings.max_images + len(FILE_FIELDS):
                    raise _too_many_images(settings)
                if texts > MAX_FORM_FIELDS:
                    raise RequestError("malformed_body", f"The form has more than {MAX_FORM_FIELDS} text fields.")
                found.append((event, b""))
            elif event is not None:
                found[-1] = (found[-1][0], found[-1][1] + event if found[-1][1] else bytes(event))
    return found


def _form_fields(model: type[BaseModel], segments: list[tuple[MultipartSegment, bytes]]) -> dict[str, Any]:
    fields: dict[str, list[Any]] = {}
    for segment, content in segments:
        if segment.disposition != "form-data" or segment.name is None:
            raise RequestError("malformed_body", "Every part of the form needs a Content-Disposition with its name.")
        name = segment.name
        if name not in model.model_fields:
            # The model refuses it, together with whatever else is wrong.
            fields.setdefault(name, [""])
            continue
        if not content and not segment.filename:
            # What a browser sends for a field that was left empty, or for no chosen file.
            continue
        if name in fields and name not in REPEATABLE_FIELDS:
            raise invalid_fields([{"field": name, "message": "given more than once"}])
        fields.setdefault(name, []).append(_form_value(name, content, file=segment.filename is not None))
    for name, values in fields.items():
        if len(values) > 1 and takes_one(model, name):
            raise invalid_fields([{"field": name, "message": one_photograph(model, len(values))}])
    return {name: values if len(values) > 1 else values[0] for name, values in fields.items()}


def _form_value(name: str, content: bytes, *, file: bool) -> Any:
    if file and name not in FILE_FIELDS:
        raise invalid_fields([{"field": name, "message": "is text, not a file"}])
    if file:
        return content
    if name in FILE_FIELDS:
        raise invalid_fields(
            [
                {
                    "field": name,
                    "message": f"must be sent as a file (with a filename), such as `curl -F {name}=@photograph.jpg`",
                }
            ]
        )
    text = content.decode()
    if name in JSON_FIELDS:
        try:
            return _json(content)
        except ValueError as error:
            raise invalid_fields([{"field": name, "message": f"is not valid JSON: {error}"}]) from error
    return text


def _json(data: bytes) -> Any:
    """The value of JSON text. Raises ValueError, also for a name given twice, of which most readers take the last."""
    return jiter.from_json(data, allow_inf_nan=False, catch_duplicate_keys=True)


def _validated(model: type[Body], path: str, fields: Any, settings: ServerSettings) -> Body:
    try:
        body = model.model_validate(fields)
    except ValidationError as error:
        raise field_errors(error.errors(include_url=False, include_input=False), model, path) from error
    images = getattr(body, "image", None)
    if isinstance(images, list) and len(images) > settings.max_images:
        raise _too_many_images(settings)
    _check_metadata(getattr(body, "metadata", None), settings)
    return body


def _check_metadata(metadata: Any, settings: ServerSettings) -> None:
    try:
        size = _size(metadata)
    except ValueError as error:
        # Numbers beyond the range of a double arrive as infinity.
        raise invalid_fields([{"field": "metadata", "message": "holds a number that is too large"}]) from error
    if size > settings.max_metadata_bytes:
        message = f"is larger than {settings.max_metadata_bytes} bytes of JSON"
        raise invalid_fields([{"field": "metadata", "message": message}])


def _size(metadata: Any) -> int:
    """Bytes of metadata as JSON. Raises ValueError for a number that is too large."""
    return len(json.dumps(metadata, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode())


def read_metadata(data: bytes, most_bytes: int) -> dict[str, Any]:
    """Metadata from JSON text outside of a request, by the rules of a request. Raises ValueError."""
    metadata = _json(data)
    if not isinstance(metadata, dict):
        raise ValueError("it is not an object")
    if _size(metadata) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes} bytes")
    return metadata


def _too_many_images(settings: ServerSettings) -> RequestError:
    return RequestError(
        "too_many_images",
        f"At most {settings.max_images} images are taken in one request; send the others in another one.",
        max_images=settings.max_images,
    )
