"""Small calibration tables for tests."""

from __future__ import annotations

from typing import Any

DIGEST = "ab" * 32


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value / 2, "high": min(2 * value, 1)}


def point(threshold: float, rate: float, misses: float = 0.1) -> dict[str, Any]:
    return {
        "threshold": threshold,
        "false_match_rate": {"value": rate, "low": rate / 2, "high": rate},
        "false_non_match_rate": estimate(misses),
    }


def curve(templates: int = 1, points: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "templates": templates,
        "subjects": 100,
        "mated": 1000,
        "non_mated": 100_000,
        "rule_of_three_fmr": 0.0006,
        "operating_points": [point(1.3, 0.01), point(1.1, 0.001), point(1.0, 0.0006)] if points is None else points,
    }


def group(
    name: str, points: list[dict[str, Any]], *, claimed: bool = True, part_of: str | None = None
) -> dict[str, Any]:
    return {
        "name": name,
        "definition": f"people of {name}",
        "claimed": claimed,
        "part_of": part_of,
        "subjects": 50,
        "faces": 250,
        "mated": 500,
        "non_mated": 30_000,
        "rule_of_three_fmr": 0.0001,
        "operating_points": points,
    }


def sized(subjects: int, *, low: float = 0.01, predicted: float = 0.04, group: str | None = None) -> dict[str, Any]:
    rate = {"value": 0.05, "low": low, "high": 0.09}
    points = [{"false_match_rate": 0.001, "false_positive_identification_rate": rate, "predicted": predicted}]
    return {"group": group, "subjects": subjects, "galleries": 10, "points": points}


def table(**members: Any) -> dict[str, Any]:
    data = {
        "description": "faces",
        "subjects": 100,
        "faces": 500,
        "runtime": "openvino",
        "precision": "f32",
        "replicates": 1000,
    }
    return {
        "schema_version": 4,
        "version": "v1",
        "encoder_sha256": DIGEST,
        "cohort_sha256": None,
        "data": data,
        "default_fmr": 0.001,
        "default_fpir": 0.01,
        "curves": [curve()],
        "groups": [],
        "identification": [],
        "strata": [],
        "quality": {"bands": [], "missed": 0.5, "limit": 9.0, "inflation": 2.0},
        "margin": {"bands": [], "wrong": 0.2, "limit": 0.1},
        "precisions": [],
    } | members
