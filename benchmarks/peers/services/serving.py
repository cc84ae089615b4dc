"""What the peers' services share: configuration, concurrency and readiness.

A route is a ``def``, so that it runs on one of ``REQUEST_THREADS`` threads and never in the event loop. Each has
``response_model=None``: a response model would be serialised on one of these threads, queued behind other photographs.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
from fastapi import FastAPI, HTTPException

REQUEST_THREADS = int(os.environ.get("REQUEST_THREADS", "2"))
INNER_THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))
"""Threads inside one request."""
MODELS = Path(os.environ.get("MODELS", "models"))
"""Folder written by ``networks``."""

# Defined here, so that a service need not import the module that writes them.
IRESNET50 = "iresnet50.onnx"
SCRFD10G = "scrfd10g.onnx"
INCEPTION = "inception-resnet-v1.pt"


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = REQUEST_THREADS
    yield


async def _ready() -> dict[str, bool]:
    """Models are loaded when a service's module is imported, before the server listens."""
    return {"ready": True}


def application() -> FastAPI:
    """An application with ``GET /readyz``."""
    app = FastAPI(lifespan=_lifespan)
    app.add_api_route("/readyz", _ready, response_model=None)
    return app


def no_face() -> HTTPException:
    """The response to a photograph without a face."""
    return HTTPException(422, "no face")
