from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.security.errors import Forbidden, Unauthenticated
from app.security.keys import KEY, Authenticator, Caller, KeyStore, Scope
from app.security.store import SecurityStore


def test_a_key_is_found_and_nothing_like_it(store: SecurityStore) -> None:
    key, text = KeyStore(store).create("desk", [Scope.VERIFY], collections=["staff"], rate="5/minute")
    assert KEY.fullmatch(text)
    authenticator = Authenticator(store)
    assert authenticator.key_of(text) == key
    last = "A" if text[-1] != "A" else "B"
    for wrong in ("", text[:-1], text + "A", text[:-1] + last, text.upper(), f"tessera_{key.id}_", "x" * 10_000):
        with pytest.raises(Unauthenticated, match="not known"):
            authenticator.key_of(wrong)


def test_a_key_where_there_are_none_is_refused_with_the_way_out(store: SecurityStore) -> None:
    with pytest.raises(Unauthenticated, match="send none"):
        Authenticator(store).key_of("tessera_...")


def test_a_key_of_another_installation_is_unknown(store: SecurityStore, tmp_path: Path) -> None:
    _, text = KeyStore(store).create("desk", [Scope.VERIFY])
    other = SecurityStore(tmp_path / "other")
    with store.reading() as connection:
        row = connection.execute("SELECT * FROM keys").fetchone()
    # Even a copied row opens nothing: its digest was made with another secret.
    other.change(lambda c: c.execute(f"INSERT INTO keys VALUES ({', '.join('?' * len(row))})", row))
    with pytest.raises(Unauthenticated, match="not known"):
        Authenticator(other).key_of(text)
    other.close()


def test_the_secret_of_a_key_is_nowhere_on_the_disk(store: SecurityStore, tmp_path: Path) -> None:
    _, text = KeyStore(store).create("desk", [Scope.VERIFY])
    store.close()
    for path in tmp_path.iterdir():
        assert text.rpartition("_")[2].encode() not in path.read_bytes()


def test_keys_end(store: SecurityStore) -> None:
    keys = KeyStore(store)
    soon = datetime.now(UTC) - timedelta(seconds=1)
    _, expired = keys.create("expired", [Scope.READ], expires_at=soon)
    revoked, revoked_text = keys.create("revoked", [Scope.READ])
    keys.revoke(revoked.id)
    overlapping, overlapping_text = keys.create("overlapping", [Scope.READ])
    keys.revoke(overlapping.id, after=timedelta(hours=1))
    authenticator = Authenticator(store)
    for text in (expired, revoked_text):
        with pytest.raises(Unauthenticated, match="expired or was revoked"):
            authenticator.key_of(text)
    assert authenticator.key_of(overlapping_text).id == overlapping.id
    keys.revoke(overlapping.id)
    authenticator.refresh()
    with pytest.raises(Unauthenticated, match="revoked"):
        authenticator.key_of(overlapping_text)
    # A later end does not bring it back.
    keys.revoke(overlapping.id, after=timedelta(days=1))
    authenticator.refresh()
    with pytest.raises(Unauthenticated, match="revoked"):
        authenticator.key_of(overlapping_text)
    with pytest.raises(KeyError):
        keys.revoke("nothing")


def test_a_revoked_key_still_means_that_keys_are_needed(store: SecurityStore) -> None:
    assert not Authenticator(store).has_keys
    key, _ = KeyStore(store).create("only", [Scope.READ])
    KeyStore(store).revoke(key.id)
    assert Authenticator(store).has_keys


def test_an_admin_key_from_a_file(store: SecurityStore) -> None:
    authenticator = Authenticator(store, admin_key="s" * 40)
    assert authenticator.has_keys
    assert authenticator.key_of("s" * 40).scopes == {Scope.ADMIN}
    with pytest.raises(Unauthenticated):
        authenticator.key_of("s" * 41)


def test_what_a_caller_may() -> None:
    caller = Caller("k", frozenset({Scope.VERIFY, Scope.READ}), frozenset({"staff"}), "127.0.0.1")
    caller.require(Scope.VERIFY)
    caller.require(Scope.ENROLL, Scope.READ)
    with pytest.raises(Forbidden, match="enroll or delete"):
        caller.require(Scope.ENROLL, Scope.DELETE)
    caller.require_collection("staff")
    with pytest.raises(Forbidden, match="guests"):
        caller.require_collection("guests")
    with pytest.raises(Forbidden, match="all collections"):
        caller.require_all_collections()
    admin = Caller("a", frozenset({Scope.ADMIN}), None, "127.0.0.1")
    admin.require(Scope.DELETE)
    admin.require_collection("anything")
    admin.require_all_collections()
    nobody = Caller(None, frozenset(), frozenset(), "127.0.0.1")
    for scope in Scope:
        assert not nobody.may(scope)
