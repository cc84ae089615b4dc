"""When the client sends again: a server that answers from a script, over real connections."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest

from tessera_client import (
    AsyncClient,
    Client,
    ConnectionFailedError,
    InvalidRequestError,
    OverloadedError,
    Retries,
    TesseraError,
)
from tessera_client.results import Enrolment, Health, parsed

HANG_UP = 0
OK = {"status": "ok", "checks": {}}
Answer = tuple[int, dict[str, Any], dict[str, str]]


class Script:
    """Answers each request with the next line, then with the last one; keeps what was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = ""

    def refuse(self, status: int, code: str, *, times: int, retry_after: str | None = "0") -> None:
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        self.answers += [(status, {"code": code, "detail": "later", "request_id": "r"}, headers)] * times

    def hang_up(self, times: int) -> None:
        self.answers += [(HANG_UP, {}, {})] * times

    def accept(self, body: dict[str, Any] | None = None) -> None:
        self.answers.append((200, OK if body is None else body, {}))


@pytest.fixture
def script() -> Iterator[Script]:
    written = Script()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            written.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            status, content, headers = written.answers.pop(0) if len(written.answers) > 1 else written.answers[0]
            if status == HANG_UP:
                self.close_connection = True
                return
            sent = json.dumps(content).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(sent))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    written.url = f"http://127.0.0.1:{server.server_port}"
    yield written
    server.shutdown()
    thread.join()
    server.server_close()


def test_where_a_redirection_points_is_said(script: Script) -> None:
    script.answers.append((308, {}, {"Location": "https://faces.example/livez"}))
    with Client(script.url) as client, pytest.raises(TesseraError, match=r"points to https://faces\.example/livez"):
        client.livez()


def test_an_answer_that_cannot_be_unpacked_is_an_error_of_the_client(script: Script) -> None:
    script.answers.append((200, OK, {"Content-Encoding": "gzip"}))
    with Client(script.url, retries=Retries(times=0)) as client, pytest.raises(TesseraError) as failed:
        client.livez()
    assert (failed.value.code, failed.value.status) == ("unexpected_answer", 0)


def test_what_cannot_be_sent_is_tried_once_and_is_a_wrong_request(script: Script) -> None:
    with Client(script.url) as client, pytest.raises(InvalidRequestError, match="cannot be sent"):
        client.enroll(b"photograph", "ada", idempotency_key="a\nb")
    assert not script.asked


@pytest.mark.parametrize(("status", "code"), [(503, "overloaded"), (503, "deadline_exceeded"), (429, "rate_limited")])
def test_what_is_refused_for_a_while_is_sent_again(script: Script, status: int, code: str) -> None:
    script.refuse(status, code, times=2)
    script.accept()
    with Client(script.url) as client:
        assert client.readyz().status == "ok"
    assert len(script.asked) == 3


def test_awaited_requests_are_sent_again(script: Script) -> None:
    script.refuse(503, "overloaded", times=1)
    script.hang_up(1)
    script.accept()

    async def ask() -> Health:
        async with AsyncClient(script.url) as client:
            return await client.readyz()

    assert asyncio.run(ask()).status == "ok"
    assert len(script.asked) == 3


def test_not_more_often_than_allowed(script: Script) -> None:
    script.refuse(503, "overloaded", times=1)
    with Client(script.url, retries=Retries(times=2)) as client, pytest.raises(OverloadedError) as refused:
        client.readyz()
    assert (len(script.asked), refused.value.retry_after) == (3, 0)


def test_not_later_than_allowed(script: Script) -> None:
    script.refuse(503, "overloaded", times=1, retry_after="3600")
    with Client(script.url) as client, pytest.raises(OverloadedError):
        client.readyz()
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    ("status", "code", "retry_after"),
    [
        (503, "gallery_unavailable", None),
        (429, "locked_out", "0"),
        (500, "internal_error", "0"),
        (409, "idempotency_conflict", None),
        (404, "not_found", None),
    ],
)
def test_what_repeating_does_not_help_is_sent_once(
    script: Script, status: int, code: str, retry_after: str | None
) -> None:
    script.refuse(status, code, times=1, retry_after=retry_after)
    with Client(script.url) as client, pytest.raises(TesseraError) as refused:
        client.readyz()
    assert (len(script.asked), refused.value.code) == (1, code)


