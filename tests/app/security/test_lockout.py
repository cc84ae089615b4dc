from __future__ import annotations

import re
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.security.errors import LockedOut
from app.security.lockout import FREE_FAILURES, Lockout
from app.security.store import SecurityStore
from tests.app.security.conftest import lockout_of


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def attempt(lockout: Lockout, *, matched: bool = False, collection: str = "default", subject: str = "ada") -> None:
    with lockout.attempt(collection, subject) as under_way:
        under_way.matched = matched


def delay(lockout: Lockout) -> int:
    """How long the next attempt has to wait, seconds."""
    with pytest.raises(LockedOut) as refused, lockout.attempt("default", "ada"):
        raise AssertionError("it was let in")
    seconds: int = refused.value.details["retry_after"]
    return seconds


def test_five_failures_are_free_and_then_each_doubles_the_wait(store: SecurityStore, clock: Clock) -> None:
    lockout = lockout_of(store, clock=clock)
    for _ in range(FREE_FAILURES):
        attempt(lockout)
    for expected in (30, 60, 120, 240, 480, 960, 1920, 3600, 3600):
        assert delay(lockout) == expected
        clock.wait(expected - 1)
        assert delay(lockout) == 1
        clock.wait(1)
        attempt(lockout)


def test_a_clock_that_is_set_back_locks_nobody_out_for_longer(store: SecurityStore, clock: Clock) -> None:
    lockout = lockout_of(store, clock=clock)
    for _ in range(FREE_FAILURES):
        attempt(lockout)
    clock.wait(-10 * 24 * 3600)
    assert delay(lockout) == 3600


def test_a_match_starts_anew(store: SecurityStore, clock: Clock) -> None:
    lockout = lockout_of(store, clock=clock)
    for _ in range(FREE_FAILURES - 1):
        attempt(lockout)
    attempt(lockout, matched=True)
    for _ in range(FREE_FAILURES):
        attempt(lockout)
    assert delay(lockout) == 30
    clock.wait(30)
    attempt(lockout, matched=True)
    attempt(lockout)


def test_others_are_not_touched(store: SecurityStore, clock: Clock) -> None:
    lockout = lockout_of(store, clock=clock)
    for _ in range(FREE_FAILURES):
        attempt(lockout)
    attempt(lockout, subject="grace")
    attempt(lockout, collection="staff")


def test_many_at_once_gain_nothing(store: SecurityStore, clock: Clock) -> None:
    lockout = lockout_of(store, clock=clock)
    with ExitStack() as under_way:
        for _ in range(FREE_FAILURES):
            under_way.enter_context(lockout.attempt("default", "ada"))
        assert delay(lockout) >= 1
    assert delay(lockout) == 30
    clock.wait(30)
    with lockout.attempt("default", "ada"):
        assert delay(lockout) >= 1


def test_what_gave_no_decision_does_not_count(store: SecurityStore, clock: Clock) -> None:
    lockout = lockout_of(store, clock=clock)
    for _ in range(3 * FREE_FAILURES):
        with pytest.raises(ZeroDivisionError), lockout.attempt("default", "ada"):
            raise ZeroDivisionError
    attempt(lockout)


def test_failures_survive_a_restart(tmp_path: Path, clock: Clock) -> None:
    store = SecurityStore(tmp_path)
    lockout = lockout_of(store, clock=clock)
    for _ in range(FREE_FAILURES):
        attempt(lockout)
    store.close()
    store = SecurityStore(tmp_path)
    assert delay(lockout_of(store, clock=clock)) == 30
    store.close()
    for path in tmp_path.iterdir():
        # Not within hexadecimal digits, where chance spells it one time in a hundred.
        assert not re.search(rb"(?<![0-9a-f])ada(?![0-9a-f])", path.read_bytes())


def test_fewer_failures_survive_a_restart_too_and_old_ones_do_not(tmp_path: Path, clock: Clock) -> None:
    store = SecurityStore(tmp_path)
    lockout = lockout_of(store, clock=clock)
    for _ in range(FREE_FAILURES - 1):
        attempt(lockout)
    store.close()
    store = SecurityStore(tmp_path)
    lockout = lockout_of(store, clock=clock)
    attempt(lockout)
    assert delay(lockout) == 30
    clock.wait(31 * 24 * 3600)
    lockout.forget_old()
    for _ in range(FREE_FAILURES):
        attempt(lockout)
    assert delay(lockout) == 30
    store.close()


def test_erased_subjects_and_collections_leave_no_failures(store: SecurityStore, clock: Clock) -> None:
    lockout = lockout_of(store, clock=clock)
    for collection, subject in (("default", "ada"), ("staff", "ada"), ("staff", "grace")):
        for _ in range(FREE_FAILURES):
            attempt(lockout, collection=collection, subject=subject)
    lockout.forget("default", "ada")
    attempt(lockout)
    lockout.forget_collection("staff")
    attempt(lockout, collection="staff")
    lockout.forget("default", "ada")
    lockout.forget_collection("staff")
    store.change_soon(lambda _: None).result(30)
    with store.reading() as connection:
        assert connection.execute("SELECT COUNT(*) FROM failures").fetchone()[0] == 0


def test_it_can_be_switched_off(store: SecurityStore, clock: Clock) -> None:
    lockout = lockout_of(store, enabled=False, clock=clock)
    for _ in range(3 * FREE_FAILURES):
        attempt(lockout)
