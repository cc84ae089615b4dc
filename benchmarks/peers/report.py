"""The results as Markdown: first ratios to Tessera, then the absolute values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from benchmarks.peers import results as keys
from benchmarks.peers.results import REFUSED, TESSERA, Results, Service

Measure = Callable[[Service], float | None]

NONE = "-"

SUMMARY: list[tuple[str, Measure]] = [
    ("one core, 1 client, LFW: p50, ms", lambda s: s.latency(keys.CORE_LFW, "p50")),
    ("640x480: p50, ms", lambda s: s.latency(keys.CORE_VGA, "p50")),
    ("one core, 2 clients: answers/s", lambda s: s.rate(keys.CORE_TWO)),
    ("all cores, 8 clients: answers/s", lambda s: s.rate(keys.CLIENTS[8])),
    ("resident, MB", lambda s: s.resident_mb),
    ("cold start, s", lambda s: s.cold_start()),
    ("installed, MB", lambda s: s.installed_mb),
]
HEAD = [name for name, _ in SUMMARY]


def number(value: float | None) -> str:
    """Three significant digits, or more if the integer part is longer."""
    if value is None:
        return NONE
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(value: float | None, of: float | None) -> str:
    """How many times ``of``."""
    return number(value / of) if value is not None and of else NONE


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def statuses(counts: Counter[str]) -> str:
    """For example ``200: 41, 503: 2``."""
    return ", ".join(f"{status}: {count}" for status, count in sorted(counts.items())) or NONE


def ratios(results: Results) -> str:
    """Each service's numbers relative to Tessera's."""
    own = results.services[TESSERA]
    rows = [
        [service.title, *(ratio(measure(service), measure(own)) for _, measure in SUMMARY)]
        for service in results.services.values()
    ]
    return table(["times Tessera's", *HEAD], rows)


def absolute(results: Results) -> str:
    """The absolute values."""
    rows = [[s.title, *(number(measure(s)) for _, measure in SUMMARY)] for s in results.services.values()]
    return table(["medians of the rounds", *HEAD], rows)


def closed_loops(results: Results) -> str:
    """All cores, by number of clients."""
    own, rows = results.services[TESSERA], []
    for service in results.services.values():
        for clients, load in keys.CLIENTS.items():
            times = [service.latency(load, "p50"), service.latency(load, "p99")]
            rate = service.rate(load)
            rows.append([service.title, str(clients), ratio(rate, own.rate(load)), *map(number, [rate, *times])])
    return table(["all cores", "clients", "times Tessera's", "answers/s", "p50, ms", "p99, ms"], rows)


def open_loops(results: Results) -> str:
    """All cores, by share of each service's own capacity."""
    rows = []
    for service in results.services.values():
        for share, load in keys.SHARES.items():
            counts = service.statuses(load)
            refused = 100 * sum(counts[status] for status in REFUSED) / counts.total() if counts else None
            times = [service.latency(load, "p50"), service.latency(load, "p99")]
            numbers = map(number, [service.offered(load), service.rate(load), *times, refused])
            rows.append([service.title, f"{share} %", *numbers, str(counts.total())])
    head = ["requests at random moments", "of its capacity", "offered/s", "answers/s", "p50, ms", "p99, ms"]
    return table([*head, "refused, %", "requests"], rows)


def other_statuses(results: Results) -> str:
    """Every load with answers other than 200."""
    rows = [
        [service.title, load, statuses(counts)]
        for service in results.services.values()
        for load in service.loads
        if set(counts := service.statuses(load)) - {"200"}
    ]
    return (
        table(["service", "load", "statuses"], rows) if rows else "Every request of every load was answered with 200."
    )


def accuracy(results: Results) -> str:
    """LFW, where requested and weights are real."""
    rows = [
        [s.title, f"{100 * s.accuracy.mean:.2f} ± {100 * s.accuracy.standard_error:.2f}", str(s.accuracy.unanswered)]
        for s in results.services.values()
        if s.accuracy
    ]
    return table(["LFW, View 2, over HTTP", "accuracy, %", "pairs without an answer, of 6,000"], rows) if rows else ""


def gallery(results: Results) -> str:
    """Tessera alone, with many templates."""
    own = results.services[TESSERA]
    if results.gallery is None:
        return ""
    subject, identify = own.latency(keys.SUBJECT, "p50"), own.latency(keys.IDENTIFY, "p50")
    steady = [own.latency(keys.SUBJECT_STEADY, "p50"), own.latency(keys.SUBJECT_STEADY, "p99")]
    rows = [
        ["/identify over /verify with a subject, p50", ratio(identify, subject)],
        ["p99 over p50 at 80 % of capacity, 64 connections", ratio(steady[1], steady[0])],
        ["/verify with a subject: p50, p99, ms", _times(own, keys.SUBJECT)],
        ["/identify: p50, p99, ms", _times(own, keys.IDENTIFY)],
        ["/verify with a subject, 64 clients: answers/s", number(own.rate(keys.SUBJECT_CROWD))],
        ["at 80 % of that: p50, p99, ms", _times(own, keys.SUBJECT_STEADY)],
        ["resident, MB", number(results.gallery.resident_mb)],
    ]
    return table([f"Tessera with {results.gallery.templates:,} templates", ""], rows)


def _times(service: Service, load: str) -> str:
    return f"{number(service.latency(load, 'p50'))}, {number(service.latency(load, 'p99'))}"


def conditions(results: Results) -> str:
    """Where and how it was measured, and which services could not take part."""
    rounds = "1 round" if results.rounds == 1 else f"{results.rounds} rounds"
    lines = [
        f"{results.machine}, {results.cores} cores; {rounds} in turns, {results.seconds:g} s a load, or "
        f"{keys.ENOUGH:,} requests where a 99th percentile is shown; "
        f"{results.pairs} pairs of photographs in which every service finds both faces."
    ]
    lines += [f"- {s.title}: {s.arrangement}" for s in results.services.values() if s.arrangement]
    lines += [f"- {s.title} failed: {s.failure}" for s in results.services.values() if s.failure]
    return "\n".join(lines)


PARTS = (conditions, ratios, absolute, closed_loops, open_loops, other_statuses, gallery, accuracy)


def report(results: Results) -> str:
    """All tables."""
    return "\n\n".join(text for part in PARTS if (text := part(results)))
