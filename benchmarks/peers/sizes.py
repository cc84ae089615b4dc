"""Installed size of a service: its distributions and their dependencies, without compiled Python, and its models."""

from __future__ import annotations

import re
import sysconfig
from importlib.metadata import Distribution, distributions
from pathlib import Path

import app
import model
from benchmarks.peers.contenders import Contender

MEGABYTE = 1e6
COMPILED = "__pycache__"


def normalised(name: str) -> str:
    """A distribution's name in comparable form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(distribution: Distribution) -> list[str]:
    """Names of its requirements, without those of its extras."""
    found = []
    for line in distribution.requires or ():
        name, marker = re.match(r"[\w.-]+", line), line.partition(";")[2]
        if name and not re.search(r"\bextra\s*==", marker):
            found.append(normalised(name.group()))
    return found


def closure(roots: tuple[str, ...], packages: Path) -> dict[str, Distribution]:
    """The distributions in a folder that roots need, by name; requirements not installed there are skipped."""
    installed = {normalised(d.name): d for d in distributions(path=[str(packages)])}
    missing = {normalised(root) for root in roots} - installed.keys()
    if missing:
        raise ValueError(f"{packages} lacks {', '.join(sorted(missing))}")
    found: dict[str, Distribution] = {}
    wanted = [normalised(root) for root in roots]
    while wanted:
        name = wanted.pop()
        if name not in found and name in installed:
            found[name] = installed[name]
            wanted += requirements(installed[name])
    return found


def size(distribution: Distribution) -> int:
    """Bytes of the files in its RECORD."""
    paths = [Path(str(file.locate())) for file in distribution.files or () if COMPILED not in file.parts]
    return sum(path.stat().st_size for path in paths if path.is_file())


def tree_size(directory: Path) -> int:
    """Bytes of the files under a folder."""
    return sum(p.stat().st_size for p in directory.rglob("*") if p.is_file() and COMPILED not in p.parts)


def site_packages(venv: Path) -> Path:
    """The site-packages of a virtual environment. Raises FileNotFoundError if it is none."""
    for path in (venv / "lib").glob("python3*/site-packages"):
        return path
    raise FileNotFoundError(f"{venv} is no virtual environment; make it with the command prepare")


def installed_mb(contender: Contender, venv: Path) -> float:
    """Size of everything one service needs. Raises ValueError or FileNotFoundError where it is not installed."""
    own = contender.module is None
    packages = Path(sysconfig.get_path("purelib")) if own else site_packages(venv)
    total = sum(size(distribution) for distribution in closure(contender.packages, packages).values())
    if own:
        # Tessera may be an editable install, whose RECORD does not list these packages.
        total += sum(tree_size(Path(str(package.__file__)).parent) for package in (app, model))
    total += sum((venv / "models" / name).stat().st_size for name in contender.models)
    return round(total / MEGABYTE, 1)
