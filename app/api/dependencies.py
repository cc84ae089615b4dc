"""What a route gets: the service, run on threads so that no photograph is ever worked on in the event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, ParamSpec, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Depends, Request

from app.api.admission import Workload
from app.api.metrics import Metrics
from app.audits.jobs import AuditJobs
from app.recognition.service import TesseraService
from app.settings import Settings

THREADS_A_CORE = 2
"""While some wait for the encoder others decode and look for faces."""

P = ParamSpec("P")
T = TypeVar("T")


class Parts:
    """The parts of one running application."""

    def __init__(self, settings: Settings, service: TesseraService, metrics: Metrics, cores: int) -> None:
        self.settings, self.service, self.metrics = settings, service, metrics
        self.audits = AuditJobs(service.gallery, service.calibration, service.crowding)
        server = settings.server
        threads = server.threads or THREADS_A_CORE * cores
        self.workload = Workload(threads, server.max_waiting, server.request_seconds, metrics)
        self._records = CapacityLimiter(2 * cores + 2)

    def close(self) -> None:
        """Stops what runs in the background, then the service."""
        self.audits.close()
        self.service.close()

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs something that only asks the gallery, not behind the photographs that wait."""
        return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._records)


def parts_of(request: Request) -> Parts:
    """The running application's parts."""
    parts: Parts = request.app.state.parts
    return parts


async def _parts(request: Request) -> Parts:
    # Not a plain function: FastAPI would send each of those to a thread and back.
    return parts_of(request)


PartsDependency = Annotated[Parts, Depends(_parts)]


async def admitted(parts: PartsDependency) -> AsyncIterator[None]:
    """A dependency of the routes that take photographs: takes the request in, or refuses it before it is read."""
    async with parts.workload.admit():
        yield


Admitted = Depends(admitted)
