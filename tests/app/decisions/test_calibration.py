from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.decisions import Calibration, CalibrationError, load_calibration
from app.encoding import EncoderWeights
from app.settings import EncodingSettings

DIGEST = "ab" * 32


def point(threshold: float, rate: float) -> dict[str, float]:
    return {
        "threshold": threshold,
        "false_match_rate": rate,
        "false_non_match_rate": 0.1,
        "false_match_rate_without_relatives": rate,
    }


def table(**members: Any) -> dict[str, Any]:
    data = {
        "description": "faces",
        "subjects": 100,
        "faces": 500,
        "mated_pairs": 1000,
        "non_mated_pairs": 100_000,
        "runtime": "openvino",
        "precision": "f32",
    }
    return {
        "schema_version": 1,
        "version": "v1",
        "encoder_sha256": DIGEST,
        "data": data,
        "smallest_supported_fmr": 0.0006,
        "default_fmr": 0.001,
        "operating_points": [point(1.3, 0.01), point(1.1, 0.001), point(1.0, 0.0006)],
    } | members


def write(folder: Path, content: Any) -> Path:
    (folder / "calibration.json").write_text(json.dumps(content))
    return folder


def test_a_table_is_read(tmp_path: Path) -> None:
    loaded = load_calibration(write(tmp_path, table()), DIGEST)
    assert loaded.version == "v1"
    assert [p.threshold for p in loaded.operating_points] == [1.3, 1.1, 1.0]


@pytest.mark.parametrize(("rate", "threshold"), [(0.01, 1.3), (0.5, 1.3), (0.005, 1.1), (0.001, 1.1), (0.0006, 1.0)])
def test_the_default_is_the_most_permissive_point_within_the_rate(rate: float, threshold: float) -> None:
    assert Calibration.model_validate(table(default_fmr=rate)).default.threshold == threshold


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"operating_points": []}, "operating_points"),
        ({"operating_points": [point(1.0, 0.001), point(1.1, 0.01)]}, "strictest"),
        ({"operating_points": [point(1.1, 0.001), point(1.0, 0.001)]}, "strictest"),
        ({"operating_points": [point(1.0, 0.01), point(1.1, 0.001)]}, "strictest"),
        ({"operating_points": [point(1.0, 0.01)]}, "default false match rate"),
        ({"operating_points": [point(4.1, 0.001)]}, "threshold"),
        ({"operating_points": [point(-0.1, 0.001)]}, "threshold"),
        ({"operating_points": [point(1.0, 1.1)]}, "false_match_rate"),
        ({"operating_points": [point(float("nan"), 0.001)]}, "threshold"),
        ({"default_fmr": 0.0005}, "smallest_supported_fmr"),
        ({"default_fmr": -1}, "default_fmr"),
        ({"schema_version": 2}, "schema_version"),
        ({"unknown": 1}, "unknown"),
        ({"data": {}}, "data"),
        ({"encoder_sha256": None}, "encoder_sha256"),
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
    assert calibration.smallest_supported_fmr <= calibration.default.false_match_rate <= calibration.default_fmr
    assert calibration.smallest_supported_fmr >= 3 / calibration.data.non_mated_pairs
    with pytest.raises(CalibrationError):
        load_calibration(EncodingSettings().directory, DIGEST)
