"""Errors as RFC 9457 ``application/problem+json``, each with a stable code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app.errors import TesseraError
from app.faces import FORMATS

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = "retry_after"
"""Detail of a temporary problem, in whole seconds; also sent as the header."""
MOST_ERRORS, MOST_NAME, MOST_MESSAGE, MOST_DETAIL = 10, 64, 200, 1000
"""An answer never grows with the mistakes of a request: how many are listed, and characters of each part."""


UNAUTHORIZED = 401


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """HTTP status, title (the same for every occurrence) and an example of the detail."""

    status: int
    title: str
    example: str


KINDS: dict[str, ProblemKind] = {
    "empty_image": ProblemKind(422, "Empty image", "The image has no bytes; send an encoded photograph."),
    "unsupported_image_format": ProblemKind(415, "Unsupported image format", f"Send the photograph as {FORMATS}."),
    "animated_image": ProblemKind(422, "Animated image", "The image has several frames; send one frame."),
    "truncated_image": ProblemKind(422, "Truncated image", "The file ends too early; send it whole."),
    "corrupt_image": ProblemKind(422, "Corrupt image", "The image cannot be decoded; encode it anew."),
    "image_too_large": ProblemKind(413, "Image too large", "The image has 120.0 megapixels; at most 50.0 are taken."),
    "image_too_small": ProblemKind(
        422, "Image too small", "The picture is 8 x 8; each side needs at least 16 pixels. Send a larger photograph."
    ),
    "no_face": ProblemKind(422, "No face", "No face was found; send a sharper or closer photograph of a face."),
    "multiple_faces": ProblemKind(422, "Several faces", "2 faces of like size; crop one or use face_policy largest."),
    "too_many_faces": ProblemKind(
        422, "Too many faces", "The photograph shows 528 faces, at most 64 are taken. Crop it."
    ),
    "too_much_work": ProblemKind(
        413, "Too much work", "The photographs of this request have more than 200000000 pixels together. Send fewer."
    ),
    "too_many_candidates": ProblemKind(
        422, "Too many candidates", "100 candidates for each of 64 faces are too many; ask for a top_k of 7 or less."
    ),
    "degenerate_landmarks": ProblemKind(422, "Face cannot be aligned", "The landmarks of the face coincide."),
    "low_quality": ProblemKind(422, "Face quality too low", "The face is not good enough to enrol (blurred)."),
    "no_usable_image": ProblemKind(422, "No usable image", "No photograph gave a usable face; see failures."),
    "face_policy_not_allowed": ProblemKind(
        422, "Face policy not allowed", "Use face_policy dominant, single or largest to enrol."
    ),
    "target_unsupported": ProblemKind(
        422, "Target not supported", "The smallest false match rate that the calibration supports is 2.51e-05."
    ),
    "invalid_request": ProblemKind(422, "Invalid request", "The request has 1 invalid field; see errors."),
    "malformed_body": ProblemKind(400, "Malformed body", "The body is not valid JSON."),
    "unsupported_media_type": ProblemKind(
        415, "Unsupported media type", "Send multipart/form-data or application/json."
    ),
    "body_too_large": ProblemKind(413, "Body too large", "The body is larger than 33.6 MB (33554432 bytes)."),
    "too_many_images": ProblemKind(413, "Too many images", "At most 16 images are taken in one request."),
    "idempotency_key_reused": ProblemKind(422, "Idempotency key reused", "This key belongs to another request."),
    "idempotency_conflict": ProblemKind(409, "Idempotency conflict", "Another request with this key is under way."),
    "collection_not_found": ProblemKind(
        404, "Collection not found", "There is no collection 'staff'; create it first."
    ),
    "collection_exists": ProblemKind(409, "Collection exists", "The collection 'staff' exists already."),
    "collection_not_empty": ProblemKind(
        409, "Collection not empty", "Collection 'staff' has 41 subject(s); add force=true to erase them with it."
    ),
    "audit_not_found": ProblemKind(
        404, "Audit not found", "No audit of collection 'staff' was made; POST to start one."
    ),
    "audit_not_done": ProblemKind(409, "Audit not done", "The audit is 40 % done; ask again later."),
    "subject_not_found": ProblemKind(404, "Subject not found", "There is no subject 'ada' in collection 'default'."),
    "subject_exists": ProblemKind(
        409, "Subject exists", "The subject 'ada' exists; use on_conflict append or replace."
    ),
    "subjects_not_alike": ProblemKind(
        409, "Subjects not alike", "The subjects 'ada' and 'bob' are 1.870 apart; duplicates are up to 0.868 apart."
    ),
    "template_not_found": ProblemKind(404, "Template not found", "The subject 'ada' has no such template."),
    "last_template": ProblemKind(409, "Last template", "A subject keeps at least one template; delete the subject."),
    "unauthenticated": ProblemKind(401, "No valid key", "Send a key: `Authorization: Bearer tessera_...`."),
    "forbidden": ProblemKind(403, "Not allowed", "This key lacks the scope delete; use one that was created with it."),
    "cross_origin": ProblemKind(403, "Another origin", "A web page of another origin sent this request."),
    "unknown_host": ProblemKind(421, "Unknown host", "This name is not one that the service answers to."),
    "rate_limited": ProblemKind(429, "Too many requests", "More than 100/minute for one key; wait 12 s."),
    "locked_out": ProblemKind(
        429,
        "Too many failures",
        "5 verifications of this subject failed in a row, 0 are under way; the next one may begin in 30 s.",
    ),
    "security_store_unavailable": ProblemKind(
        503, "Keys and audit trail unavailable", "The audit trail cannot be written: database or disk is full."
    ),
    "too_many_templates": ProblemKind(
        409, "Too many templates", "The subject 'ada' has 8 templates; delete some, or replace them."
    ),
    "overloaded": ProblemKind(503, "Overloaded", "264 requests are being served or wait already; try again later."),
    "deadline_exceeded": ProblemKind(503, "Deadline exceeded", "The request waited 30 s and was not begun; try later."),
    "gallery_unavailable": ProblemKind(503, "Gallery unavailable", "The database does not answer."),
    "template_damaged": ProblemKind(
        503, "Template damaged", "1 stored template(s) of subject 'ada' in collection 'default' are damaged."
    ),
    "subject_damaged": ProblemKind(
        503, "Subject damaged", "The stored record of subject 'ada' in collection 'default' is damaged."
    ),
    "backup_failed": ProblemKind(503, "Backup failed", "The backup is damaged: nothing was changed."),
    "gallery_in_use": ProblemKind(503, "Gallery in use", "Another process has the data directory open."),
    "encryption_key_missing": ProblemKind(503, "Encryption key missing", "The stored templates are encrypted."),
    "chips_need_encryption": ProblemKind(
        422, "Chips need encryption", "Chips are kept only where templates are encrypted: set a master key."
    ),
    "encoder_mismatch": ProblemKind(503, "Encoder mismatch", "The stored templates come from another encoder."),
    "encoder_weights_invalid": ProblemKind(503, "Encoder unusable", "The encoder cannot be loaded."),
    "calibration_invalid": ProblemKind(503, "Calibration unusable", "The calibration is not this encoder's."),
    "cohort_invalid": ProblemKind(503, "Cohort unusable", "The cohort is not the one that the calibration goes with."),
    "detector_unavailable": ProblemKind(503, "Detector unusable", "The detector cannot be loaded."),
    "tracing_unavailable": ProblemKind(503, "Tracing unavailable", "A collector is named, but not its packages."),
    "not_ready": ProblemKind(503, "Not ready", "A part of the service does not work; see checks."),
    "not_found": ProblemKind(404, "Not found", "There is nothing at this path; see /docs."),
    "method_not_allowed": ProblemKind(405, "Method not allowed", "This path takes GET, HEAD; see /docs."),
    "internal_error": ProblemKind(500, "Internal error", "Something went wrong; the log has it under this request_id."),
}


class Problem(BaseModel):
    """An error. Further members, such as limits and counts, depend on the code."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="urn:tessera:problem:<code>")
    title: str = Field(description="what went wrong, the same for every occurrence")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="what happened this time and what to do")
    code: str = Field(description="stable and machine-readable")
    request_id: str = Field(description="the X-Request-Id of this response")


