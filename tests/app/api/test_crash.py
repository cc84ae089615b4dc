"""What was acknowledged survives ``kill -9``, and nothing is half there; a polite stop finishes what is under way."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.app.api.helpers import files, ok
from tests.app.process import PATIENCE, Server, wait_until

pytestmark = pytest.mark.slow

ENROLMENTS = 80
ANSWERED_BEFORE_KILL = 15
SAME_PERSON = 1.0
"""Largest distance between templates of one and the same file."""


async def enroll_until_killed(server: Server, photographs: list[tuple[bytes, ...]]) -> dict[str, Any]:
    """Sends all enrolments at once and kills the server after some answers; the answers, by subject."""
    answers: dict[str, Any] = {}

    async def enroll(client: httpx.AsyncClient, number: int) -> None:
        images = photographs[number % len(photographs)][:2]
        form = {"subject_id": f"s{number}", "face_policy": "largest"}
        try:
            response = await client.post("/enroll", files=files(*images), data=form)
        except httpx.TransportError:
            return
        answers[f"s{number}"] = ok(response, 201)
        if len(answers) == ANSWERED_BEFORE_KILL:
            server.kill()

    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as client:
        await asyncio.gather(*(enroll(client, number) for number in range(ENROLMENTS)))
    return answers


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, people: dict[str, tuple[bytes, ...]]) -> None:
    photographs = list(people.values())
    data_dir = tmp_path / "data"
    with Server(data_dir) as server:
        answers = asyncio.run(enroll_until_killed(server, photographs))
    assert ANSWERED_BEFORE_KILL <= len(answers) < ENROLMENTS

    with Server(data_dir) as server, httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        assert ok(client.get("/readyz"))["status"] == "ok"
        stored = ok(client.get("/subjects", params={"limit": 1000}))["subjects"]
        templates = {subject["id"]: [t["id"] for t in subject["templates"]] for subject in stored}
        assert all(len(ids) == 2 for ids in templates.values())
        for subject_id, answer in answers.items():
            assert templates[subject_id] == [t["template_id"] for t in answer["templates"]]
        for subject_id, ids in templates.items():
            for id_, image in zip(ids, photographs[int(subject_id[1:]) % len(photographs)][:2], strict=True):
                sent = {"top_k": "100"}
                candidates = ok(client.post("/identify", files=files(image), data=sent))["candidates"]
                [found] = [c for c in candidates if c["subject_id"] == subject_id]
                # The subject is the mean direction of both, the nearest template the photograph's own.
                assert found["distance"] < SAME_PERSON
                assert (found["template_id"], found["templates"]) == (id_, 2)


def connection_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


def test_sigterm_lets_a_request_under_way_finish(tmp_path: Path, ada: bytes) -> None:
    request = httpx.Request("POST", "http://localhost/enroll", files=files(ada), data={"subject_id": "ada"})
    body = request.read()
    head = (
        f"POST /enroll HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        f"Content-Type: {request.headers['content-type']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    data_dir = tmp_path / "data"
    with Server(data_dir) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
            answer = connection.makefile("rb")
            connection.sendall(head.encode())
            assert answer.readline().startswith(b"HTTP/1.1 100")
            assert answer.readline() == b"\r\n"
            connection.sendall(body[: len(body) // 2])
            server.terminate()
            wait_until(lambda: connection_refused(server.port), "the service takes no more connections")
            connection.sendall(body[len(body) // 2 :])
            assert answer.readline().startswith(b"HTTP/1.1 201")
            assert json.loads(answer.read().partition(b"\r\n\r\n")[2])["subject_id"] == "ada"
        assert server.process.wait(PATIENCE) == 0
        assert "Traceback" not in server.log.read_text()

    with Server(data_dir) as server:
        assert len(ok(httpx.get(f"{server.url}/subjects/ada"))["templates"]) == 1
        server.terminate()
        assert server.process.wait(PATIENCE) == 0
