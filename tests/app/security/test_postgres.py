"""What several replicas have to agree on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

import app.postgres
from app.security.errors import LockedOut, SecurityStoreUnavailable
from app.security.keys import Authenticator, KeyStore, Scope
from app.security.lockout import FREE_FAILURES
from app.security.postgres import ATTEMPT_LASTS, PostgresSecurityStore, SharedLockout
from app.security.trail import AuditTrail, Entry
from benchmarks.postgres_server import IN_MEMORY, PostgresServer
from tests.app.postgres import url
from tests.app.process import wait_until

__all__ = ["url"]


def test_a_key_made_at_one_replica_opens_the_other_until_it_is_revoked(url: str, tmp_path: Path) -> None:
    with (
        closing(PostgresSecurityStore(url, tmp_path)) as one,
        closing(PostgresSecurityStore(url, tmp_path)) as two,
    ):
        authenticator = Authenticator(two)
        key, text = KeyStore(one).create("ada", [Scope.VERIFY])
        authenticator.refresh()
        assert authenticator.key_of(text).id == key.id
        KeyStore(one).revoke(key.id)
        KeyStore(one).revoke(key.id, after=timedelta(days=1))
        authenticator.refresh()
        with pytest.raises(Exception, match="revoked"):
            authenticator.key_of(text)


def test_a_replica_with_another_secret_is_refused(url: str, tmp_path: Path) -> None:
    PostgresSecurityStore(url, tmp_path / "one").close()
    with pytest.raises(SecurityStoreUnavailable, match="All replicas need the same"):
        PostgresSecurityStore(url, tmp_path / "two")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "secret.key").write_text("ab" * 32)
    with pytest.raises(SecurityStoreUnavailable, match="not the one"):
        PostgresSecurityStore(url, tmp_path / "two")
    PostgresSecurityStore(url, tmp_path / "two", tmp_path / "one" / "secret.key").close()


def test_nothing_is_begun_to_be_read(url: str, tmp_path: Path) -> None:
    with pytest.raises(SecurityStoreUnavailable, match="no keys"):
        PostgresSecurityStore(url, tmp_path, create=False)


def test_failures_at_all_replicas_count_together(url: str, tmp_path: Path) -> None:
    with (
        closing(PostgresSecurityStore(url, tmp_path)) as one,
        closing(PostgresSecurityStore(url, tmp_path)) as two,
    ):
        lockouts = [SharedLockout(one), SharedLockout(two)]
        for number in range(FREE_FAILURES):
            with lockouts[number % 2].attempt("default", "ada"):
                pass
        for lockout in lockouts:
            with pytest.raises(LockedOut), lockout.attempt("default", "ada"):
                pass
        lockouts[0].forget("default", "ada")
        with lockouts[1].attempt("default", "ada") as attempt:
            attempt.matched = True


def test_many_attempts_at_once_at_all_replicas_gain_nothing(url: str, tmp_path: Path) -> None:
    with (
        closing(PostgresSecurityStore(url, tmp_path)) as one,
        closing(PostgresSecurityStore(url, tmp_path)) as two,
        ExitStack() as under_way,
    ):
        lockouts = [SharedLockout(one), SharedLockout(two)]

        def begin(number: int) -> bool:
            try:
                under_way.enter_context(lockouts[number % 2].attempt("default", "ada"))
            except LockedOut:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(begin, range(24))) == FREE_FAILURES


def test_attempts_of_a_replica_that_is_gone_lock_nobody_out_for_long(url: str, tmp_path: Path) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    with closing(PostgresSecurityStore(url, tmp_path)) as store:
        gone = SharedLockout(store, clock=lambda: now)
        for _ in range(FREE_FAILURES):
            gone._begin(gone._name("default", "ada"))
        with pytest.raises(LockedOut), SharedLockout(store, clock=lambda: now).attempt("default", "ada"):
            pass
        later = SharedLockout(store, clock=lambda: now + ATTEMPT_LASTS + timedelta(seconds=1))
        with later.attempt("default", "ada") as attempt:
            attempt.matched = True


def set_standbys(server: PostgresServer, names: str) -> None:
    """Names the standbys whose confirmation every commit waits for."""
    server.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
    server.execute("SELECT pg_reload_conf()")
    with psycopg.connect(server.uri(), autocommit=True) as observer:
        shown = "SHOW synchronous_standby_names"
        wait_until(lambda: observer.execute(shown).fetchone() == (names,), "the server has read its settings")


def is_working(store: PostgresSecurityStore) -> bool:
    try:
        store.check()
    except SecurityStoreUnavailable:
        return False
    return True


@pytest.mark.slow
def test_a_record_is_written_once_however_long_the_standby_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.postgres, "COMMIT_SECONDS", 0.2)
    with (
        PostgresServer(on=IN_MEMORY) as server,
        closing(PostgresSecurityStore(server.uri(), tmp_path)) as store,
        psycopg.connect(server.uri(), autocommit=True) as observer,
    ):
        trail = AuditTrail(store)
        trail.record(Entry("k1", "verify", "match")).result(30)
        set_standbys(server, "nobody")
        versions = set()

        def tried_again() -> bool:
            versions.add(observer.execute("SELECT xmin::text FROM tessera.trail_ends").fetchone())
            return len(versions) > 4

        for number in range(3):
            trail.record_later(Entry("k1", "identify", "match", details={"number": number}))
        wait_until(tried_again, "several commits were not confirmed")
        assert not is_working(store)
        set_standbys(server, "")
        wait_until(lambda: is_working(store), "commits are confirmed again")
        trail.record(Entry("k1", "verify", "no_match")).result(30)
        assert [record.content.get("details", {}).get("number") for record in trail.records()] == [None, 0, 1, 2, None]
        assert trail.verify() == []