MEMBERS = frozenset(Problem.model_fields)


class RequestError(TesseraError):
    """A request that is invalid as HTTP or in its body; raised in ``app.api`` only."""

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message, **details)
        self.code = code


def invalid_fields(errors: list[dict[str, str]]) -> RequestError:
    """The error for fields that failed validation, each ``{"field": ..., "message": ...}``; the first few are shown.

    The name of a field may be the client's own: it is cut. Values are never repeated.
    """
    shown = [{"field": e["field"][:MOST_NAME], "message": e["message"][:MOST_MESSAGE]} for e in errors[:MOST_ERRORS]]
    named = "; ".join(f"{e['field']}: {e['message']}" for e in shown[:3])
    return RequestError("invalid_request", f"Some fields are not valid: {named}.", errors=shown)


def reason_of(error: TesseraError) -> str | None:
    """Why the service failed, for its log; None for a client's mistake and for what is refused for a while only."""
    # Only what is the operator's to mend.
    return error.reason if KINDS[error.code].status >= 500 and RETRY_AFTER not in error.details else None


def problem_response(code: str, detail: str, request_id: str, details: dict[str, Any] | None = None) -> JSONResponse:
    """The response for a code of ``KINDS``. Raises ValueError for details named as members of every problem."""
    kind, details = KINDS[code], details or {}
    if taken := sorted(MEMBERS & details.keys()):
        raise ValueError(f"details of {code} have names that every problem has: {', '.join(taken)}")
    body = {
        "type": f"urn:tessera:problem:{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail[:MOST_DETAIL],
        "code": code,
        "request_id": request_id,
    }
    wait = details.get(RETRY_AFTER)
    headers = {} if wait is None else {"Retry-After": str(wait)}
    if kind.status == UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(details | body, status_code=kind.status, headers=headers, media_type=MEDIA_TYPE)


