"""The results, as stored in ``results.json``."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

TESSERA = "tessera"

CORE_LFW = "one core, LFW, 1 client"
CORE_VGA = "one core, 640x480, 1 client"
CORE_TWO = "one core, LFW, 2 clients"
CLIENTS = {clients: f"all cores, LFW, clients: {clients}" for clients in (1, 8, 64)}
SHARES = {share: f"all cores, LFW, open loop, % of capacity: {share}" for share in (50, 80, 95, 120)}
SUBJECT = "gallery, /verify with a subject, 1 client"
IDENTIFY = "gallery, /identify, 1 client"
SUBJECT_CROWD = "gallery, /verify with a subject, 64 clients"
SUBJECT_STEADY = "gallery, /verify with a subject, open loop at 80 % of capacity, 64 connections"

LONG = (CLIENTS[8], SHARES[80], SUBJECT, IDENTIFY, SUBJECT_STEADY)
"""Loads that last long enough for a 99th percentile."""
ENOUGH = 2000
"""Requests, of all rounds together; a 99th percentile of fewer is not shown."""

REFUSED = ("429", "503")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Spread(_Part):
    """Milliseconds."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class Load(_Part):
    """One load as returned by ``load.summary``; ``offered`` requests per second in an open loop."""

    seconds: float
    requests: int
    statuses: dict[str, int]
    answers_per_second: float
    latency_ms: Spread | None
    sent_late_ms: Spread | None
    offered: float | None = None


class LfwAccuracy(_Part):
    """View 2 over HTTP, shares 0..1; pairs without an answer get the largest distance."""

    mean: float
    standard_error: float
    pairs: int
    unanswered: int


class Service(_Part):
    """One service: the reason it failed, if it did, and its measurements, each load once per round."""

    title: str
    failure: str | None = None
    arrangement: str = ""
    loads: dict[str, list[Load]] = {}
    resident_mb: float | None = None
    cold_start_s: list[float] = []
    installed_mb: float | None = None
    accuracy: LfwAccuracy | None = None

    def rate(self, load: str) -> float | None:
        """Answers per second: median of the rounds."""
        return _median([one.answers_per_second for one in self.loads.get(load, [])])

    def latency(self, load: str, quantile: Literal["p50", "p99"]) -> float | None:
        """Milliseconds: median of the rounds in which anything was answered; no p99 of too few requests."""
        if quantile == "p99" and self.statuses(load).total() < ENOUGH:
            return None
        spreads = [one.latency_ms for one in self.loads.get(load, []) if one.latency_ms]
        return _median([spread.p50 if quantile == "p50" else spread.p99 for spread in spreads])

    def offered(self, load: str) -> float | None:
        """Requests per second that were due in an open loop."""
        return _median([one.offered for one in self.loads.get(load, []) if one.offered])

    def statuses(self, load: str) -> Counter[str]:
        """Totals over all rounds."""
        return sum((Counter(one.statuses) for one in self.loads.get(load, [])), Counter())

    def capacity(self) -> float | None:
        """The most answers per second of any closed loop on all cores."""
        return max((rate for load in CLIENTS.values() if (rate := self.rate(load))), default=None)

    def cold_start(self) -> float | None:
        """Seconds from the start of the process to its first answer: median."""
        return _median(self.cold_start_s)


class Gallery(_Part):
    """Tessera with many templates, and its loads."""

    templates: int
    resident_mb: float


class Results(_Part):
    """One run."""

    machine: str
    cores: int
    seconds: float
    rounds: int
    pairs: int = 0
    services: dict[str, Service] = {}
    gallery: Gallery | None = None

    def save(self, directory: Path) -> None:
        """Writes ``results.json``."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "results.json").write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Results:
        """Reads ``results.json``."""
        return cls.model_validate_json((directory / "results.json").read_text(encoding="utf-8"))


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None
