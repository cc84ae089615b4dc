"""Load on a local HTTP service, from a separate process, reported as JSON. Standard library only.

    python load.py requests.json http://127.0.0.1:8000/verify --clients 8 --seconds 10
    python load.py requests.json http://127.0.0.1:8001/verify http://127.0.0.1:8002/verify --rate 20 --seconds 10

``requests.json`` is a list of forms, sent in turn: each an object of fields, where ``"@/a/photograph.jpg"`` is a file.
With several addresses, each request goes to the one with the fewest in flight, like an ideal load balancer.

Closed loop (``--clients``): each client sends its next request when it has its answer. The first ``--warm-up`` seconds
do not count, nor does the time until every client has had an answer. Open loop (``--rate``): requests are due at random
moments (Poisson), whether or not earlier ones are answered, each on a free connection or a new one; a closed loop of
eight clients warms up the service first. Latency counts from when a request was *due*, so that waiting anywhere shows,
even beyond ``--most-open`` connections.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import secrets
import selectors
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
WARMING_CLIENTS = 8
ERROR_PAUSE = 0.05
QUANTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Answer:
    """Timestamps of one request; ``status`` is the HTTP status, or the error's name if there was no answer."""

    due: float
    sent: float
    done: float
    status: str


def form(fields: dict[str, str]) -> tuple[str, bytes]:
    """Content type and body of a multipart form; values that begin with ``@`` are file paths."""
    boundary, body = secrets.token_hex(16), b""
    for name, value in fields.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
        if value.startswith("@"):
            path = Path(value[1:])
            body += f'{head}; filename="{path.name}"\r\nContent-Type: image/jpeg\r\n\r\n'.encode() + path.read_bytes()
        else:
            body += f"{head}\r\n\r\n{value}".encode()
        body += b"\r\n"
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()


