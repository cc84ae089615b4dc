"""Replicas of the service on one database, under enrolments while processes are killed.

Every enrolment goes to the next replica, with an Idempotency-Key, and is sent again to another one until it is
acknowledged. Then every *other* replica has to show the subject and to identify the photograph; where it does not, the
answer is counted as wrong. At the end everything that was acknowledged has to be there, each once.
"""

from __future__ import annotations

import secrets
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx

from benchmarks.postgres_server import PostgresServer
from benchmarks.running import free_port, started, tessera_command

PATIENCE = 120.0
PAUSE = 0.2
MOST_CANDIDATES = 100
SAME = 1e-3
# One for all threads: each new one reads the certificates anew.
_CLIENT = httpx.Client(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


@dataclass
class Outcome:
    """What came of a run: acknowledged enrolments, answers that were looked at, and what was wrong."""

    acknowledged: dict[str, list[str]] = field(default_factory=dict)
    checked: int = 0
    retried: int = 0
    wrong: list[str] = field(default_factory=list)
    longest_wait: float = 0.0


class Replica:
    """One process of the service, which may be killed and started again."""

    def __init__(self, directory: Path, url: str, variables: Mapping[str, str]) -> None:
        self._directory, self.port = directory, free_port()
        self._environment = {
            "TESSERA_GALLERY__URL": url,
            "TESSERA_SECURITY__SECRET_FILE": str(directory.parent / "secret.key"),
            "TESSERA_ENCODING__THREADS": "1",
            **variables,
        }
        self.url = f"http://127.0.0.1:{self.port}"
        self._opened = ExitStack()
        self._pid: int | None = None

    @property
    def pid(self) -> int:
        """The process id. Raises RuntimeError unless it was started."""
        if self._pid is None:
            raise RuntimeError("The replica was not started.")
        return self._pid

    def ready(self) -> bool:
        """Whether it answers requests."""
        try:
            return _CLIENT.get(f"{self.url}/readyz", timeout=5).is_success
        except httpx.HTTPError:
            return False

    def start(self) -> None:
        """Starts the process and waits for it."""
        command = tessera_command(self.port, self._directory)
        self._pid = self._opened.enter_context(started(command, self._environment, self.ready, PAUSE))

    def kill(self) -> None:
        """SIGKILL."""
        subprocess.run(["kill", "-9", str(self._pid)], check=True)  # noqa: S607
        self._opened.close()

    def stop(self) -> None:
        """Ends the process."""
        self._opened.close()


@contextmanager
def running(number: int, url: str, **variables: str) -> Iterator[list[Replica]]:
    """So many replicas of the service on one database, with further settings."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stop:
        (Path(folder) / "secret.key").write_text(secrets.token_hex(32))
        replicas = [Replica(Path(folder) / f"replica-{index}", url, variables) for index in range(number)]
        for replica in replicas:
            stop.callback(replica.stop)
            replica.start()
        yield replicas


class Load:
    """Clients that enrol through one replica after the other, and look at every answer through the others."""

    def __init__(self, urls: Sequence[str], photographs: Sequence[bytes]) -> None:
        self._urls, self._photographs = urls, photographs
        self._numbers, self._stopping = count(), threading.Event()
        self._lock = threading.Lock()
        self.outcome = Outcome()

    def run(self, clients: int, until: Callable[[], None]) -> Outcome:
        """Sends requests from so many clients as long as ``until`` takes."""
        with ThreadPoolExecutor(clients) as pool:
            futures = [pool.submit(self._client) for _ in range(clients)]
            try:
                until()
            finally:
                self._stopping.set()
            for future in futures:
                future.result()
        self._count_lost()
        return self.outcome

    def _client(self) -> None:
        try:
            while not self._stopping.is_set():
                self._enrol_and_look(next(self._numbers))
        except Exception as error:
            # Whoever waits for progress has to see that there will be none.
            self.outcome.wrong.append(repr(error))
            raise

    def _enrol_and_look(self, number: int) -> None:
        first = number % len(self._urls)
        templates = self._enrol(number, first)
        for further in range(1, len(self._urls)):
            self._look(self._urls[(first + further) % len(self._urls)], number, templates)

    def _enrol(self, number: int, first: int) -> list[str]:
        photograph = self._photographs[number % len(self._photographs)]
        began = time.monotonic()
        for attempt in count():
            answer = self._send(
                "POST",
                f"{self._urls[(first + attempt) % len(self._urls)]}/enroll",
                files={"image": ("face.jpg", photograph, "image/jpeg")},
                data={"subject_id": f"s{number}", "on_conflict": "append"},
                headers={"Idempotency-Key": f"key-{id(self)}-{number}"},
            )
            if answer is not None:
                answer.raise_for_status()
                break
            self.outcome.retried += 1
            if time.monotonic() - began > PATIENCE:
                raise TimeoutError(f"s{number} could not be enrolled for {PATIENCE:g} s")
            time.sleep(PAUSE)
        templates = [str(t["template_id"]) for t in answer.json()["templates"]]  # type: ignore[union-attr]
        with self._lock:
            self.outcome.acknowledged[f"s{number}"] = templates
            self.outcome.longest_wait = max(self.outcome.longest_wait, time.monotonic() - began)
        return templates

    def _look(self, url: str, number: int, templates: list[str]) -> None:
        """What another replica says of a subject; no answer is not a wrong one."""
        photograph = self._photographs[number % len(self._photographs)]
        shown = self._send("GET", f"{url}/subjects/s{number}")
        found = self._send(
            "POST",
            f"{url}/identify",
            files={"image": ("face.jpg", photograph, "image/jpeg")},
            data={"top_k": str(MOST_CANDIDATES)},
        )
        with self._lock:
            if shown is not None:
                self.outcome.checked += 1
                if shown.status_code != 200 or [t["id"] for t in shown.json()["templates"]] != templates:
                    self.outcome.wrong.append(f"s{number} at {url}: {shown.status_code} {shown.text[:200]}")
            if found is not None:
                self.outcome.checked += 1
                nearest = {c["subject_id"]: c["distance"] for c in found.json().get("candidates", [])}
                # The same face is enrolled many times over, as far as the first of them.
                if nearest.get(f"s{number}", 4.0) > SAME and len(nearest) < MOST_CANDIDATES:
                    self.outcome.wrong.append(f"search for s{number} at {url}: {found.status_code} {found.text[:200]}")

    @staticmethod
    def _send(method: str, url: str, **arguments: object) -> httpx.Response | None:
        """The answer; None where the replica or its database is away."""
        try:
            answer = _CLIENT.request(method, url, timeout=60, **arguments)  # type: ignore[arg-type]
        except httpx.TransportError:
            return None
        return None if answer.status_code == 503 else answer

    def _count_lost(self) -> None:
        for url in self._urls:
            stored: dict[str, int] = {}
            asked: dict[str, str | int] | None = {"limit": 1000}
            while asked is not None:
                page = _CLIENT.get(f"{url}/subjects", params=asked).raise_for_status().json()
                stored |= {subject["id"]: len(subject["templates"]) for subject in page["subjects"]}
                following = page["next_cursor"]
                asked = None if following is None else {"limit": 1000, "cursor": following}
            for subject, templates in self.outcome.acknowledged.items():
                if stored.get(subject) != len(templates):
                    self.outcome.wrong.append(f"{subject} at {url}: {stored.get(subject)} templates at the end")


def fail_over(primary: PostgresServer, standby: PostgresServer) -> None:
    """Kills the primary and makes the standby the primary, as a manager of the cluster would."""
    primary.kill()
    standby.promote()
    standby.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
    standby.execute("SELECT pg_reload_conf()")


def with_standby(primary: PostgresServer, on: Path) -> PostgresServer:
    """A standby that every commit of the primary waits for."""
    standby = PostgresServer(follows=primary, on=on)
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
    primary.execute("SELECT pg_reload_conf()")
    return standby


def both(primary: PostgresServer, standby: PostgresServer) -> str:
    """A URL with which a client finds whichever of the two takes writes."""
    return f"postgresql://postgres@/postgres?host={primary.directory},{standby.directory}"
