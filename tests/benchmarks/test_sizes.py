from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers.contenders import CONTENDERS, Contender
from benchmarks.peers.sizes import closure, installed_mb, site_packages, size


def distribution(packages: Path, name: str, requires: tuple[str, ...] = (), content: int = 0) -> None:
    """A distribution with one module of so many bytes, which was compiled too."""
    info = packages / f"{name.replace('-', '_')}-1.dist-info"
    info.mkdir(parents=True)
    lines = "".join(f"Requires-Dist: {line}\n" for line in requires)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{lines}")
    (packages / f"{name}.py").write_bytes(b"x" * content)
    (packages / "__pycache__").mkdir(exist_ok=True)
    (packages / "__pycache__" / f"{name}.pyc").write_bytes(b"x" * 1000)
    gone = "gone.py,,\n"
    (info / "RECORD").write_text(f"{name}.py,,\n__pycache__/{name}.pyc,,\n{gone}")


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    distribution(
        packages, "Root_Package", ("middle (>=1)", 'spare; extra == "all"', "absent>=2; python_version > '3'"), 1
    )
    distribution(packages, "middle", ("Root.Package", "leaf[fast]>=1"), 20)
    distribution(packages, "leaf", (), 300)
    distribution(packages, "spare", (), 4000)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights.onnx").write_bytes(b"x" * 2_000_000)
    return tmp_path


def test_a_closure_holds_what_is_needed_and_installed_once(venv: Path) -> None:
    assert set(closure(("root-package",), site_packages(venv))) == {"root-package", "middle", "leaf"}
    assert set(closure(("leaf", "spare"), site_packages(venv))) == {"leaf", "spare"}


def test_roots_must_be_installed(venv: Path) -> None:
    with pytest.raises(ValueError, match="lacks absent"):
        closure(("leaf", "absent"), site_packages(venv))


def test_a_size_is_that_of_the_recorded_files_without_compiled_ones(venv: Path) -> None:
    found = closure(("root-package",), site_packages(venv))
    assert {name: size(one) for name, one in found.items()} == {"root-package": 1, "middle": 20, "leaf": 300}


def test_models_count(venv: Path) -> None:
    contender = Contender("a", "A", "a_app", ("leaf",), models=("weights.onnx",))
    assert installed_mb(contender, venv) == 2.0


def test_a_folder_that_is_no_environment_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no virtual environment"):
        site_packages(tmp_path)


def test_tessera_counts_with_its_own_files(tmp_path: Path) -> None:
    # Its encoders alone are more than 40 MB, OpenVINO more than 50.
    assert installed_mb(CONTENDERS[0], tmp_path) > 100
