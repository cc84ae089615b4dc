from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.decisions import Calibration, CalibrationError, Claim, load_calibration
from app.decisions.calibration import SCHEMA_FILE, GalleryPoint, GallerySize
from app.decisions.policies import fpir_of
from app.encoding import EncoderWeights
from app.settings import DEFAULT_WEIGHTS, EncodingSettings
from tests.app.decisions.support import DIGEST, curve, estimate, group, point, sized, table

LOOSE = [point(1.2, 0.01), point(0.9, 0.0005)]


def write(folder: Path, content: Any) -> Path:
    (folder / "calibration.json").write_text(json.dumps(content))
    return folder


def test_a_table_is_read(tmp_path: Path) -> None:
    loaded = load_calibration(write(tmp_path, table()), DIGEST)
    assert loaded.version == "v1"
    assert [p.threshold for p in loaded.curves[0].operating_points] == [1.3, 1.1, 1.0]


@pytest.mark.parametrize(("rate", "threshold"), [(0.01, 1.3), (0.5, 1.3), (0.005, 1.1), (0.001, 1.1), (0.0006, 1.0)])
def test_the_point_of_a_rate_is_the_most_permissive_within_it(rate: float, threshold: float) -> None:
    found = Calibration.model_validate(table()).curves[0].at_rate(rate)
    assert found is not None
    assert found.threshold == threshold
    assert Calibration.model_validate(table(default_fmr=max(rate, 0.0006))).default.threshold == threshold


def test_a_point_promises_the_upper_bound_of_what_was_measured() -> None:
    wide = point(1.1, 0.001) | {"false_match_rate": {"value": 0.001, "low": 0.0005, "high": 0.002}}
    measured = Calibration.model_validate(table(curves=[curve(1, [point(1.3, 0.01), wide, point(1.0, 0.0008)])]))
    [single] = measured.curves
    thresholds = [single.at_rate(rate) for rate in (0.002, 0.0019, 0.0008)]
    assert [p and p.threshold for p in thresholds] == [1.1, 1.0, 1.0]
    assert single.smallest_supported == measured.smallest_supported(Claim.POOLED, 1) == 0.0008


def test_no_point_has_a_rate_below_the_strictest() -> None:
    assert Calibration.model_validate(table()).curves[0].at_rate(0.00059) is None


@pytest.mark.parametrize(
    ("distance", "threshold"), [(0.0, 1.0), (1.0, 1.0), (1.0001, 1.1), (1.1, 1.1), (1.2, 1.3), (1.3, 1.3), (1.31, None)]
)
def test_the_point_of_a_distance_is_the_strictest_that_it_lies_within(distance: float, threshold: float | None) -> None:
    found = Calibration.model_validate(table()).curves[0].at_distance(distance)
    assert (found and found.threshold) == threshold


@given(st.floats(0, 4))
def test_the_rate_told_of_a_distance_is_never_better_than_the_measured_one(distance: float) -> None:
    points = Calibration.model_validate(table()).curves[0].operating_points
    found = Calibration.model_validate(table()).curves[0].at_distance(distance)
    within = [p for p in points if distance <= p.threshold]
    assert found == (min(within, key=lambda p: p.threshold) if within else None)


