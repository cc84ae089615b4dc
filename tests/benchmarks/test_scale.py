"""Two replicas on a primary with a standby: both are killed under load, and nothing that was acknowledged is lost."""

from __future__ import annotations

import time

import pytest

from benchmarks.postgres_server import IN_MEMORY, PostgresServer
from benchmarks.replicas import Load, both, fail_over, running, with_standby
from tests.app.photographs import collins, hopper, jpeg
from tests.app.process import wait_until

pytestmark = pytest.mark.slow


def test_kills_of_a_replica_and_of_the_primary_lose_nothing() -> None:
    with (
        PostgresServer(on=IN_MEMORY) as primary,
        with_standby(primary, IN_MEMORY) as standby,
        running(2, both(primary, standby)) as processes,
    ):
        load = Load([process.url for process in processes], [jpeg(collins()), jpeg(hopper())])

        def acknowledged(more: int) -> None:
            before = len(load.outcome.acknowledged)
            wait_until(
                lambda: load.outcome.wrong != [] or len(load.outcome.acknowledged) >= before + more, "more was enrolled"
            )

        def until() -> None:
            acknowledged(5)
            processes[0].kill()
            acknowledged(3)
            processes[0].start()
            fail_over(primary, standby)
            time.sleep(1)
            acknowledged(5)

        outcome = load.run(2, until)
    assert outcome.wrong == []
    assert outcome.checked >= 10
    assert len(outcome.acknowledged) >= 13
