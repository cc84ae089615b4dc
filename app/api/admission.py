"""Admission control for photograph work: a bounded queue in front of a bounded number of threads.

A request that cannot be served in time is refused at once with a ``Retry-After``: in a queue that only grows, every
request is late. Requests whose client hangs up while they wait are dropped.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Request
from starlette.requests import ClientDisconnect

from app.api.metrics import Metrics
from app.api.problems import RequestError
from app.timing import note, timed

P = ParamSpec("P")
T = TypeVar("T")

PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", re.IGNORECASE)
SMOOTHING = 0.1
"""Weight of the newest request in the running mean of service times."""


class AdmissionControl:
    """The queue and the threads behind it."""

    def __init__(self, threads: int, most_waiting: int, seconds: float, metrics: Metrics) -> None:
        """Starts nothing yet.

        Args:
            threads: how many requests are processed at once.
            most_waiting: how many more may wait.
            seconds: how long a request may wait at most.
            metrics: records every request.
        """
        self._threads, self._most_waiting, self._seconds, self._metrics = threads, most_waiting, seconds, metrics
        self._limiter = CapacityLimiter(threads)
        self._admitted = 0
        self._mean_seconds = 0.05

    def require_room(self) -> None:
        """Raises RequestError (overloaded) if the queue is full: before a body is read, and again when it is in.

        A body that is still on its way takes no place: a client that stalls keeps nobody else out.
        """
        if self._admitted >= self._threads + self._most_waiting:
            self._metrics.refused.labels("overloaded").inc()
            raise RequestError(
                "overloaded",
                f"{self._admitted} requests are being served or wait already; try again later, or elsewhere.",
                retry_after=self.retry_after(),
            )

    def retry_after(self) -> int:
        """Whole seconds, at least 1, in which the requests admitted so far should be done."""
        return max(1, math.ceil(self._admitted * self._mean_seconds / self._threads))

    async def run(self, request: Request, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function that decodes, detects or encodes, as soon as a thread is free.

        Raises RequestError (overloaded) if the queue is full, RequestError (deadline_exceeded) if no thread is free in
        time, ClientDisconnect if the client hung up, and whatever the function raises.
        """
        self.require_room()
        self._count(1)
        try:
            return await self._run(request, partial(function, *args, **kwargs))
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._admitted += change
        self._metrics.waiting.set(max(self._admitted - self._threads, 0))

    async def _run(self, request: Request, function: Callable[[], T]) -> T:
        arrived = time.perf_counter()
        with timed() as stages:
            await self._acquire(request)
            start = time.perf_counter()
            note("queue", start - arrived)
            try:
                # A thread is reserved already; the call's own limiter must not count it again.
                return await anyio.to_thread.run_sync(function, limiter=CapacityLimiter(1))
            finally:
                self._limiter.release_on_behalf_of(request)
                took = time.perf_counter() - start
                self._mean_seconds += SMOOTHING * (took - self._mean_seconds)
                request.state.stages = stages
                for name, seconds in stages.items():
                    self._metrics.stages.labels(name).observe(seconds)

    async def _acquire(self, request: Request) -> None:
        try:
            self._limiter.acquire_on_behalf_of_nowait(request)
        except anyio.WouldBlock:
            await self._wait(request)

    async def _wait(self, request: Request) -> None:
        """Waits for a thread, no longer than the request or the settings allow, and only while the client stays."""
        seconds = min(self._seconds, preferred_wait(request))
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await request.receive())["type"] != "http.disconnect":
                pass
            gone = True
            group.cancel_scope.cancel()

        acquired = False
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as group:
                group.start_soon(watch)
                await self._limiter.acquire_on_behalf_of(request)
                acquired = True
                group.cancel_scope.cancel()
        if acquired:
            return
        if gone:
            self._metrics.refused.labels("client_gone").inc()
            raise ClientDisconnect
        self._metrics.refused.labels("deadline_exceeded").inc()
        raise RequestError(
            "deadline_exceeded",
            f"The request waited {seconds:g} s for its turn and was not begun; try again later, or elsewhere.",
            retry_after=self.retry_after(),
        )


def preferred_wait(request: Request) -> float:
    """How long the client is willing to wait, seconds: ``Prefer: wait=10`` (RFC 7240); infinity if not given."""
    found = PREFER_WAIT.search(request.headers.get("prefer", ""))
    return float(found[1]) if found else math.inf
