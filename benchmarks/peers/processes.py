"""A contender's processes: start, memory, load, stop."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from benchmarks.peers import load
from benchmarks.peers.contenders import Arrangement, Contender
from benchmarks.peers.photographs import Pair
from benchmarks.peers.results import Load
from benchmarks.running import answers, free_port, started, tessera_command

REPOSITORY = Path(__file__).resolve().parents[2]
KEEP_ALIVE_SECONDS = 75  # Tessera's; uvicorn's default of 5 would close connections that an open loop reuses
LOAD_SECONDS = 600  # the longest a load may take
ANSWER_SECONDS = 60
FIRST_ANSWER_PAUSE = 0.01


@dataclass(frozen=True, slots=True)
class Running:
    """A contender that is ready, with the address and process id of each of its processes."""

    contender: Contender
    arrangement: Arrangement
    urls: list[str]
    processes: list[int]


def command(contender: Contender, venv: Path, port: int, data_dir: Path) -> list[str]:
    """The command that starts one of its processes."""
    if contender.module is None:
        return tessera_command(port, data_dir)
    module = f"benchmarks.peers.services.{contender.module}:app"
    server = [str(venv / "bin" / "python"), "-m", "uvicorn", module, "--app-dir", str(REPOSITORY)]
    return [*server, "--port", str(port), "--timeout-keep-alive", str(KEEP_ALIVE_SECONDS), "--log-level", "warning"]


def environment(contender: Contender, arrangement: Arrangement, venv: Path, data_dir: Path) -> dict[str, str]:
    """Its environment variables; Tessera runs with its defaults."""
    if contender.module is None:
        return {}
    libraries = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(arrangement.inner))
    own = {"REQUEST_THREADS": str(arrangement.requests), "MODELS": str(venv.resolve() / "models")}
    return {**libraries, **own, "VERIFYFACE_HOME": str(data_dir), **contender.environment}


def on_core(core: int | None) -> list[str]:
    """A command prefix that pins a process to one core."""
    return [] if core is None else ["taskset", "-c", str(core)]


@contextmanager
def start(
    contender: Contender, arrangement: Arrangement, venv: Path, *, core: int | None = None, data_dir: Path | None = None
) -> Iterator[Running]:
    """Starts it, on one core or on all. Raises RuntimeError or OSError if it does not become ready."""
    with ExitStack() as stack:
        running = Running(contender, arrangement, [], [])
        for _ in range(arrangement.processes):
            port = free_port()
            url = f"http://127.0.0.1:{port}"
            directory = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            variables = environment(contender, arrangement, venv, directory)
            line = [*on_core(core), *command(contender, venv, port, directory)]
            running.processes.append(stack.enter_context(started(line, variables, partial(answers, url))))
            running.urls.append(url)
        yield running


def ask(client: httpx.Client, url: str, contender: Contender, pair: Pair) -> httpx.Response:
    """One comparison."""
    first, second = contender.fields
    files = {first: ("first.jpg", pair[0], "image/jpeg"), second: ("second.jpg", pair[1], "image/jpeg")}
    return client.post(f"{url}/verify", files=files)


def cold_start(contender: Contender, venv: Path, pair: Pair) -> float:
    """Seconds from the start of one process to its first comparison, with its files already in the page cache."""
    arrangement, port = Arrangement(1, os.cpu_count() or 1, 1), free_port()

    def has_answered() -> bool:
        try:
            return ask(client, f"http://127.0.0.1:{port}", contender, pair).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    with tempfile.TemporaryDirectory() as temporary, httpx.Client(timeout=ANSWER_SECONDS) as client:
        variables = environment(contender, arrangement, venv, Path(temporary))
        begin = time.perf_counter()
        with started(command(contender, venv, port, Path(temporary)), variables, has_answered, FIRST_ANSWER_PAUSE):
            return time.perf_counter() - begin


def run_load(urls: list[str], forms: Path, seconds: float, *options: str, core: int | None = None) -> Load:
    """One load by ``load.py`` in a separate process. Raises RuntimeError if it fails."""
    line = [*on_core(core), sys.executable, str(load.__file__), str(forms), *urls, "--seconds", str(seconds), *options]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=LOAD_SECONDS)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Load.model_validate_json(done.stdout)


def family(roots: list[int]) -> list[int]:
    """Processes and all their descendants."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may contain anything.
            fields = status.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(status.parent.name)] = int(fields[1])
    found = list(roots)
    for process in found:
        found += [child for child, parent in parents.items() if parent == process and child not in found]
    return found


def resident_mb(roots: list[int]) -> float:
    """Resident memory of processes and their children; pages shared by two of them count twice."""
    page = os.sysconf("SC_PAGE_SIZE")
    pages = sum(int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) for process in family(roots))
    return round(pages * page / 1e6, 1)
