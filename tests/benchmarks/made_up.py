"""Results as a run writes them, without a run."""

from __future__ import annotations

from benchmarks.peers import results as keys
from benchmarks.peers.results import Gallery, LfwAccuracy, Load, Results, Service, Spread


def spread(p50: float) -> Spread:
    return Spread(mean=p50, p50=p50, p90=2 * p50, p95=2 * p50, p99=3 * p50, max=4 * p50)


def load(rate: float, p50: float, statuses: dict[str, int] | None = None, offered: float | None = None) -> Load:
    counts = {"200": keys.ENOUGH} if statuses is None else statuses
    return Load(
        seconds=1,
        requests=sum(counts.values()),
        statuses=counts,
        answers_per_second=rate,
        latency_ms=spread(p50) if rate else None,
        sent_late_ms=None,
        offered=offered,
    )


def service(title: str, speed: float) -> Service:
    """Everything ``speed`` times as fast as a service with 100 answers a second of 10 ms."""
    loops = [keys.CORE_LFW, keys.CORE_VGA, keys.CORE_TWO, *keys.CLIENTS.values()]
    gallery = [keys.SUBJECT, keys.IDENTIFY, keys.SUBJECT_CROWD, keys.SUBJECT_STEADY]
    loads = {key: [load(100 * speed, 10 / speed)] for key in loops + gallery}
    for share, key in keys.SHARES.items():
        loads[key] = [load(share * speed, 10 / speed, offered=share * speed)]
    return Service(
        title=title, loads=loads, resident_mb=100 / speed, cold_start_s=[2 / speed], installed_mb=200 / speed
    )


def results() -> Results:
    """Tessera, a peer of half its speed with refusals, and one that could not be started."""
    peer = service("slow & <co>", 0.5)
    peer.loads[keys.SHARES[120]] = [load(60, 20, {"200": 60, "503": 30, "429": 10}, offered=60)]
    peer.loads[keys.CLIENTS[64]] = [load(0, 0, {"ConnectionRefusedError": 7})]
    own = service("Tessera", 1)
    own.accuracy = LfwAccuracy(mean=0.9925, standard_error=0.001, pairs=6000, unanswered=2)
    own.arrangement = "processes: 1"
    broken = Service(title="broken", failure="No module named 'broken'")
    return Results(
        machine="some processor",
        cores=2,
        seconds=1,
        rounds=1,
        pairs=8,
        services={"tessera": own, "slow": peer, "broken": broken},
        gallery=Gallery(templates=100_000, resident_mb=321),
    )
