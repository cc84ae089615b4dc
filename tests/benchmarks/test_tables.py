"""The tables of calibrations: what is a bound says so, and misses are those of the very threshold."""

from __future__ import annotations

import pytest

from app.decisions import Calibration
from benchmarks.tables import groups, misses_at, targets
from tests.app.decisions.support import curve, group, point, table

POINTS = [point(1.3, 0.01, 0.1), point(1.1, 0.001, 0.2), point(0.9, 0.001, 0.4)]


def test_misses_are_interpolated_between_the_two_points_beside_a_threshold() -> None:
    found = Calibration.model_validate(table(curves=[curve(1, POINTS)])).curve(1)
    assert [m and m.value for m in (misses_at(found, t) for t in (1.3, 1.25, 1.1, 0.95, 0.9))] == pytest.approx(
        [0.1, 0.125, 0.2, 0.35, 0.4]
    )
    between = misses_at(found, 1.25)
    assert between is not None
    assert (between.low, between.high) == (pytest.approx(0.0625), pytest.approx(0.25))
    assert misses_at(found, 1.31) is misses_at(found, 0.89) is None


def test_the_lowest_rate_to_claim_is_one_that_may_be_claimed() -> None:
    lowest = 0.000912
    made = Calibration.model_validate(
        table(curves=[curve(1, [point(1.3, 0.01), point(1.1, lowest)])], groups=[group("strict", [point(1.0, lowest)])])
    )
    assert list(groups(made))[2].endswith("| 9.2e-04 |")
    assert any("refused: 9.2e-04 at least" in line for line in targets(made))


def test_a_rate_beyond_what_was_measured_is_a_bound() -> None:
    # The group asks for 0.95 at 0.001, where all pairs show nothing below 1.1.
    strict = group("strict", [point(1.0, 0.01), point(0.95, 0.001)])
    made = Calibration.model_validate(table(curves=[curve(1, POINTS)], groups=[strict]))
    rows = {tuple(line.split(" | ")[:2]): line for line in targets(made)}
    assert "| 0.950 | strict | at most 1.0e-03 [5.0e-04, 1.0e-03] | 35 [17.5, 70] |" in rows["| 1e-03", "every_group"]
    assert "| 1.100 | all pairs | 1.0e-03 [5.0e-04, 1.0e-03] | 20 [10, 40] |" in rows["| 1e-03", "pooled"]
    assert list(groups(made))[2] == "| strict | 50 | 250 | 1.0e-03 [5.0e-04, 1.0e-03] | 10 [5, 20] | 1.0e-03 |"
