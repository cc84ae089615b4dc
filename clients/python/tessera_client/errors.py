"""Errors by the ``code`` of the service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class TesseraError(Exception):
    """A request that was not answered as asked.

    Attributes:
        code: stable and machine-readable, such as ``no_face``.
        status: of HTTP; 0 if there was no answer.
        detail: what happened and what to do.
        request_id: the X-Request-Id, by which the service's log and audit trail name it; None without an answer.
        details: further facts by name, such as limits and counts.
        retry_after: seconds after which it may work; None if repeating does not help or nobody knows.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: int = 0,
        request_id: str | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        # The arguments that the class is called with, else it can be neither pickled nor copied.
        super().__init__(code, detail)
        self.code, self.detail, self.status, self.request_id = code, detail, status, request_id
        self.details, self.retry_after = dict(details or {}), retry_after

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class ConnectionFailedError(TesseraError):
    """The service was not reached, or did not answer in time."""


class InvalidRequestError(TesseraError):
    """The request is not one that the service takes; ``details["errors"]`` has the fields.

    Its ``status`` is 0 where it would have been another request than the one meant, and so was not sent.
    """


class UnauthorizedError(TesseraError):
    """No key, or none that is valid."""


class ForbiddenError(TesseraError):
    """The key does not allow this."""


class PhotographError(TesseraError):
    """A photograph that cannot be used; another one may do."""


class NoFaceError(PhotographError):
    """No face was found."""


class MultipleFacesError(PhotographError):
    """More than one face was found where one is meant."""


class LowQualityError(PhotographError):
    """The face is not good enough to be enrolled."""


class NotFoundError(TesseraError):
    """A collection, subject, template or audit does not exist."""


class SubjectNotFoundError(NotFoundError):
    """The subject is not enrolled in the collection."""


class SubjectExistsError(TesseraError):
    """The subject is enrolled already, and ``on_conflict`` is ``reject``."""


class TargetUnsupportedError(TesseraError):
    """The calibration cannot support the target; ``details`` has the smallest one that it can."""


class RateLimitedError(TesseraError):
    """Too many requests."""


class LockedOutError(RateLimitedError):
    """Too many failed verifications of the subject; ``retry_after`` says when the next one may begin."""


class OverloadedError(TesseraError):
    """The service has too much to do."""


ERRORS: dict[str, type[TesseraError]] = {
    "invalid_request": InvalidRequestError,
    "malformed_body": InvalidRequestError,
    "unsupported_media_type": InvalidRequestError,
    "body_too_large": InvalidRequestError,
    "too_many_images": InvalidRequestError,
    "unauthenticated": UnauthorizedError,
    "forbidden": ForbiddenError,
    "empty_image": PhotographError,
    "unsupported_image_format": PhotographError,
    "animated_image": PhotographError,
    "truncated_image": PhotographError,
    "corrupt_image": PhotographError,
    "image_too_large": PhotographError,
    "image_too_small": PhotographError,
    "too_many_faces": PhotographError,
    "too_much_work": PhotographError,
    "degenerate_landmarks": PhotographError,
    "no_usable_image": PhotographError,
    "no_face": NoFaceError,
    "multiple_faces": MultipleFacesError,
    "low_quality": LowQualityError,
    "collection_not_found": NotFoundError,
    "template_not_found": NotFoundError,
    "audit_not_found": NotFoundError,
    "not_found": NotFoundError,
    "subject_not_found": SubjectNotFoundError,
    "subject_exists": SubjectExistsError,
    "target_unsupported": TargetUnsupportedError,
    "rate_limited": RateLimitedError,
    "locked_out": LockedOutError,
    "overloaded": OverloadedError,
    "deadline_exceeded": OverloadedError,
}
"""The class of each code that a caller may want to handle; the others are a plain ``TesseraError``."""
STANDARD = frozenset({"type", "title", "status", "detail", "code", "request_id"})


def error_of(status: int, body: Any, headers: Mapping[str, str]) -> TesseraError:
    """The error that an answer describes; ``body`` is its JSON, or None if it is none, as from a proxy."""
    problem = body if isinstance(body, dict) else {}
    code = str(problem.get("code") or "unexpected_answer")
    elsewhere = f", but points to {headers['location']}" if "location" in headers else ""
    detail = str(problem.get("detail") or f"the answer has status {status} and is not from the service{elsewhere}")
    return ERRORS.get(code, TesseraError)(
        code,
        detail,
        status=status,
        request_id=problem.get("request_id") or headers.get("x-request-id"),
        details={name: value for name, value in problem.items() if name not in STANDARD},
        retry_after=seconds_of(headers.get("retry-after")),
    )


def seconds_of(retry_after: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header; None without one, or for a date, which the service never sends."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
