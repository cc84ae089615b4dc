"""Where the time of an answer goes: every stage of a verification, a search and an enrolment against its floor.

    python -m benchmarks.profile

One client, one request after the other. The stages are those of the header ``Server-Timing``; ``rest`` is the client's
remaining wait: HTTP both ways, validation, the hop to a thread and back. The floor of a stage is its library call
alone, on the same photographs, on one thread, in turn with the requests. Each photograph is scikit-image's astronaut
(public domain) scaled to a size, as a JPEG.
"""

from __future__ import annotations

import http.client
import io
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

import cv2
import faiss
import httpx
import numpy as np
import typer
from PIL import Image
from skimage import data

from app.embeddings import EMBEDDING_SIZE
from app.encoding import create_runtime, load_weights
from app.faces import TEMPLATE, FaceFinder, FacePolicy, YunetDetector
from app.faces.align import similarity
from app.faces.yunet import Yunet, read_weights
from app.settings import EncodingSettings
from app.types import CHIP_SIDE
from benchmarks.galleries import fill_gallery
from benchmarks.running import service
from benchmarks.search import COUNT
from benchmarks.tables import ResultsOption
from benchmarks.tables import show as save

SIZES = ((640, 480), (1280, 720), (4000, 3000))
COARSE_SIDE = 320
STAGE = re.compile(r"([a-z_]+);dur=([\d.]+)")
ORDER = (
    "queue",
    "decode",
    "detect",
    "align",
    "assess",
    "encode",
    "crowding",
    "search",
    "store",
    "serialise",
)

Call = Callable[[], Any]


class Answer(NamedTuple):
    """The header ``Server-Timing`` and the body."""

    timing: str
    body: bytes


Post = Callable[[], Answer]
Stages = dict[str, list[float]]