def test_points_beyond_what_could_be_measured_repeat_its_rate_and_ask_for_no_stricter_threshold() -> None:
    points = [point(1.3, 0.01), point(1.1, 0.001), point(1.0, 0.001, 0.3), point(0.9, 0.001, 0.4)]
    [found] = Calibration.model_validate(table(curves=[curve(1, points)])).curves
    assert found.strictest == found.at_rate(0.001) == found.showing(0.001) == found.operating_points[1]
    assert found.smallest_supported == 0.001
    assert found.showing(0.0001) == found.strictest
    # What is missed is told as far as it was measured.
    for distance, threshold in ((1.05, 1.1), (0.95, 1.0), (0.2, 0.9)):
        near = found.at_distance(distance)
        assert near is not None
        assert (near.threshold, near.false_match_rate) == (threshold, found.strictest.false_match_rate)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"curves": []}, "curves"),
        ({"curves": [curve(1, [point(1.0, 0.001), point(1.1, 0.01)])]}, "strictest"),
        ({"curves": [curve(1, [point(1.1, 0.001), point(1.0, 0.0011)])]}, "strictest"),
        ({"curves": [curve(1, [point(1.1, 0.01), point(1.1, 0.001)])]}, "strictest"),
        ({"curves": [curve(1, [point(1.0, 0.01), point(1.1, 0.001)])]}, "strictest"),
        ({"curves": [curve(1, [])]}, "operating_points"),
        ({"curves": [curve(1, [point(1.2, 0.1), point(1.0, 0.01)])]}, "default_fmr"),
        ({"curves": [curve(1, [point(8.1, 0.1), point(1.0, 0.001)])]}, "threshold"),
        ({"curves": [curve(1, [point(1.0, 0.1), point(-4.1, 0.001)])]}, "threshold"),
        ({"curves": [curve(1, [point(1.0, 1.1), point(0.9, 0.001)])]}, "false_match_rate"),
        ({"curves": [curve(1, [point(float("nan"), 0.1), point(0.9, 0.001)])]}, "threshold"),
        ({"curves": [curve(2)]}, "one template"),
        ({"curves": [curve(1), curve(3)]}, "one template"),
        ({"curves": [curve(1), curve(2), curve(2)]}, "one template"),
        ({"default_fmr": 0.0005}, "default_fmr"),
        ({"default_fmr": -1}, "default_fmr"),
        ({"default_fpir": 2}, "default_fpir"),
        ({"schema_version": 2}, "schema_version"),
        ({"unknown": 1}, "unknown"),
        ({"data": {}}, "data"),
        ({"encoder_sha256": None}, "encoder_sha256"),
        ({"cohort_sha256": 1}, "cohort_sha256"),
        ({"groups": [group("a", LOOSE), group("a", LOOSE)]}, "names of their own"),
        ({"groups": [group("a", LOOSE, part_of="b")]}, "part of groups that are there"),
        ({"groups": [group("", LOOSE)]}, "name"),
        ({"groups": [group("a", [])]}, "operating_points"),
        ({"groups": [group("a", list(reversed(LOOSE)))]}, "strictest"),
        # All pairs support 0.001, and this group does not.
        ({"groups": [group("a", LOOSE[:1])]}, "default_fmr"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path: Path, members: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Calibration.model_validate(table(**members))
    with pytest.raises(CalibrationError, match=reason) as refused:
        load_calibration(write(tmp_path, table(**members)), DIGEST)
    assert refused.value.code == "calibration_invalid"
    assert "model.calibrate" in refused.value.message
    assert "\n" not in refused.value.message


def test_an_estimate_outside_its_bounds_is_refused() -> None:
    broken = point(1.3, 0.01) | {"false_match_rate": {"value": 0.01, "low": 0.02, "high": 0.03}}
    with pytest.raises(ValidationError, match="between its bounds"):
        Calibration.model_validate(table(curves=[curve(1, [broken, point(1.0, 0.001)])]))


def test_each_number_of_templates_has_its_own_curve_up_to_the_most_measured() -> None:
    calibration = Calibration.model_validate(table(curves=[curve(1), curve(2), curve(3)]))
    assert [calibration.curve(k).templates for k in (1, 2, 3)] == [1, 2, 3]
    assert calibration.most_templates == 3
    for templates in (0, 4):
        with pytest.raises(ValueError, match=f"{templates} templates"):
            calibration.curve(templates)


def test_what_is_supported_of_every_number_of_templates_is_the_highest_floor() -> None:
    worse = curve(2, [point(1.3, 0.01), point(1.2, 0.0009)])
    calibration = Calibration.model_validate(table(curves=[curve(1), worse]))
    for claim in Claim:
        assert [calibration.smallest_supported(claim, k) for k in (0, 1, 2)] == [0.0006, 0.0006, 0.0009]


def test_galleries_may_be_as_large_as_the_prediction_held() -> None:
    def largest(*sizes: dict[str, Any]) -> float:
        return Calibration.model_validate(table(identification=list(sizes))).largest_gallery

    assert largest() == 1
    assert largest(sized(10, low=0.01), sized(100, low=0.04)) == float("inf")
    assert largest(sized(100, low=0.041), sized(10, low=0.01)) == 10
    assert largest(sized(10, low=0.041), sized(100, low=0.01)) == 1
    # In the galleries of one group the prediction failed.
    assert largest(sized(10), sized(100), sized(100, low=0.041, group="a"), sized(10, group="a")) == 10
    assert largest(sized(10), sized(10, group="a")) == float("inf")


def test_a_prediction_agrees_unless_it_is_more_favourable_than_the_measurement() -> None:
    rate = estimate(0.05) | {"low": 0.03, "high": 0.07}
    for predicted, agrees in ((0.029, False), (0.03, True), (0.05, True), (0.5, True)):
        found = GalleryPoint.model_validate(
            {"false_match_rate": 0.001, "false_positive_identification_rate": rate, "predicted": predicted}
        )
        assert GallerySize(group=None, subjects=10, galleries=5, points=(found,)).agrees is agrees


@pytest.mark.parametrize("path", sorted(DEFAULT_WEIGHTS.glob("*/calibration.json")), ids=lambda path: path.parent.name)
def test_shipped_galleries_find_no_more_strangers_than_the_upper_bound_of_the_rate_foretells(path: Path) -> None:
    """A target is kept by the upper bound; the rate itself foretells somewhat less than was measured in places."""
    shipped = Calibration.model_validate_json(path.read_bytes())
    named, checked = {group.name: group for group in shipped.groups}, 0
    for size in shipped.identification:
        points = shipped.curve(1).operating_points if size.group is None else named[size.group].operating_points
        claimed = {p.false_match_rate.value: p.claimed_fmr for p in points}
        for found in size.points:
            most = fpir_of(claimed[found.false_match_rate], size.subjects)
            assert found.false_positive_identification_rate.value <= most
            checked += 1
    assert checked > 900


def test_a_table_of_another_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="thresholds do not carry over") as refused:
        load_calibration(write(tmp_path, table()), "cd" * 32)
    assert DIGEST[:12] in refused.value.message
    assert ("cd" * 6) in refused.value.message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null"])