REPEATED: list[Callable[[Client], object]] = [
    lambda client: client.verify(b"a", b"b"),
    lambda client: client.identify(b"a"),
    lambda client: client.detect(b"a"),
    lambda client: client.enroll(b"a", "ada"),
    lambda client: client.get_subject("ada"),
    lambda client: client.update_subject("ada", metadata={}),
]
SENT_ONCE: list[Callable[[Client], object]] = [
    lambda client: client.verify(b"a", subject_id="ada"),
    lambda client: client.delete_subject("ada"),
    lambda client: client.delete_template("ada", "t"),
    lambda client: client.delete_collection("staff"),
    lambda client: client.create_collection("staff"),
    lambda client: client.start_audit("staff"),
]


@pytest.mark.parametrize(("calls", "attempts"), [(REPEATED, 2), (SENT_ONCE, 1)], ids=["repeated", "once"])
def test_a_lost_answer_is_asked_for_again_only_where_that_is_safe(
    script: Script, calls: list[Callable[[Client], object]], attempts: int
) -> None:
    script.hang_up(1)
    with Client(script.url, retries=Retries(times=1)) as client:
        for call in calls:
            script.asked.clear()
            with pytest.raises(ConnectionFailedError):
                call(client)
            assert len(script.asked) == attempts


def test_a_repeated_enrolment_is_the_same_request_and_the_next_one_another(script: Script) -> None:
    script.hang_up(1)
    script.refuse(409, "idempotency_conflict", times=1, retry_after=None)
    script.accept({"nonsense": 1})
    with Client(script.url) as client:
        for _ in range(2):
            with pytest.raises(TesseraError, match="unexpected_answer"):
                client.enroll(b"photograph", "ada")
    keys = [headers["idempotency-key"] for _, _, headers, _ in script.asked]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert all(b"photograph" in body for *_, body in script.asked)


def test_an_answer_of_a_proxy_is_an_error_too(script: Script) -> None:
    script.answers.append((502, {"message": "bad gateway"}, {}))
    with Client(script.url) as client, pytest.raises(TesseraError) as refused:
        client.readyz()
    assert (refused.value.code, refused.value.status) == ("unexpected_answer", 502)


def test_fields_of_a_later_service_break_nothing(script: Script) -> None:
    script.accept(OK | {"since": "2031-01-01", "status": "splendid"})
    with Client(script.url) as client:
        assert asdict(client.readyz()) == {"status": "splendid", "checks": {}}


def test_a_name_of_a_file_stays_here(script: Script, tmp_path: Any) -> None:
    script.accept({"nonsense": 1})
    path = tmp_path / "ada-lovelace.jpg"
    path.write_bytes(b"x")
    with Client(script.url, "tessera_k") as client, pytest.raises(TesseraError):
        client.detect(path)
    assert b"lovelace" not in script.asked[0][3]
    assert script.asked[0][2]["authorization"] == "Bearer tessera_k"


def test_white_space_around_a_key_is_not_sent(script: Script) -> None:
    script.accept()
    with Client(script.url, " tessera_k\r\n") as client:
        client.readyz()
    assert script.asked[0][2]["authorization"] == "Bearer tessera_k"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("key", ["", "\n", "tessera_one\ntessera_two", "tessera_\u00fc", "tessera_\0"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_told(kind: type[Client | AsyncClient], key: str) -> None:
    with pytest.raises(ValueError, match="one line of ASCII") as refused:
        kind("http://127.0.0.1:9", key)
    assert "tessera" not in str(refused.value)


def test_an_answer_without_a_field_is_no_answer() -> None:
    with pytest.raises(KeyError):
        parsed(Enrolment, {"subject_id": "ada"})
