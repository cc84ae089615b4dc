from __future__ import annotations

import pytest

from app.security.errors import RateLimited
from app.security.rates import RateLimits, network_of


def test_one_request_too_many_is_refused_with_a_time() -> None:
    rates = RateLimits()
    for _ in range(3):
        rates.hit("3/hour", "key", "a")
    with pytest.raises(RateLimited) as refused:
        rates.hit("3/hour", "key", "a")
    assert 1 <= refused.value.details["retry_after"] <= 7200
    rates.hit("3/hour", "key", "b")
    rates.hit("3/hour", "address", "a")
    rates.hit(None, "key", "a")


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
