"""A small HTTP server with known delays and statuses, in threads of this process."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Stub:
    """Answers one request after the other, each after ``delay`` seconds, with ``statuses`` in turns."""

    delay: float = 0.0
    statuses: Sequence[int] = (200,)
    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)


@contextmanager
def served(stub: Stub) -> Iterator[Stub]:
    """The stub at its address."""
    turn, statuses = threading.Lock(), itertools.cycle(stub.statuses)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with turn:
                time.sleep(stub.delay)
                stub.bodies.append(body)
                stub.kinds.append(self.headers["Content-Type"])
                status = next(statuses)
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        stub.url = f"http://127.0.0.1:{server.server_port}/verify"
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
