"""Connections of a real server that stall, flood or never end; and bodies made to cost far more than they weigh."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.app.api.helpers import files, ok, problem
from tests.app.photographs import collins, jpeg
from tests.app.process import PATIENCE, Server

pytestmark = pytest.mark.slow

LIMITS = {
    "TESSERA_SERVER__HEADER_SECONDS": "2",
    "TESSERA_SERVER__BODY_SECONDS": "12",
    "TESSERA_SERVER__MAX_CONNECTIONS": "120",
    "TESSERA_SERVER__MAX_WAITING": "4",
    "TESSERA_SERVER__THREADS": "1",
    "TESSERA_SERVER__MAX_BYTES_IN_FLIGHT": str(64 * 1024 * 1024),
}
REFUSED_WITHIN = 30.0
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("connections") / "data", **LIMITS) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as running:
        yield running


def connect(server: Server, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    connection.sendall(sent)
    return connection


def rest(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionError:
        pass
    connection.close()
    return received


def head(path: str, length: int, more: str = "") -> bytes:
    lines = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{lines}Content-Length: {length}\r\n{more}\r\n".encode()


def test_half_headers_are_closed_and_keep_nobody_out(server: Server, client: httpx.Client) -> None:
    stalled = [connect(server, b"GET /livez HTTP/1.1\r\nHost: local") for _ in range(100)]
    ok(client.get("/livez"))
    for connection in stalled:
        assert rest(connection).startswith(b"HTTP/1.1 408 ")
    silent = connect(server)
    assert rest(silent) == b""


def test_bodies_that_stall_take_no_place_and_are_closed(server: Server, client: httpx.Client) -> None:
    image = jpeg(collins())
    stalled = [connect(server, head("/enroll", 1000) + b'{"image"') for _ in range(100)]
    # One works, four may wait: a hundred that have sent half a body take none of these places.
    for _ in range(5):
        ok(client.post("/detect", files=files(image)))
    for connection in stalled:
        assert rest(connection).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_dribbles_is_closed_and_one_that_is_merely_slow_is_not(server: Server) -> None:
    body = json.dumps({"id": "slow"}).encode().ljust(16_384)

    def dribble(chunk: int, pause: float) -> bytes:
        connection = connect(server, head("/collections", len(body)))
        try:
            for at in range(0, len(body), chunk):
                connection.sendall(body[at : at + chunk])
                time.sleep(pause)
        except ConnectionError:
            pass
        return connection.recv(65536)

    assert dribble(1, 0.05).startswith(b"HTTP/1.1 408 ")
    assert dribble(2048, 0.3).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("pieces", [1, 40])
def test_large_headers_are_refused(server: Server, client: httpx.Client, pieces: int) -> None:
    header = b"X: " + b"x" * 60_000 + b"\r\n"
    connection = connect(server, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
    received = b""
    try:
        for _ in range(pieces):
            connection.sendall(header)
        connection.sendall(b"\r\n")
    except ConnectionError:
        pass
    received = rest(connection)
    # Where the refusal overtakes what is still being sent, the system may drop it with the connection.
    assert received.startswith(b"HTTP/1.1 431 ") or (pieces > 1 and received == b"")
    ok(client.get("/livez", headers={"X": "x" * 10_000}))


def test_endless_headers_end(server: Server, client: httpx.Client) -> None:
    connection = connect(server, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ")
    sent = 0
    try:
        while sent < 50 * MEGABYTE:
            sent += connection.send(b"x" * 65536)
    except ConnectionError:
        pass
    assert sent < 50 * MEGABYTE
    ok(client.get("/livez"))


def test_endless_trailers_cost_no_memory(server: Server, client: httpx.Client) -> None:
    connection = connect(server, b"POST /enroll HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    before = resident(server)
    trailers = b"a: b\r\n" * 10_000
    try:
        for _ in range(500):
            connection.sendall(trailers)
    except ConnectionError:
        pass
    assert resident(server) < before + 100
    connection.close()
    ok(client.get("/livez"))


def test_requests_without_end_on_one_connection(server: Server, client: httpx.Client) -> None:
    connection = connect(server)
    before = resident(server)
    connection.settimeout(2)
    try:
        for _ in range(300):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5000)
    except (ConnectionError, TimeoutError):
        pass
    assert resident(server) < before + 100
    connection.close()
    ok(client.get("/livez"))
    few = connect(server, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
    received = b""
    while received.count(b"HTTP/1.1 200 ") < 3:
        received += few.recv(65536)
    few.close()


def resident(server: Server) -> int:
    """Memory of the server, MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def test_no_more_connections_than_allowed(server: Server, client: httpx.Client) -> None:
    connections = [connect(server) for _ in range(150)]
    answers = [rest(connection) for connection in connections]
    refused = [answer for answer in answers if answer.startswith(b"HTTP/1.1 503 ")]
    assert 20 <= len(refused) <= 60
    # The others asked for nothing in time; then there is room again.
    assert set(answers) - set(refused) == {b""}
    ok(client.get("/livez"))


def responsive_while(client: httpx.Client, server: Server, request: httpx.Request) -> tuple[httpx.Response, float]:
    """Sends a request while another client asks for health: the answer, and the longest that health took, seconds."""
    longest = 0.0
    done = threading.Event()

    def ask() -> None:
        nonlocal longest
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as other:
            while not done.is_set():
                start = time.monotonic()
                assert other.get("/livez").status_code == 200
                longest = max(longest, time.monotonic() - start)
                time.sleep(0.01)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        response = client.send(request)
    finally:
        done.set()
        asking.join()
    return response, longest


