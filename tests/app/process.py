"""``tessera serve`` as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.shared_data import ROOT

PATIENCE = 60.0
RUNNING = re.compile(r"Uvicorn running on (https?://[\d.]+:\d+)")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Polls until the condition holds; AssertionError after a minute."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


def tessera(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of ``tessera`` to its end."""
    return tessera_in(ROOT, *arguments, **variables)


def tessera_in(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """As ``tessera``, from another folder."""
    command = [sys.executable, "-m", "app.cli", *arguments]
    variables = {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        command,
        check=False,
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def environment(**variables: str) -> dict[str, str]:
    """This process's variables without the settings of a service, and the given ones."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TESSERA_")} | variables


class Server:
    """A running service on a free port; leaving the context kills it if it still runs."""

    def __init__(self, data_dir: Path, *arguments: str, **variables: str) -> None:
        self.log = data_dir.parent / f"{data_dir.name}-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--data-dir", str(data_dir), *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment(**variables), stdout=log, stderr=subprocess.STDOUT
            )
        try:
            wait_until(self._started, "the service runs")
        except BaseException:
            self.kill()
            raise
        self.url = self._address()

    def _address(self) -> str:
        found = RUNNING.search(self.log.read_text())
        return found.group(1) if found else ""

    def _started(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return bool(self._address())

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def terminate(self) -> None:
        """Asks it to stop."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