def test_a_file_that_is_no_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "calibration.json").write_bytes(content)
    with pytest.raises(CalibrationError, match=r"calibration\.json"):
        load_calibration(tmp_path, DIGEST)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"calibration\.json: No such file"):
        load_calibration(tmp_path, DIGEST)


def test_the_shipped_table_is_the_shipped_encoders(calibration: Calibration, weights: EncoderWeights) -> None:
    assert load_calibration(EncodingSettings().directory, weights.sha256) == calibration
    for claim in Claim:
        assert calibration.smallest_supported(claim, calibration.most_templates) <= calibration.default_fmr
    assert calibration.default.claimed_fmr <= calibration.default_fmr
    assert [c.templates for c in calibration.curves] == list(range(1, calibration.most_templates + 1))
    assert calibration.largest_gallery > max(size.subjects for size in calibration.identification)
    for measured in calibration.curves:
        assert measured.rule_of_three_fmr >= 3 / measured.non_mated
        assert measured.operating_points[-1].false_match_rate.value >= measured.rule_of_three_fmr
    with pytest.raises(CalibrationError):
        load_calibration(EncodingSettings().directory, DIGEST)


def test_the_published_schema_is_that_of_the_tables() -> None:
    published = json.loads(SCHEMA_FILE.read_text())
    assert published == Calibration.model_json_schema(), "write it anew with `python -m app.decisions.calibration`"
    assert SCHEMA_FILE.name == f"calibration-{published['properties']['schema_version']['const']}.schema.json"
