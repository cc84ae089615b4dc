"""Answers a second of several replicas on one database, and whose processor time that takes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.peers.processes import run_load
from benchmarks.peers.results import Load
from benchmarks.processes import cpu_seconds, machine_seconds
from benchmarks.replicas import Replica

SUBJECT = "somebody"
ANSWER_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Measured:
    """One load on so many replicas; processor time in cores, that is seconds a second."""

    operation: str
    replicas: int
    load: Load
    service: float
    database: float
    others: float
    idle: float

    def row(self) -> str:
        """As a row of the table."""
        latency = self.load.latency_ms
        times = "- | -" if latency is None else f"{latency.p50:.0f} | {latency.p99:.0f}"
        failed = sum(count for status, count in self.load.statuses.items() if status != "200")
        cores = " | ".join(f"{value:.2f}" for value in (self.service, self.database, self.others, self.idle))
        rate = f"{self.load.answers_per_second:.1f}"
        return f"| `/{self.operation}` | {self.replicas} | {rate} | {times} | {failed} | {cores} |"


HEADER = (
    "| request | replicas | answers a second | p50, ms | p99, ms | not answered | cores: replicas | PostgreSQL | "
    "clients and others | idle |"
)


def enrol(replica: Replica, photograph: Path) -> None:
    """Enrols the one whom requests ask for, unless that was done."""
    answer = httpx.post(
        f"{replica.url}/enroll",
        files={"image": ("face.jpg", photograph.read_bytes(), "image/jpeg")},
        data={"subject_id": SUBJECT, "on_conflict": "replace"},
        timeout=ANSWER_SECONDS,
        trust_env=False,
    )
    answer.raise_for_status()


def loads(replicas: list[Replica], database: int, photograph: Path, clients: int, seconds: float) -> Iterator[Measured]:
    """``/identify``, then ``/verify`` with a subject, each sent to the replica with the fewest requests under way.

    database: the process id of the PostgreSQL server.
    """
    forms = photograph.with_suffix(".json")
    for operation, fields in (("identify", {}), ("verify", {"subject_id": SUBJECT})):
        forms.write_text(json.dumps([{"image": f"@{photograph}", **fields}]))
        urls = [f"{replica.url}/{operation}" for replica in replicas]
        # Connections and caches are warm before anything counts.
        run_load(urls, forms, 1, "--clients", str(clients))
        roots = [replica.pid for replica in replicas], [database]
        used, before, began = [cpu_seconds(root) for root in roots], machine_seconds(), time.perf_counter()
        load = run_load(urls, forms, seconds, "--clients", str(clients))
        service, postgres = (cpu_seconds(root) - start for root, start in zip(roots, used, strict=True))
        elapsed = time.perf_counter() - began
        busy, idle = (after - start for after, start in zip(machine_seconds(), before, strict=True))
        cores = [max(0.0, each) / elapsed for each in (service, postgres, busy - service - postgres, idle)]
        yield Measured(operation, len(replicas), load, *cores)