EVERYWHERE = ("unknown_host", "cross_origin", "internal_error")
"""What any route may answer."""
WITH_KEY = ("invalid_request", "unauthenticated", "forbidden", "rate_limited", "security_store_unavailable")
"""What any route that needs a key may answer."""
TEMPORARY = {429, 503}
WAIT = "seconds after which the same request may succeed; absent where nobody knows"


def problems(*codes: str, key: bool = True) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for a route, with an example for each code; ``key``: whether it needs one."""
    responses: dict[int | str, dict[str, Any]] = {}
    for code in dict.fromkeys((*codes, *(WITH_KEY if key else ()), *EVERYWHERE)):
        kind = KINDS[code]
        response = responses.setdefault(
            kind.status,
            {
                "description": "",
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )
        if kind.status in TEMPORARY:
            response["headers"] = {"Retry-After": {"description": WAIT, "schema": {"type": "integer", "minimum": 0}}}
        response["description"] = "; ".join(filter(None, [response["description"], kind.title]))
        response["content"][MEDIA_TYPE]["examples"][code] = {
            "summary": kind.title,
            "value": {
                "type": f"urn:tessera:problem:{code}",
                "title": kind.title,
                "status": kind.status,
                "detail": kind.example,
                "code": code,
                "request_id": "6f1c2a9e54b0431f8a1d3c5b7e9f0a12",
            },
        }
    return responses


def operation_of(request: Request) -> str:
    """The last part of the route: ``enroll``, ``verify``."""
    return str(getattr(request.scope.get("route"), "path", "")).rpartition("/")[2]


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def methods_of(request: Request, path: str | None = None) -> str:
    """The methods that its path, or another one, takes, all routes considered, as ``Allow`` has them."""

    def taken(method: str) -> bool:
        scope = {**request.scope, "method": method, "path": request.scope["path"] if path is None else path}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes)

    return ", ".join(method for method in METHODS if taken(method))


def install_problem_handlers(app: FastAPI, refused: Callable[[Sequence[Any]], RequestError]) -> None:
    """Turns every expected exception into a problem; the middleware catches the others.

    ``refused`` describes what FastAPI refuses in a path, a query or headers.
    """

    @app.exception_handler(TesseraError)
    async def expected(request: Request, error: TesseraError) -> JSONResponse:
        if error.code == "forbidden":
            request.app.state.components.record_refusal(request)
        request.state.problem = error.code
        request.state.reason = reason_of(error)
        request.app.state.components.metrics.count_failure(operation_of(request), error)
        return problem_response(error.code, error.message, request.state.request_id, error.details)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        problem = refused(error.errors())
        request.state.problem = problem.code
        return problem_response(problem.code, problem.message, request.state.request_id, problem.details)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "malformed_body")
        request.state.problem = code
        headers, detail = dict(error.headers or {}), KINDS[code].example
        if code == "method_not_allowed":
            headers["Allow"] = methods_of(request)
            detail = f"This path takes {headers['Allow']}; see /docs."
        path, unmatched = str(request.scope["path"]), "route" not in request.scope
        if code == "not_found" and unmatched and path.endswith("/") and methods_of(request, path.rstrip("/")):
            detail = "There is nothing at this path; ask for it without the slash at its end."
        response = problem_response(code, detail, request.state.request_id)
        response.headers.update(headers)
        return response
