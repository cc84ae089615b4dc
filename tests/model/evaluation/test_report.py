from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from app.evaluation.bootstrap import Interval
from model.evaluation.report import (
    AllPairsResult,
    Estimate,
    PairResult,
    Report,
    SearchResult,
    all_pairs_table,
    groups_table,
    markdown_table,
)

HEAD = (
    "|  | LFW accuracy | LFW TAR@1e-3 | CFP-FF | CFP-FP | CFP-FP TAR@1e-2 "
    "| held-out TAR@1e-3 | held-out TAR@1e-4 | held-out TAR@1e-5 |\n|---|---|---|---|---|---|---|---|---|"
)


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.01, high=value + 0.005)


def pair_result(accuracy: float, **tar: float) -> PairResult:
    return PairResult(
        pairs=6000,
        faces_missed=1,
        accuracy=accuracy,
        standard_error=0.00234,
        threshold=1.25,
        tar={far.replace("_", "-"): estimate(value) for far, value in tar.items()},
    )


def all_pairs(*values: float) -> AllPairsResult:
    """Rates at 1e-3, 1e-4 and so on, as many as are given."""
    tar = {f"1e-0{i + 3}": estimate(value) for i, value in enumerate(values)}
    return AllPairsResult(subjects=728, faces=8000, mated=40_000, non_mated=38_500_000, tar=tar)


FULL = Report(
    encoder="tessera-m 1, openvino bf16",
    lfw=pair_result(0.9755, **{"1e_02": 0.962, "1e_03": 0.908}),
    lfw_all=all_pairs(0.91),
    lfw_search=SearchResult(subjects=1680, rank1=0.95, rank1_deviation=0.01, dir_at_1=0.8, dir_at_1_deviation=0.02),
    cfp_ff=pair_result(0.98, **{"1e_02": 0.97}),
    cfp_fp=pair_result(0.85123, **{"1e_02": 0.75}),
    heldout=all_pairs(0.747, 0.493, 0.231),
    heldout_unrelated={"1e-03": 0.75},
    heldout_by_source={"studio": all_pairs(0.9)},
)


# --- estimates


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (0.98667, 0.98111, 0.991, "98.67 [98.11, 99.10]"),
        (0.0, 0.0, 0.0, "0.00 [0.00, 0.00]"),
        (1.0, 0.99996, 1.0, "100.00 [100.00, 100.00]"),
        (0.00004, 0.0, 0.00006, "0.00 [0.00, 0.01]"),
    ],
)
def test_an_estimate_in_percent_has_two_decimals_and_its_bounds(
    value: float, low: float, high: float, shown: str
) -> None:
    assert Estimate(value=value, low=low, high=high).percent() == shown


def test_an_estimate_of_an_interval_is_the_same_numbers() -> None:
    assert Estimate.of(Interval(0.5, 0.25, 0.75)) == Estimate(value=0.5, low=0.25, high=0.75)


# --- table


def test_the_table_of_a_full_report() -> None:
    assert markdown_table({"ours": FULL}) == (
        f"{HEAD}\n"
        "| ours | 97.55 ± 0.23 | 90.80 [89.80, 91.30] | 98.00 ± 0.23 | 85.12 ± 0.23 | 75.00 [74.00, 75.50] "
        "| 74.70 [73.70, 75.20] | 49.30 [48.30, 49.80] | 23.10 [22.10, 23.60] |"
    )


def test_parts_that_were_not_measured_are_dashes() -> None:
    reports = {
        "nothing": Report(encoder="x"),
        "photographs": Report(encoder="x", lfw=FULL.lfw),
        "profiles": Report(encoder="x", cfp_fp=FULL.cfp_fp),
        "people": Report(encoder="x", heldout=FULL.heldout),
    }
    assert markdown_table(reports) == (
        f"{HEAD}\n"
        "| nothing | - | - | - | - | - | - | - | - |\n"
        "| photographs | 97.55 ± 0.23 | 90.80 [89.80, 91.30] | - | - | - | - | - | - |\n"
        "| profiles | - | - | - | 85.12 ± 0.23 | 75.00 [74.00, 75.50] | - | - | - |\n"
        "| people | - | - | - | - | - | 74.70 [73.70, 75.20] | 49.30 [48.30, 49.80] | 23.10 [22.10, 23.60] |"
    )


def test_rates_that_too_few_pairs_could_show_are_dashes() -> None:
    few = Report(encoder="x", lfw=pair_result(0.75), cfp_fp=pair_result(0.5), heldout=all_pairs(0.747))
    assert markdown_table({"few": few}) == (
        f"{HEAD}\n| few | 75.00 ± 0.23 | - | - | 50.00 ± 0.23 | - | 74.70 [73.70, 75.20] | - | - |"
    )


def test_rows_are_in_the_order_given() -> None:
    rows = markdown_table(dict.fromkeys(["b", "c", "a"], Report(encoder="x"))).splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| b", "| c", "| a"]
    assert {row.count("|") for row in rows} == {10}


# --- the file


@pytest.mark.parametrize("report", [FULL, Report(encoder="x")], ids=["full", "empty"])
def test_a_report_comes_back_from_its_file(report: Report) -> None:
    assert Report.model_validate_json(report.model_dump_json(indent=2)) == report


@pytest.mark.parametrize(
    "changes",
    [
        {"lwf": None},
        {"lfw": {**FULL.model_dump()["lfw"], "far": 0.1}},
        {"heldout": {**FULL.model_dump()["heldout"], "tar": {"1e-03": {"value": 1, "low": 1, "high": 1, "mid": 1}}}},
        {"lfw_search": {**FULL.model_dump()["lfw_search"], "rank5": 1}},
    ],
)
def test_a_report_with_unknown_fields_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Report.model_validate({**FULL.model_dump(), **changes})


@pytest.mark.parametrize("part", ["accuracy", "standard_error", "tar"])
def test_a_part_that_lacks_a_field_is_refused(part: str) -> None:
    values = FULL.model_dump()
    del values["lfw"][part]
    with pytest.raises(ValidationError, match=f"lfw.{part}"):
        Report.model_validate(values)


def test_a_report_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        FULL.encoder = "another"  # type: ignore[misc]


def test_the_table_of_groups_leaves_out_who_was_not_measured_on_them() -> None:
    ours = FULL.model_copy(update={"within_groups": {"Asian women": all_pairs(0.6)}})
    theirs = Report(encoder="theirs", within_groups={"Asian women": all_pairs(0.5), "Black men": all_pairs(0.7)})
    assert groups_table({"ours": ours, "theirs": theirs, "none": FULL}) == (
        "| | ours | theirs |\n|---|---|---|\n"
        "| Asian women | 60.00 [59.00, 60.50] | 50.00 [49.00, 50.50] |\n"
        "| held-out, studio | 90.00 [89.00, 90.50] | - |\n"
        "| Black men | - | 70.00 [69.00, 70.50] |"
    )


def test_the_table_of_all_pairs_and_searches() -> None:
    assert all_pairs_table({"ours": FULL, "none": Report(encoder="none")}).splitlines()[2:] == [
        "| ours | 91.00 [90.00, 91.50] | - | 95.00 ± 1.00 | 80.00 ± 2.00 |",
        "| none | - | - | - | - |",
    ]