def photograph(width: int, height: int) -> bytes:
    """The astronaut, scaled to the image's height, on a grey canvas."""
    canvas = Image.new("RGB", (width, height), (96, 108, 120))
    side = min(width, height)
    astronaut = Image.fromarray(data.astronaut())  # type: ignore[no-untyped-call]
    canvas.paste(astronaut.resize((side, side), Image.Resampling.LANCZOS), (width // 8, 0))
    out = io.BytesIO()
    canvas.save(out, "JPEG", quality=90)
    return out.getvalue()


def floors(image: bytes, subjects: int) -> dict[str, Call]:
    """The library calls that a stage cannot do without, for one photograph."""
    picture = Image.open(io.BytesIO(image))
    width, height = picture.size
    divisor = next((d for d in (8, 4, 2) if max(width, height) // d >= 960), 1)

    def decode() -> None:
        opened = Image.open(io.BytesIO(image))
        opened.draft("RGB", (width // divisor, height // divisor))
        opened.load()

    face = FaceFinder(YunetDetector()).find(image, FacePolicy.LARGEST).faces[0]
    pixels = np.asarray(picture)
    scale = COARSE_SIDE / max(width, height)
    small = cv2.resize(pixels, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    yunet = Yunet(read_weights(), threads=1)
    matrix = similarity(face.detected.landmarks, TEMPLATE)
    encoder = create_runtime(load_weights(EncodingSettings().directory), threads=1)
    vectors = np.random.default_rng(0).normal(size=(subjects, EMBEDDING_SIZE)).astype(np.float32)
    index = faiss.IndexScalarQuantizer(EMBEDDING_SIZE, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)

    def search() -> None:
        faiss.omp_set_num_threads(1)
        index.search(vectors[:1], COUNT)

    return {
        "decode": decode,
        "detect": lambda: yunet.detect(small.astype(np.uint8, copy=False), 0.6, 0.3),
        "align": lambda: cv2.warpAffine(pixels, matrix, (CHIP_SIDE, CHIP_SIDE)),
        "assess": lambda: cv2.Laplacian(cv2.cvtColor(face.chip, cv2.COLOR_RGB2GRAY), cv2.CV_64F),
        "encode": lambda: encoder.encode(face.chip[np.newaxis]),
        "search": search,
    }


def ready(url: str, path: str, images: list[tuple[str, bytes]], **fields: str) -> Post:
    """Posts a form encoded in advance on a connection of its own, so that little of the client's work is counted.

    What it returns raises RuntimeError unless the answer is a success.
    """
    files = [(name, ("a.jpg", image)) for name, image in images]
    prepared = httpx.Request("POST", url, files=files, data=fields)
    content, kind = prepared.read(), prepared.headers["content-type"]
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)

    def post() -> Answer:
        connection.request("POST", path, content, {"content-type": kind})
        with connection.getresponse() as response:
            body = response.read()
            if response.status >= httpx.codes.MULTIPLE_CHOICES:
                raise RuntimeError(f"{path} answered {response.status}: {body.decode()}")
            return Answer(response.getheader("server-timing", ""), body)

    return post


def milliseconds(call: Call) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def answered(post: Post) -> dict[str, float]:
    """Milliseconds of one request by stage, ``rest`` and ``total``."""
    start = time.perf_counter()
    answer = post()
    total = 1000 * (time.perf_counter() - start)
    stages = {name: float(found) for name, found in STAGE.findall(answer.timing)}
    return stages | {"rest": total - sum(stages.values()), "total": total}


def profile(post: Post, parts: dict[str, Call], repeats: int) -> tuple[Stages, Stages]:
    """Times of the stages and of their floors, measured in turn."""
    stages, floor = Stages(), Stages()
    for number in range(repeats + 3):
        found = answered(post)
        beside = {name: milliseconds(call) for name, call in parts.items()}
        if number >= 3:
            for times, into in ((found, stages), (beside, floor)):
                for name, value in times.items():
                    into.setdefault(name, []).append(value)
    return stages, floor


def cell(stages: Stages, floor: Stages, name: str) -> str:
    """A stage's median, its share of the whole, and the floor in brackets; for example ``1.5, 8 % [1.0]``."""
    if name not in stages:
        return ""
    value, total = statistics.median(stages[name]), statistics.median(stages["total"])
    least = f" [{statistics.median(floor[name]):.1f}]" if name in floor else ""
    return f"{value:.1f}, {100 * value / total:.0f} %{least}"


def table(columns: dict[str, tuple[Stages, Stages]]) -> Iterator[str]:
    """One verb: a row for each stage, a column for each size of photograph."""
    yield "| stage | " + " | ".join(columns) + " |"
    yield "|---|" + "---|" * len(columns)
    for name in (*ORDER, "rest", "total"):
        if any(name in stages for stages, _ in columns.values()):
            yield f"| {name} | " + " | ".join(cell(*found, name) for found in columns.values()) + " |"


def main(
    repeats: Annotated[int, typer.Option(help="requests of each kind and size")] = 60,
    subjects: Annotated[int, typer.Option(help="size of the gallery that is searched")] = 100_000,
    results: ResultsOption = None,
) -> None:
    """Prints a table for each verb: medians by size of photograph."""
    weights = load_weights(EncodingSettings().directory)
    found: dict[str, dict[str, tuple[Stages, Stages]]] = {"verify": {}, "identify": {}, "enroll": {}}
    with tempfile.TemporaryDirectory() as directory:
        fill_gallery(Path(directory), weights.sha256, subjects, each=1)
        with service(Path(directory)) as url:
            ready(url, "/enroll", [("image", photograph(*SIZES[0]))], subject_id="grace")()
            for width, height in SIZES:
                image = photograph(width, height)
                parts = floors(image, subjects)
                without_search = {name: call for name, call in parts.items() if name != "search"}
                posts = {
                    "verify": (ready(url, "/verify", [("image", image)], subject_id="grace"), without_search),
                    "identify": (ready(url, "/identify", [("image", image)]), parts),
                    "enroll": (
                        ready(url, "/enroll", [("image", image)], subject_id="ada", on_conflict="replace"),
                        parts,
                    ),
                }
                for verb, (post, beside) in posts.items():
                    found[verb][f"{width}x{height}"] = profile(post, beside, repeats)
    for verb, columns in found.items():
        typer.echo(f"\n/{verb}\n")
        save(table(columns), f"budget-{verb}", results)


if __name__ == "__main__":
    typer.run(main)
