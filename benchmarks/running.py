"""A service of its own for a benchmark: a free port, a temporary data directory, gone afterwards."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

START_SECONDS = 60


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def service(data_dir: Path | None = None, **environment: str) -> Iterator[str]:
    """Starts ``tessera serve`` and gives its address; the process is stopped at the end.

    Raises RuntimeError, with what it printed, if the service does not become ready.
    """
    with tempfile.TemporaryDirectory() as temporary:
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "app.cli",
            "serve",
            "--port",
            str(port),
            "--data-dir",
            str(data_dir or temporary),
        ]
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
            try:
                url = f"http://127.0.0.1:{port}"
                deadline = time.monotonic() + START_SECONDS
                while not _is_ready(url):
                    if process.poll() is not None or time.monotonic() > deadline:
                        output.seek(0)
                        raise RuntimeError(output.read().decode())
                    time.sleep(0.05)
                yield url
            finally:
                process.terminate()
                process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=10).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
