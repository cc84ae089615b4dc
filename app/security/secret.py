"""The secret of an installation: what keys are hashed with, the audit trail is sealed with and ids are hidden by."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from app.security.errors import SecurityStoreUnavailable

SECRET_NAME = "secret.key"  # noqa: S105
SECRET_BYTES = 32


class Secret:
    """32 random bytes from a file; every use has a purpose of its own, so that no two give the same digest."""

    def __init__(self, value: bytes) -> None:
        if len(value) != SECRET_BYTES:
            raise ValueError(f"A secret has {SECRET_BYTES} bytes.")
        self._value = value

    def digest(self, purpose: str, *parts: str) -> bytes:
        """HMAC-SHA256 of the parts for a purpose, 32 bytes."""
        message = "\0".join((purpose, *(f"{len(part)}:{part}" for part in parts)))
        return hmac.digest(self._value, message.encode(), "sha256")

    def pseudonym(self, collection: str, subject_id: str) -> str:
        """A name for a subject that nobody without the secret can trace back to an id."""
        return self.digest("subject", collection, subject_id)[:16].hex()


def read_secret(path: Path, *, create: bool) -> Secret:
    """The secret in this file (64 hexadecimal digits), created for its owner alone if it is missing.

    Raises SecurityStoreUnavailable if it cannot be read, is none, or is missing and must not be created.
    """
    try:
        if create:
            _create(path)
        return Secret(bytes.fromhex(path.read_text(encoding="ascii").strip()))
    except FileNotFoundError as error:
        raise SecurityStoreUnavailable(
            f"The secret {path} is missing, and the keys and the audit trail beside it were made with it. Restore it "
            "from where it is kept; without it, remove security.sqlite3 and create new keys."
        ) from error
    except (OSError, ValueError) as error:
        raise SecurityStoreUnavailable(
            f"The secret {path} cannot be used: {error}. It is a file of {2 * SECRET_BYTES} hexadecimal digits."
        ) from error


def _create(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(SECRET_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        # Half a secret would be taken for one whose database is lost.
        path.unlink(missing_ok=True)
        raise
