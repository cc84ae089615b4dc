"""API keys: what they allow, and how they are stored.

A key is ``tessera_ID_SECRET``. Only a keyed digest of it is stored (HMAC-SHA256): a copy of the database opens nothing.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from app.security.errors import Forbidden, Unauthenticated
from app.security.secret import Secret
from app.security.store import SecurityStore, Statements

KEY = re.compile(r"tessera_([a-z2-7]{10})_([A-Za-z0-9_-]{43})")
_PURPOSE = "key"
_SELECT = """
    SELECT id, name, digest, scopes, collections, rate, created_at, expires_at, revoked_at FROM keys
    ORDER BY created_at, id
"""
_INSERT = """
    INSERT INTO keys (id, name, digest, scopes, collections, rate, created_at, expires_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""


class Scope(StrEnum):
    """What a key allows."""

    ENROLL = "enroll"
    """Enrol, and change metadata."""
    VERIFY = "verify"
    """Compare photographs, and a photograph with a subject."""
    IDENTIFY = "identify"
    """Search a collection; of candidates that do not match, neither id nor metadata is shown."""
    READ = "read"
    """Read subjects, collections and metrics."""
    DELETE = "delete"
    """Erase subjects and templates, and replace templates."""
    ADMIN = "admin"
    """Everything, collections and audits included."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret. ``collections`` None: all. ``rate``: such as ``100/minute``; None: the service's."""

    id: str
    name: str
    digest: bytes
    scopes: frozenset[Scope]
    collections: frozenset[str] | None
    rate: str | None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def valid(self, now: datetime) -> bool:
        """Whether it is neither revoked nor expired."""
        return all(end is None or now < end for end in (self.expires_at, self.revoked_at))


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request. ``key_id`` None: nobody in particular, where no key is needed."""

    key_id: str | None
    scopes: frozenset[Scope]
    collections: frozenset[str] | None
    address: str

    def may(self, *scopes: Scope) -> bool:
        """Whether one of these is allowed."""
        return Scope.ADMIN in self.scopes or any(scope in self.scopes for scope in scopes)

    def require(self, *scopes: Scope) -> None:
        """Raises Forbidden unless one of these is allowed."""
        if not self.may(*scopes):
            named = " or ".join(scopes)
            raise Forbidden(f"This key lacks the scope {named}; use one that was created with it.")

    def sees(self, collection: str) -> bool:
        """Whether this collection may be used."""
        return self.collections is None or collection in self.collections

    def require_collection(self, collection: str) -> None:
        """Raises Forbidden unless this collection may be used, whether or not it exists."""
        if not self.sees(collection):
            raise Forbidden(f"This key does not allow collection {collection!r}; use one that was created for it.")

    def require_all_collections(self) -> None:
        """Raises Forbidden for a key of some collections only."""
        if self.collections is not None:
            raise Forbidden("This concerns all collections, and this key was created for some only.")


class KeyStore:
    """Creates, lists and revokes keys."""

    def __init__(self, store: SecurityStore) -> None:
        self._store = store

    def create(
        self,
        name: str,
        scopes: Iterable[Scope],
        *,
        collections: Iterable[str] | None = None,
        expires_at: datetime | None = None,
        rate: str | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key and its text, which cannot be read again."""
        id_ = base64.b32encode(secrets.token_bytes(10))[:10].decode().lower()
        text = f"tessera_{id_}_{secrets.token_urlsafe(32)}"
        chosen = None if collections is None else frozenset(collections)
        digest = key_digest(self._store.secret, text)
        key = ApiKey(id_, name, digest, frozenset(scopes), chosen, rate, datetime.now(UTC), expires_at)
        self._store.change(lambda connection: _insert(connection, key))
        return key, text

    def all(self) -> list[ApiKey]:
        """Every key, revoked and expired ones included, oldest first."""
        with self._store.reading() as connection:
            return [_key(row) for row in connection.execute(_SELECT)]

    def revoke(self, key_id: str, *, after: timedelta = timedelta()) -> ApiKey:
        """Ends a key, now or later. Raises KeyError for an unknown one."""
        moment = (datetime.now(UTC) + after).isoformat()

        def change(connection: Statements) -> None:
            query = "UPDATE keys SET revoked_at = CASE WHEN revoked_at < ? THEN revoked_at ELSE ? END WHERE id = ?"
            if connection.execute(query, (moment, moment, key_id)).rowcount == 0:
                raise KeyError(key_id)

        self._store.change(change)
        return next(key for key in self.all() if key.id == key_id)


class Authenticator:
    """Finds the key of a request among those that were stored a moment ago."""

    def __init__(self, store: SecurityStore, *, admin_key: str | None = None) -> None:
        """``admin_key``: the text of one more key, for everything, that is not stored."""
        self._store, self._keys = store, KeyStore(store)
        self._unknown = secrets.token_bytes(32)
        self._fixed: ApiKey | None = None
        if admin_key is not None:
            digest = key_digest(store.secret, admin_key)
            self._fixed = ApiKey(
                "admin", "admin key file", digest, frozenset({Scope.ADMIN}), None, None, datetime.now(UTC)
            )
        self.refresh()

    @property
    def has_keys(self) -> bool:
        """Whether there was ever a key: then every request needs one."""
        return bool(self._known) or self._fixed is not None

    def refresh(self) -> None:
        """Reads the keys anew. Raises SecurityStoreUnavailable."""
        self._known = {key.id: key for key in self._keys.all()}

    def key_of(self, text: str) -> ApiKey:
        """The valid key with this text, compared in constant time. Raises Unauthenticated."""
        found = KEY.fullmatch(text)
        known = self._known.get(found[1]) if found else None
        digest = key_digest(self._store.secret, text)
        if hmac.compare_digest(digest, known.digest if known else self._unknown) and known is not None:
            if known.valid(datetime.now(UTC)):
                return known
            raise Unauthenticated("This key has expired or was revoked; use a new one.")
        if self._fixed is not None and hmac.compare_digest(digest, self._fixed.digest):
            return self._fixed
        if not self.has_keys:
            raise Unauthenticated("There is no key here yet: send none, or create one with `tessera keys create`.")
        raise Unauthenticated("This key is not known here; create one with `tessera keys create`.")


def key_digest(secret: Secret, text: str) -> bytes:
    """What is stored of a key."""
    return secret.digest(_PURPOSE, text)


def _insert(connection: Statements, key: ApiKey) -> None:
    connection.execute(
        _INSERT,
        (
            key.id,
            key.name,
            key.digest,
            json.dumps(sorted(key.scopes)),
            None if key.collections is None else json.dumps(sorted(key.collections)),
            key.rate,
            key.created_at.isoformat(),
            None if key.expires_at is None else key.expires_at.isoformat(),
        ),
    )


def _key(row: tuple[Any, ...]) -> ApiKey:
    id_, name, digest, scopes, collections, rate, *times = row
    created_at, expires_at, revoked_at = (None if time is None else datetime.fromisoformat(time) for time in times)
    assert created_at is not None
    return ApiKey(
        id_,
        name,
        digest,
        frozenset(Scope(scope) for scope in json.loads(scopes)),
        None if collections is None else frozenset(json.loads(collections)),
        rate,
        created_at,
        expires_at,
        revoked_at,
    )
