from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.peers.results import Load, Spread
from benchmarks.scale import commands
from benchmarks.throughput import HEADER, Measured


def load(statuses: dict[str, int], latency: Spread | None) -> Load:
    return Load(
        seconds=2,
        requests=sum(statuses.values()),
        statuses=statuses,
        answers_per_second=statuses.get("200", 0) / 2,
        latency_ms=latency,
        sent_late_ms=None,
    )


def test_a_row_says_what_was_answered_and_who_had_the_processors() -> None:
    latency = Spread(mean=20.4, p50=19.6, p90=30, p95=31, p99=40.2, max=50)
    measured = Measured("verify", 3, load({"200": 30, "503": 2}, latency), 1.204, 0.1, 0.6, 0.096)
    assert measured.row() == "| `/verify` | 3 | 15.0 | 20 | 40 | 2 | 1.20 | 0.10 | 0.60 | 0.10 |"
    assert measured.row().count("|") == HEADER.count("|")
    nothing = Measured("verify", 1, load({"503": 2}, None), 0, 0, 0, 2)
    assert nothing.row() == "| `/verify` | 1 | 0.0 | - | - | 2 | 0.00 | 0.00 | 0.00 | 2.00 |"
    assert nothing.row().count("|") == HEADER.count("|")


@pytest.mark.slow
def test_replicas_answer_and_use_processors(tmp_path: Path) -> None:
    options = ["--replicas", "2", "--clients", "2", "--seconds", "2", "--subjects", "1000", "--results", str(tmp_path)]
    done = CliRunner().invoke(commands, ["throughput", *options], catch_exceptions=False)
    assert done.exit_code == 0
    lines = (tmp_path / "scale-throughput.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[:2] for row in rows] == [["`/identify`", "2"], ["`/verify`", "2"]]
    for _, _, rate, p50, p99, failed, service, database, *_ in rows:
        assert float(rate) > 0
        assert float(p99) >= float(p50) > 0
        assert failed == "0"
        assert float(service) > 0
        assert float(database) >= 0