class Connection:
    """One keep-alive connection; an error closes it and becomes the answer's status."""

    def __init__(self, url: SplitResult, timeout: float) -> None:
        self._url, self._timeout = url, timeout
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, kind: str, body: bytes) -> str:
        """Sends a form, reads the whole answer, returns its status or the error's name."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(kind, body)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, KeyError, ValueError) as error:
            self.close()
            return type(error).__name__

    async def _post(self, kind: str, body: bytes) -> str:
        if self._streams is None or self._streams[0].at_eof():
            self._streams = await asyncio.open_connection(self._url.hostname, self._url.port)
        reader, writer = self._streams
        head = f"POST {self._url.path} HTTP/1.1\r\nHost: {self._url.netloc}\r\nContent-Type: {kind}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        fields = dict(line.split(": ", 1) for line in answer.split("\r\n")[1:] if line)
        await reader.readexactly(int(fields["content-length"]))
        if fields.get("connection") == "close":
            self.close()
        return answer.split(" ", 2)[1]

    def close(self) -> None:
        """Drops the connection; the next request opens a new one."""
        if self._streams:
            self._streams[1].close()
        self._streams = None


class Target:
    """The addresses of one service, its connections, and the forms sent in turn."""

    def __init__(self, urls: list[str], forms: list[dict[str, str]], timeout: float) -> None:
        self._urls, self._timeout = [urlsplit(url) for url in urls], timeout
        self._forms = itertools.cycle([form(fields) for fields in forms])
        self._free: list[list[Connection]] = [[] for _ in urls]
        self._busy = [0 for _ in urls]

    async def ask(self, due: float) -> Answer:
        """Sends the next form."""
        place = self._busy.index(min(self._busy))
        self._busy[place] += 1
        free = self._free[place]
        connection = free.pop() if free else Connection(self._urls[place], self._timeout)
        sent = time.perf_counter()
        status = await connection.post(*next(self._forms))
        done = time.perf_counter()
        self._busy[place] -= 1
        free.append(connection)
        return Answer(due, sent, done, status)

    def close(self) -> None:
        """Closes every connection."""
        for connection in itertools.chain.from_iterable(self._free):
            connection.close()


async def closed_loop(target: Target, clients: int, warm_up: float, seconds: float) -> tuple[float, list[Answer]]:
    """When counting began, and all answers."""
    record: list[Answer] = []
    warm = time.perf_counter() + warm_up
    begin, unanswered = warm, clients

    async def client() -> None:
        nonlocal begin, unanswered
        first = True
        while first or unanswered or time.perf_counter() < begin + seconds:
            record.append(await target.ask(time.perf_counter()))
            if first:
                first, unanswered, begin = False, unanswered - 1, max(warm, record[-1].done)
            if not record[-1].status.isdecimal():
                await asyncio.sleep(ERROR_PAUSE)  # a dead service refuses thousands of connections per second

    await asyncio.gather(*(client() for _ in range(clients)))
    return begin, record


async def open_loop(
    target: Target, rate: float, seconds: float, most_open: int, seed: int
) -> tuple[float, list[Answer]]:
    """When the first request could be due, and all answers."""
    record: list[Answer] = []
    places = asyncio.Semaphore(most_open)

    async def one(due: float) -> None:
        async with places:
            record.append(await target.ask(due))

    chance = random.Random(seed)
    tasks, begin = [], time.perf_counter()
    due = begin + chance.expovariate(rate)
    while due < begin + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due)))
        due += chance.expovariate(rate)
    await asyncio.gather(*tasks)
    return begin, record


def spread(seconds: list[float]) -> dict[str, float] | None:
    """Mean and percentiles, in milliseconds; None for an empty list."""
    if not seconds:
        return None
    ordered = sorted(1000 * value for value in seconds)
    at = {f"p{p}": ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))] for p in QUANTILES}
    named = {"mean": sum(ordered) / len(ordered), **at, "max": ordered[-1]}
    return {name: round(value, 3) for name, value in named.items()}


def summary(record: list[Answer], begin: float, seconds: float) -> dict[str, Any]:
    """Counts of the requests due within the window, and latencies of those answered with 200.

    ``answers_per_second`` counts the 200s received within the window, whenever they were due. ``sent_late_ms`` is large
    where the load generator itself, or its number of connections, could not keep up.
    """
    counted = [a for a in record if begin <= a.due < begin + seconds]
    good = [a for a in counted if a.status == "200"]
    finished = sum(begin <= a.done < begin + seconds and a.status == "200" for a in record)
    return {
        "seconds": seconds,
        "requests": len(counted),
        "statuses": {s: sum(a.status == s for a in counted) for s in sorted({a.status for a in counted})},
        "answers_per_second": round(finished / seconds, 3),
        "latency_ms": spread([a.done - a.due for a in good]),
        "sent_late_ms": spread([a.sent - a.due for a in counted]),
    }


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs one load."""
    forms = json.loads(Path(arguments.requests).read_text(encoding="utf-8"))
    target = Target(arguments.urls, forms, arguments.timeout)
    if arguments.rate is None:
        begin, record = await closed_loop(target, arguments.clients, arguments.warm_up, arguments.seconds)
    else:
        await closed_loop(target, WARMING_CLIENTS, arguments.warm_up, 0)
        begin, record = await open_loop(target, arguments.rate, arguments.seconds, arguments.most_open, arguments.seed)
    target.close()
    return summary(record, begin, arguments.seconds)


def main() -> None:
    """Runs one load and prints its summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("requests")
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--warm-up", type=float, default=1)
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("--most-open", type=int, default=256)
    arguments = parser.parse_args()
    if {urlsplit(url).hostname for url in arguments.urls} - LOOPBACK:
        parser.error("only services on this machine")
    # select keeps time to microseconds, epoll rounds up to milliseconds.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        json.dump(runner.run(run(arguments)), sys.stdout)


if __name__ == "__main__":
    main()
