from __future__ import annotations

import os
from pathlib import Path

import pytest

from app import inference
from app.inference import available_cores

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000\n", CORES),
        ("100000 100000\n", 1),
        ("50000 100000\n", 1),
        ("150000 100000\n", min(2, CORES)),
        ("99900000 100000\n", CORES),
        ("", CORES),
        ("unheard of\n", CORES),
    ],
)
def test_a_control_group_may_grant_less_than_all_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cores: int
) -> None:
    (tmp_path / "cpu.max").write_text(limit)
    monkeypatch.setattr(inference, "CPU_LIMIT", tmp_path / "cpu.max")
    assert available_cores() == cores


def test_without_a_control_group_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "CPU_LIMIT", tmp_path / "absent")
    assert available_cores() == CORES
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
