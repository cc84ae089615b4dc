"""A temporary service for a benchmark, on a free port and with a temporary data directory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

START_SECONDS = 60
STOP_SECONDS = 30


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tessera_command(port: int, data_dir: Path) -> list[str]:
    """``tessera serve``."""
    return [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--data-dir", str(data_dir)]


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], is_ready: Callable[[], bool], pause: float = 0.05
) -> Iterator[int]:
    """Runs a command with additional environment variables; yields its process id once polling finds it ready.

    The process is stopped at the end. Raises RuntimeError, with its output, if it ends or does not become ready;
    OSError if it cannot be run at all.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not is_ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    raise RuntimeError(output.read().decode())
                time.sleep(pause)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def service(data_dir: Path | None = None, **environment: str) -> Iterator[str]:
    """Starts ``tessera serve`` and yields its address; the process is stopped at the end.

    Raises RuntimeError, with its output, if the service does not become ready.
    """
    with tempfile.TemporaryDirectory() as temporary, process(data_dir or Path(temporary), **environment) as (url, _):
        yield url


@contextmanager
def process(data_dir: Path, **environment: str) -> Iterator[tuple[str, int]]:
    """As ``service``, and yields the id of its process, too."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # Benchmarks verify strangers by the thousand.
    variables = {"TESSERA_SECURITY__LOCKOUT": "false"} | environment
    with started(tessera_command(port, data_dir), variables, lambda: answers(url)) as pid:
        yield url, pid


def answers(url: str) -> bool:
    """Whether a service reports that it is ready."""
    try:
        return httpx.get(f"{url}/readyz", timeout=10).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
