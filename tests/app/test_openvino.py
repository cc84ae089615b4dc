from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app import memory
from app.openvino import available_cores

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
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path)
    assert available_cores() == cores


def test_the_group_of_a_unit_counts_and_those_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = tmp_path / "groups" / "system.slice" / "tessera.service"
    unit.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/system.slice/tessera.service\n")
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "OWN_GROUP", tmp_path / "own")
    assert available_cores() == CORES
    (unit / "cpu.max").write_text("max 100000\n")
    (unit.parent / "cpu.max").write_text("100000 100000\n")
    assert available_cores() == 1
    (unit.parent / "cpu.max").write_text("max 100000\n")
    assert available_cores() == CORES
    (unit / "cpu.max").write_text("100000 100000\n")
    (unit / "memory.max").write_text("1000000\n")
    (unit.parent / "memory.max").write_text("500000\n")
    assert (available_cores(), memory.limit_bytes()) == (1, 500000)


def test_without_a_control_group_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path / "absent")
    assert available_cores() == CORES
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_importing_openvino_leaves_no_identifier_in_the_home_directory(tmp_path: Path) -> None:
    # OpenVINO keeps its telemetry off by itself where it believes to run in CI.
    environment = {name: value for name, value in os.environ.items() if name not in {"CI", "TF_BUILD", "JENKINS_URL"}}
    command = [sys.executable, "-c", "import app.encoding.openvino_runtime"]
    subprocess.run(command, check=True, env=environment | {"HOME": str(tmp_path)}, timeout=60)
    assert list(tmp_path.rglob("*")) == []


def test_the_service_never_loads_the_telemetry() -> None:
    check = "import sys, app.main, app.encoding.openvino_runtime; assert sys.modules['openvino_telemetry'] is None"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)
