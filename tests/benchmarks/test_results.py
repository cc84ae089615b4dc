from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.peers import results as keys
from benchmarks.peers.report import number, other_statuses, ratio, report, statuses, table
from benchmarks.peers.results import Results, Service
from tests.benchmarks.made_up import load, results


def row(text: str, *begin: str) -> list[str]:
    """The cells of the first line of a table that begins with these."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[: len(begin)] == list(begin):
            return cells[len(begin) :]
    raise AssertionError(f"no row begins with {begin}")


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results().save(tmp_path / "new" / "folder")
    assert Results.load(tmp_path / "new" / "folder") == results()


def test_results_of_another_form_are_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"machine": "m", "cores": 2, "seconds": 1, "rounds": 1, "else": 1}')
    with pytest.raises(ValidationError):
        Results.load(tmp_path)


def test_the_median_of_the_rounds_counts() -> None:
    service = Service(title="a", loads={"x": [load(10, 5), load(30, 1), load(20, 9)]}, cold_start_s=[3, 1, 2, 9])
    assert service.rate("x") == 20
    assert (service.latency("x", "p50"), service.latency("x", "p99")) == (5, 15)
    assert service.cold_start() == 2.5
    assert service.statuses("x") == {"200": 3 * keys.ENOUGH}


def test_a_99th_percentile_of_few_requests_is_not_shown() -> None:
    almost = load(10, 5, {"200": keys.ENOUGH // 2})
    assert Service(title="a", loads={"x": [almost]}).latency("x", "p99") is None
    assert Service(title="a", loads={"x": [almost]}).latency("x", "p50") == 5
    assert Service(title="a", loads={"x": [almost, almost]}).latency("x", "p99") == 15


def test_rounds_without_an_answer_have_no_latency() -> None:
    service = Service(title="a", loads={"x": [load(0, 0, {"503": 4}), load(10, 5, {"200": 10})]})
    assert service.latency("x", "p50") == 5
    assert service.rate("x") == 5
    assert service.statuses("x") == {"503": 4, "200": 10}
    assert service.latency("missing", "p50") is None
    assert service.rate("missing") is None


def test_the_capacity_is_the_best_closed_loop() -> None:
    rates = {1: 50.0, 8: 90.0, 64: 80.0}
    service = Service(title="a", loads={keys.CLIENTS[clients]: [load(rate, 1)] for clients, rate in rates.items()})
    assert service.capacity() == 90
    assert Service(title="b").capacity() is None


def test_numbers_have_three_digits_and_what_is_missing_a_dash() -> None:
    assert [number(value) for value in (0.01234, 1.0, 12.34, 1234.5, None)] == ["0.0123", "1", "12.3", "1234", "-"]
    assert ratio(5, 10) == "0.5"
    assert [ratio(None, 1), ratio(1, None), ratio(1, 0)] == ["-"] * 3


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_ratios_come_before_absolute_numbers() -> None:
    text = report(results())
    assert text.index("times Tessera's") < text.index("medians of the rounds")
    ratios, absolute = text.split("medians of the rounds")
    # Latency and throughput on one core, on all cores, memory, start and disk.
    assert row(ratios, "slow & <co>") == ["2", "2", "0.5", "0.5", "2", "2", "2"]
    assert row(absolute, "slow & <co>") == ["20", "20", "50", "50", "200", "4", "400"]
    assert row(ratios, "Tessera") == ["1"] * 7


def test_what_could_not_be_started_is_told_and_has_dashes() -> None:
    text = report(results())
    assert "broken failed: No module named 'broken'" in text
    assert set(row(text, "broken")) == {"-"}


def test_refusals_under_load_are_a_share_of_the_requests() -> None:
    text = report(results())
    assert row(text, "slow & <co>", "120 %") == ["60", "60", "20", "-", "40", "100"]
    assert row(text, "Tessera", "120 %")[-2:] == ["0", str(keys.ENOUGH)]


def test_every_other_status_is_shown() -> None:
    text = other_statuses(results())
    assert row(text, "slow & <co>", keys.SHARES[120]) == ["200: 60, 429: 10, 503: 30"]
    assert row(text, "slow & <co>", keys.CLIENTS[64]) == ["ConnectionRefusedError: 7"]
    assert "Tessera" not in text
    good = results()
    del good.services["slow"]
    assert "every load was answered with 200" in other_statuses(good)
    assert statuses(good.services["broken"].statuses("x")) == "-"


def test_the_gallery_and_the_accuracies_are_shown_where_there_are_any() -> None:
    shown = results()
    text = report(shown)
    assert "Tessera with 100,000 templates" in text
    assert row(text, "/identify over /verify with a subject, p50") == ["1"]
    assert row(text, "p99 over p50 at 80 % of capacity, 64 connections") == ["3"]
    assert row(text, "resident, MB") == ["321"]
    assert row(text.split("View 2")[1], "Tessera") == ["99.25 ± 0.10", "2"]
    shown.gallery = shown.services["tessera"].accuracy = None
    assert "templates" not in report(shown)
    assert "View 2" not in report(shown)
