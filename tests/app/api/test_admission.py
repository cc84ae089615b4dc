"""The queue before the threads: bounded, with a deadline, and without those who left."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.requests import Request

from app.api.admission import preferred_wait
from app.faces import FoundFaces
from app.recognition.service import RecognitionService
from app.settings import GallerySettings, ServerSettings, Settings
from tests.app.api.helpers import files, ok, problem
from tests.app.photographs import collins, jpeg
from tests.app.process import Server, wait_until

pytestmark = pytest.mark.slow

WAIT = 30
STAGES = re.compile(r"([a-z_]+);dur=(\d+\.\d\d)")


class Door:
    """Stands before the detection of faces, and lets one request in at a time."""

    def __init__(self, service: RecognitionService) -> None:
        self._detect = service.detect
        self.inside, self.open = threading.Semaphore(0), threading.Semaphore(0)

    def detect(self, image: bytes) -> FoundFaces:
        self.inside.release()
        assert self.open.acquire(timeout=WAIT)
        return self._detect(image)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    server = ServerSettings(threads=1, max_waiting=2, request_seconds=20)
    return Settings(server=server, gallery=GallerySettings(data_dir=tmp_path / "data"))


@pytest.fixture
def door(service: RecognitionService, monkeypatch: pytest.MonkeyPatch) -> Door:
    made = Door(service)
    monkeypatch.setattr(service, "detect", made.detect)
    return made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as running:
        yield running


def waiting(client: TestClient) -> int:
    return int(float(re.findall(r"^tessera_requests_waiting (\S+)$", client.get("/metrics").text, re.MULTILINE)[0]))


def until_waiting(client: TestClient, count: int) -> None:
    for _ in range(WAIT * 100):
        if waiting(client) == count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{waiting(client)} wait, not {count}")


def ask(client: TestClient, pool: ThreadPoolExecutor, image: bytes, **headers: str) -> Future[httpx.Response]:
    return pool.submit(client.post, "/detect", files=files(image), headers=headers)


def test_more_than_may_wait_are_refused_at_once_and_the_others_served(
    client: TestClient, door: Door, pool: ThreadPoolExecutor, ada: bytes
) -> None:
    taken = [ask(client, pool, ada)]
    assert door.inside.acquire(timeout=WAIT)
    taken += [ask(client, pool, ada), ask(client, pool, ada)]
    until_waiting(client, 2)
    refused = client.post("/detect", files=files(ada))
    body = problem(refused, 503, "overloaded")
    assert int(refused.headers["retry-after"]) == body["retry_after"] >= 1
    assert "server-timing" not in refused.headers
    # What needs no thread for photographs is answered all the same.
    ok(client.get("/livez"))
    ok(client.get("/subjects"))
    door.open.release(3)
    for future in taken:
        assert len(ok(future.result(WAIT))["faces"]) == 1
    assert waiting(client) == 0
    assert 'tessera_requests_refused_total{reason="overloaded"} 1.0' in client.get("/metrics").text
    door.open.release()
    ok(client.post("/detect", files=files(ada)))


def test_who_is_not_begun_in_time_is_told_so(
    client: TestClient, door: Door, pool: ThreadPoolExecutor, ada: bytes
) -> None:
    first = ask(client, pool, ada)
    assert door.inside.acquire(timeout=WAIT)
    late = client.post("/detect", files=files(ada), headers={"Prefer": "respond-async, wait=1"})
    body = problem(late, 503, "deadline_exceeded")
    assert int(late.headers["retry-after"]) == body["retry_after"] >= 1
    door.open.release()
    ok(first.result(WAIT))
    # Its place was given back, and its photograph never looked at.
    door.open.release()
    ok(client.post("/detect", files=files(ada)))
    assert door.inside.acquire(timeout=WAIT)
    assert not door.inside.acquire(blocking=False)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=10", 10),
        ("respond-async, wait = 5", 5),
        ('handling=lenient; foo, Wait="7"', 7),
        ("wait=0", 0),
        ("wait=soon", float("inf")),
        ("await=3", float("inf")),
        ("", float("inf")),
    ],
)
def test_how_long_a_client_would_wait(header: str, seconds: float) -> None:
    request = Request({"type": "http", "headers": [(b"prefer", header.encode())]})
    assert preferred_wait(request) == seconds


def test_who_hangs_up_while_waiting_is_forgotten(tmp_path: Path, ada: bytes) -> None:
    large = jpeg(collins().resize((4000, 4000)))
    prepared = httpx.Request("POST", "http://localhost/detect", files=files(ada))
    head = "".join(f"{name}: {value}\r\n" for name, value in prepared.headers.items())
    message = f"POST /detect HTTP/1.1\r\n{head}\r\n".encode() + prepared.read()
    with (
        Server(tmp_path / "data", TESSERA_SERVER__THREADS="1") as server,
        httpx.Client(base_url=server.url, timeout=WAIT) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        metrics = lambda: client.get("/metrics").text  # noqa: E731
        busy = [pool.submit(httpx.post, f"{server.url}/detect", files=files(large), timeout=WAIT) for _ in range(8)]
        wait_until(lambda: "tessera_requests_waiting 7.0" in metrics(), "seven requests wait")
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(message)
            wait_until(lambda: "tessera_requests_waiting 0.0" not in metrics(), "it waits, too")
        gone = 'tessera_requests_refused_total{reason="client_gone"} 1.0'
        wait_until(lambda: gone in metrics(), "it is forgotten")
        assert [future.result(WAIT).status_code for future in busy] == [200] * 8
        # Seven waited and were served; nobody looked at the eighth.
        assert 'tessera_stage_duration_seconds_count{stage="queue"} 8.0' in metrics()
        assert 'status="499"} 1.0' in metrics()


def test_an_answer_says_where_its_time_went(client: TestClient, ada: bytes) -> None:
    ok(client.post("/enroll", files=files(ada), data={"subject_id": "ada"}), 201)
    encoded = "queue decode detect align assess encode crowding serialise"
    expected = {
        "/detect": "queue decode detect align assess serialise",
        "/verify": f"{encoded} search",
        "/identify": f"{encoded} search",
    }
    for path, stages in expected.items():
        data = {"subject_id": "ada"} if path == "/verify" else {}
        response = client.post(path, files=files(ada), data=data)
        found = STAGES.findall(response.headers["server-timing"])
        assert sorted(name for name, _ in found) == sorted(stages.split())
        assert sum(float(milliseconds) for _, milliseconds in found) < 1000 * response.elapsed.total_seconds()
    exported = client.get("/metrics").text
    assert 'tessera_stage_duration_seconds_count{stage="encode"} 3.0' in exported
    assert "server-timing" not in client.get("/livez").headers
