"""Client of Tessera, the self-hosted face verification service.

``Client("https://faces.example", key).verify("a.jpg", "b.jpg").matched``; ``AsyncClient`` is the same with ``await``.
"""

from tessera_client.client import AsyncClient, Client
from tessera_client.errors import (
    ConnectionFailedError,
    ForbiddenError,
    InvalidRequestError,
    LockedOutError,
    LowQualityError,
    MultipleFacesError,
    NoFaceError,
    NotFoundError,
    OverloadedError,
    PhotographError,
    RateLimitedError,
    SubjectExistsError,
    SubjectNotFoundError,
    TargetUnsupportedError,
    TesseraError,
    UnauthorizedError,
)
from tessera_client.photographs import Photograph
from tessera_client.retries import Retries
from tessera_client.version import VERSION

__version__ = VERSION

__all__ = [
    "AsyncClient",
    "Client",
    "ConnectionFailedError",
    "ForbiddenError",
    "InvalidRequestError",
    "LockedOutError",
    "LowQualityError",
    "MultipleFacesError",
    "NoFaceError",
    "NotFoundError",
    "OverloadedError",
    "Photograph",
    "PhotographError",
    "RateLimitedError",
    "Retries",
    "SubjectExistsError",
    "SubjectNotFoundError",
    "TargetUnsupportedError",
    "TesseraError",
    "UnauthorizedError",
]