def form(boundary: str, *components: bytes) -> dict[str, object]:
    lines = b"".join(b"--" + boundary.encode() + b"\r\n" + component + b"\r\n" for component in components)
    return {
        "content": lines + b"--" + boundary.encode() + b"--\r\n",
        "headers": {"Content-Type": f"multipart/form-data; boundary={boundary}"},
    }


TEXT = b'Content-Disposition: form-data; name="subject_id"\r\n\r\n'
FILE = b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n'


@pytest.mark.parametrize("charset", ["punycode", "idna", "utf-7", "utf-16", "unicode_escape", "latin-1", "base64"])
def test_no_charset_but_utf_8(client: httpx.Client, server: Server, charset: str) -> None:
    sent = form("b", TEXT + "ä".encode() * 900_000)
    headers = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
    request = client.build_request("POST", "/enroll", content=sent["content"], headers=headers)  # type: ignore[arg-type]
    response, longest = responsive_while(client, server, request)
    problem(response, 415, "unsupported_media_type")
    assert longest < 5
    content = b'{"image": "' + b"A" * MEGABYTE + b'"}'
    headers = {"Content-Type": f"application/json; charset={charset}"}
    problem(client.post("/enroll", content=content, headers=headers), 415, "unsupported_media_type")


BOMBS = {
    "numbers where a photograph belongs": b'{"image":[' + b"0," * (15 * MEGABYTE) + b"0]}",
    "lists in lists": b'{"image":' + b"[]," * (10 * MEGABYTE) + b"[]}",
    "lists of lists": b'{"image":[' + b"[]," * (10 * MEGABYTE) + b"[]]}",
    "fields without end": b"{" + b",".join(b'"%d":0' % number for number in range(3 * MEGABYTE)) + b"}",
    "one field of megabytes": b'{"' + b"x" * (30 * MEGABYTE) + b'":1}',
    "text of megabytes": b'{"image":"' + b"!" * (30 * MEGABYTE) + b'"}',
    "spaces": b" " * (30 * MEGABYTE) + b"{}",
    "deep": b'{"image":' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
}


@pytest.mark.parametrize("name", BOMBS)
def test_json_that_costs_more_than_it_weighs(client: httpx.Client, server: Server, name: str) -> None:
    request = client.build_request("POST", "/enroll", content=BOMBS[name], headers={"Content-Type": "application/json"})
    start = time.monotonic()
    response, longest = responsive_while(client, server, request)
    assert response.status_code in (400, 413, 422), response.text[:500]
    assert len(response.content) < 8192
    assert longest < 5
    assert time.monotonic() - start < REFUSED_WITHIN


FORMS = {
    "line feeds": form("b", FILE + b"\r" * (30 * MEGABYTE)),
    "half boundaries": form("b", FILE + b"\r\n--" * (7 * MEGABYTE)),
    "a preamble": {
        "content": b"-" * (30 * MEGABYTE),
        "headers": {"Content-Type": "multipart/form-data; boundary=b"},
    },
    "a header without end": form("b", b"X: " + b"x" * (30 * MEGABYTE)),
    "many headers": form("b", b"X: y\r\n" * (4 * MEGABYTE)),
    "many parts": form("b", *[TEXT] * 300_000),
    "many files": form("b", *[FILE] * 300_000),
    "a name of megabytes": form("b", b'Content-Disposition: form-data; name="' + b"n" * MEGABYTE + b'"\r\n\r\n'),
    "text of megabytes": form("b", TEXT + b"t" * (30 * MEGABYTE)),
    "metadata of brackets": form(
        "b", b'Content-Disposition: form-data; name="metadata"\r\n\r\n' + b"[]," * (10 * MEGABYTE)
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_that_cost_more_than_they_weigh(client: httpx.Client, server: Server, name: str) -> None:
    request = client.build_request("POST", "/enroll", **FORMS[name])  # type: ignore[arg-type]
    start = time.monotonic()
    response, longest = responsive_while(client, server, request)
    assert response.status_code in (400, 413, 422), response.text[:500]
    assert len(response.content) < 8192
    assert longest < 5
    assert time.monotonic() - start < REFUSED_WITHIN


def test_records_take_small_bodies(client: httpx.Client) -> None:
    content = b'{"metadata": {"a": "' + b"x" * (30 * MEGABYTE) + b'"}}'
    response = client.patch("/subjects/ada", content=content, headers={"Content-Type": "application/json"})
    assert problem(response, 413, "body_too_large")["max_body_bytes"] < MEGABYTE


def test_bytes_in_flight_are_bounded(server: Server, client: httpx.Client) -> None:
    length = 30 * MEGABYTE
    chunk = b" " * (length - 1)
    holding = [connect(server, head("/enroll", length)) for _ in range(2)]
    for connection in holding:
        connection.sendall(chunk)
    time.sleep(1)
    content = base64.b64encode(bytes(8 * MEGABYTE))
    response = client.post(
        "/enroll", content=b'{"image":"' + content + b'"}', headers={"Content-Type": "application/json"}
    )
    assert int(response.headers["retry-after"]) == problem(response, 503, "overloaded")["retry_after"]
    for connection in holding:
        connection.close()
    ok(client.post("/detect", files=files(jpeg(collins()))))


def test_a_server_that_was_attacked_still_stops(tmp_path: Path) -> None:
    with Server(tmp_path / "data", TESSERA_SERVER__GRACEFUL_SECONDS="2") as server:
        stalled = [connect(server, head("/enroll", 1000) + b"{") for _ in range(20)]
        server.terminate()
        server.process.wait(PATIENCE)
        for connection in stalled:
            connection.close()
