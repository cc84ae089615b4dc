from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from app.security import shared_rates
from app.security.errors import RateLimited, SecurityStoreUnavailable
from app.security.postgres import PostgresSecurityStore
from app.security.rates import LocalRateLimits, RateLimits, network_of
from app.security.shared_rates import SharedRateLimits
from benchmarks.postgres_server import IN_MEMORY, PostgresServer
from tests.app.postgres import url
from tests.app.process import wait_until

__all__ = ["url"]


@pytest.fixture(params=["local", "shared"])
def rates(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RateLimits]:
    """Nothing counted yet, in either way."""
    if request.param == "local":
        yield LocalRateLimits()
        return
    with closing(PostgresSecurityStore(request.getfixturevalue("url"), tmp_path)) as store:
        yield SharedRateLimits(store)


def let_through(rates: RateLimits, count: int, rate: str, who: str = "a") -> int:
    """How many of so many requests."""

    def hit(_: int) -> bool:
        try:
            rates.hit(rate, "key", who)
        except RateLimited:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(hit, range(count)))


def in_one_window(seconds: int) -> None:
    """Waits for the beginning of a window if this one is nearly over: a test must not fall into two."""
    left = seconds - time.time() % seconds
    if left < seconds / 2:
        time.sleep(left)


def test_one_request_too_many_is_refused_with_a_time(rates: RateLimits) -> None:
    for _ in range(3):
        rates.hit("3/day", "key", "a")
    for _ in range(2):
        with pytest.raises(RateLimited, match="More than 3/day for one key") as refused:
            rates.hit("3/day", "key", "a")
        assert 1 <= refused.value.details["retry_after"] <= 2 * 86_400
    rates.hit("3/day", "key", "b")
    rates.hit("3/day", "address", "a")
    rates.hit("30/day", "key", "a")


def test_many_at_once_get_no_more_than_the_rate(rates: RateLimits) -> None:
    assert let_through(rates, 60, "20/day") == 20


def test_who_is_refused_again_and_again_gets_the_rate_all_the_same(rates: RateLimits) -> None:
    found: list[int] = []

    def often_enough() -> bool:
        found.append(let_through(rates, 20, "4/second"))
        return sum(found) >= 12

    wait_until(often_enough, "what is refused does not count")
    assert max(found) <= 4


def test_the_window_slides(rates: RateLimits) -> None:
    in_one_window(2)
    assert let_through(rates, 50, "20/second") == 20
    later: list[int] = []

    def some_more() -> bool:
        later.append(let_through(rates, 50, "20/second"))
        return sum(later) >= 20

    wait_until(some_more, "the earlier window is over")
    # As the share of the earlier window falls, they are let through little by little, not all at once.
    assert len([count for count in later if count]) > 1


# Shared


@pytest.fixture
def replicas(url: str, tmp_path: Path) -> Iterator[tuple[SharedRateLimits, SharedRateLimits]]:
    with (
        closing(PostgresSecurityStore(url, tmp_path)) as one,
        closing(PostgresSecurityStore(url, tmp_path)) as two,
    ):
        yield SharedRateLimits(one), SharedRateLimits(two)


def test_two_replicas_together_let_one_rate_through(replicas: tuple[SharedRateLimits, SharedRateLimits]) -> None:
    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(lambda each: let_through(each, 60, "50/day"), replicas))
    assert sum(counts) == 50


def test_who_is_refused_waits_exactly_as_long_as_told(replicas: tuple[SharedRateLimits, SharedRateLimits]) -> None:
    assert shared_rates._rest(4, 0, 4, 0.25) == 0.75
    # Four before: half of them count, so that two more are let through; after one more quarter a third one is.
    assert shared_rates._rest(4, 4, 2, 0.5) == pytest.approx(0.0)
    assert shared_rates._rest(4, 4, 3, 0.5) == pytest.approx(0.25)
    one, two = replicas
    assert let_through(one, 3, "2/second") == 2
    wait_until(lambda: let_through(two, 1, "2/second") == 1, "the other replica lets another one through")
    wait_until(lambda: let_through(one, 1, "2/second") == 1, "the replica that refused lets another one through")


def test_what_does_not_count_any_more_is_forgotten(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(PostgresSecurityStore(url, tmp_path)) as store:
        rates = SharedRateLimits(store)
        for number in range(5):
            rates.hit("100/second", "address", f"192.0.2.{number}")
        rates.hit("100/day", "key", "a")
        monkeypatch.setattr(shared_rates, "FORGET_SECONDS", 0.0)

        def names() -> list[bytes]:
            rates.hit("100/day", "key", "a")
            with store.reading() as connection:
                return [name for (name,) in connection.execute("SELECT name FROM rates").fetchall()]

        wait_until(lambda: len(names()) == 1, "those of past seconds are deleted")


def test_addresses_are_not_stored_as_such(url: str, tmp_path: Path) -> None:
    with closing(PostgresSecurityStore(url, tmp_path)) as store:
        SharedRateLimits(store).hit("100/day", "address", "192.0.2.7")
        with store.reading() as connection:
            [row] = connection.execute("SELECT * FROM rates").fetchall()
        assert "192.0.2.7" not in str(row)
        assert len(row[0]) == 16


@pytest.mark.slow
def test_nothing_is_let_through_uncounted(tmp_path: Path) -> None:
    with (
        PostgresServer(on=IN_MEMORY) as server,
        closing(PostgresSecurityStore(server.uri(), tmp_path)) as store,
    ):
        rates = SharedRateLimits(store)
        rates.hit("100/day", "key", "a")
        server.kill()
        with pytest.raises(SecurityStoreUnavailable):
            rates.hit("100/day", "key", "a")
        server.start()
        rates.hit("100/day", "key", "a")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_addresses_of_one_host_count_together(address: str, network: str) -> None:
    assert network_of(address) == network
