"""OpenVINO reports nothing and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_importing_openvino_leaves_no_identifier_in_the_home_directory(tmp_path: Path) -> None:
    # OpenVINO keeps its telemetry off by itself where it believes to run in CI.
    environment = {name: value for name, value in os.environ.items() if name not in {"CI", "TF_BUILD", "JENKINS_URL"}}
    command = [sys.executable, "-c", "import app.encoding.openvino_runtime"]
    subprocess.run(command, check=True, env=environment | {"HOME": str(tmp_path)}, timeout=60)
    assert list(tmp_path.rglob("*")) == []


def test_the_service_never_loads_the_telemetry() -> None:
    check = "import sys, app.main, app.encoding.openvino_runtime; assert sys.modules['openvino_telemetry'] is None"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)
