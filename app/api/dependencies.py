"""What routes depend on: the components of the application, and threads to run them on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, ParamSpec, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Depends, Request

from app.api.admission import AdmissionControl
from app.api.metrics import Metrics
from app.audits.jobs import AuditJobs
from app.recognition.collections import CollectionService
from app.recognition.service import RecognitionService
from app.recognition.subjects import SubjectService
from app.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


class Components:
    """The components of one running application; ``app.main`` builds them."""

    def __init__(
        self,
        *,
        settings: Settings,
        recognition: RecognitionService,
        subjects: SubjectService,
        collections: CollectionService,
        audits: AuditJobs,
        admission: AdmissionControl,
        metrics: Metrics,
        record_threads: int,
    ) -> None:
        self.settings, self.recognition, self.subjects, self.collections = settings, recognition, subjects, collections
        self.audits, self.admission, self.metrics = audits, admission, metrics
        self._records = CapacityLimiter(record_threads)

    def close(self) -> None:
        """Stops background work, then the service."""
        self.audits.close()
        self.recognition.close()

    async def on_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a call that reads or writes records on its own thread, outside the queue for photographs."""
        return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._records)


def components_of(request: Request) -> Components:
    """The components of the running application."""
    components: Components = request.app.state.components
    return components


async def _components(request: Request) -> Components:
    # Async, because FastAPI would send a plain function to a thread and back.
    return components_of(request)


ComponentsDependency = Annotated[Components, Depends(_components)]


async def admitted(components: ComponentsDependency) -> AsyncIterator[None]:
    """A dependency for routes that take photographs: admits the request or refuses it before its body is read."""
    async with components.admission.admit():
        yield


Admitted = Depends(admitted)
