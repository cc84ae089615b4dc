"""The proxy in front of several replicas, with Debian's nginx and two servers that stand for replicas."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import httpx
import pytest

from tests.app.process import PATIENCE, wait_until
from tests.shared_data import ROOT

CONFIGURATION = ROOT / "deploy" / "nginx.conf"

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")


class Replica(ThreadingHTTPServer):
    """Answers every request with its name, or with a status; ``/slow`` when it is told to go on."""

    def __init__(self, name: str, status: int = 200) -> None:
        self.name, self.status, self.asked, self.go_on = name, status, 0, Event()
        super().__init__(("127.0.0.1", 0), Answer)
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def close(self) -> None:
        self.go_on.set()
        self.shutdown()
        self.server_close()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Replica

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked += 1
        if self.path == "/slow":
            self.server.go_on.wait(PATIENCE)
        self.send_response(self.server.status)
        if self.server.status == 503:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(self.server.name)))
        self.end_headers()
        self.wfile.write(self.server.name.encode())

    def do_POST(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def proxy(folder: Path, *ports: int, patience: str = "60s") -> Iterator[httpx.Client]:
    """A client of nginx as it is configured, but for its address and how long it waits, in front of these ports."""
    own, text = free_port(), CONFIGURATION.read_text()
    assert "proxy_read_timeout 60s;" in text
    text = text.replace("proxy_read_timeout 60s;", f"proxy_read_timeout {patience};")
    [server] = [line for line in text.splitlines() if "server api:8000" in line]
    servers = "\n".join(server.replace("api:8000", f"127.0.0.1:{port}") for port in ports)
    text = text.replace(server, servers).replace("listen 8080;", f"listen 127.0.0.1:{own};")
    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        text = text.replace("http {\n", f"http {{\n    {kind}_temp_path {folder};\n", 1)
    path = folder / "nginx.conf"
    path.write_text(text.replace("http {\n", "http {\n    access_log off;\n", 1))
    command = ["nginx", "-p", str(folder), "-c", str(path), "-e", str(folder / "error.log")]
    command += ["-g", f"daemon off; pid {folder / 'pid'};" + ("user root;" if os.geteuid() == 0 else "")]
    tried = subprocess.run([*command, "-t"], check=False, capture_output=True, text=True)
    assert tried.returncode == 0, tried.stderr
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: listens(own), "nginx listens")
        with httpx.Client(base_url=f"http://127.0.0.1:{own}", timeout=PATIENCE) as client:
            yield client
    finally:
        process.terminate()
        process.wait(PATIENCE)


def listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_requests_go_past_a_replica_that_does_not_answer(tmp_path: Path) -> None:
    with closing(Replica("one")) as one, proxy(tmp_path, free_port(), one.port) as client:
        answers = [client.post("/verify", content=b"x" * 1000) for _ in range(6)]
    assert [(a.status_code, a.text) for a in answers] == [(200, "one")] * 6


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_503_reaches_the_client_and_counts_against_no_replica(tmp_path: Path, method: str) -> None:
    with (
        closing(Replica("busy", 503)) as busy,
        closing(Replica("one")) as one,
        proxy(tmp_path, busy.port, one.port) as client,
    ):
        answers = [client.request(method, "/readyz") for _ in range(12)]
        assert busy.asked + one.asked == 12, "no request was sent twice"
    refused = [a for a in answers if a.status_code == 503]
    assert len(refused) == busy.asked == 6
    assert {a.headers["retry-after"] for a in refused} == {"1"}


def test_an_erasure_that_takes_long_is_not_sent_to_a_second_replica(tmp_path: Path) -> None:
    with (
        closing(Replica("one")) as one,
        closing(Replica("two")) as two,
        proxy(tmp_path, one.port, two.port, patience="1s") as client,
    ):
        assert client.delete("/slow").status_code == 504
        assert one.asked + two.asked == 1
