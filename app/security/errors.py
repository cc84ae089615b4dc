"""Refusals of a caller; every class is one stable code."""

from __future__ import annotations

from app.errors import TesseraError


class Unauthenticated(TesseraError):
    """No key was given, or none that is valid now."""

    code = "unauthenticated"


class Forbidden(TesseraError):
    """The key is valid but does not allow this."""

    code = "forbidden"


class RateLimited(TesseraError):
    """Too many requests from one key or address; ``details["retry_after"]`` in seconds."""

    code = "rate_limited"


class LockedOut(TesseraError):
    """Too many failed verifications of one subject; ``details["retry_after"]`` in seconds."""

    code = "locked_out"


class SecurityStoreUnavailable(TesseraError):
    """The database of keys and of the audit trail cannot be read or written, or its secret is missing."""

    code = "security_store_unavailable"
