"""What a route gets: the service, run on threads so that no photograph is ever worked on in the event loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, ParamSpec, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Depends, Request

from app.api.metrics import Metrics
from app.audit_jobs import AuditJobs
from app.service import TesseraService
from app.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


class Parts:
    """The parts of one running application."""

    def __init__(self, settings: Settings, service: TesseraService, metrics: Metrics, workers: int) -> None:
        self.settings, self.service, self.metrics = settings, service, metrics
        self.audits = AuditJobs(service.gallery, service.calibration)
        self._photographs = CapacityLimiter(workers)
        self._records = CapacityLimiter(2 * workers + 2)

    def close(self) -> None:
        """Stops what runs in the background, then the service."""
        self.audits.close()
        self.service.close()

    async def work(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs something that decodes, detects or encodes; as many at once as there are cores."""
        return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._photographs)

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs something that only asks the gallery, not behind the photographs that wait."""
        return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._records)


def get_parts(request: Request) -> Parts:
    """The running application's parts."""
    parts: Parts = request.app.state.parts
    return parts


PartsDependency = Annotated[Parts, Depends(get_parts)]
