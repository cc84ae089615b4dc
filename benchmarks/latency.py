"""Latency of an answer: one client, one request after the other, over HTTP on loopback.

    python -m benchmarks.latency

The photograph is scikit-image's astronaut (public domain), 512x512 JPEG. The encoder alone is measured as well, in both
precisions, on one thread.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from PIL import Image
from skimage import data

from app.encoding import Precision, WeightsError, create_runtime, load_weights
from app.faces import FaceFinder, FacePolicy, YunetDetector
from app.settings import EncodingSettings
from benchmarks.galleries import fill_gallery
from benchmarks.running import service
from benchmarks.tables import ResultsOption, show


def milliseconds(repeats: int, call: Callable[..., Any], *arguments: Any, **named: Any) -> tuple[float, float]:
    """Median and 95th percentile of a call, after three warm-up calls."""
    times = []
    for number in range(repeats + 3):
        start = time.perf_counter()
        call(*arguments, **named)
        if number >= 3:
            times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times), float(np.percentile(times, 95))


def photograph() -> bytes:
    """The astronaut as a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(data.astronaut()).save(buffer, "JPEG", quality=90)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def row(name: str, median: float, high: float) -> str:
    """One row of the table."""
    return f"| {name} | {median:.2f} | {high:.2f} |"


def main(
    repeats: Annotated[int, typer.Option(help="requests of each kind")] = 200,
    templates: Annotated[int, typer.Option(help="size of the gallery that is searched")] = 10_000,
    results: ResultsOption = None,
) -> None:
    """Prints a table: median and 95th percentile in milliseconds."""
    image = photograph()
    weights = load_weights(EncodingSettings().directory)
    lines = ["| milliseconds | median | p95 |", "|---|---|---|"]
    finder = FaceFinder(YunetDetector())
    chips = np.stack([finder.find(image, FacePolicy.SINGLE).faces[0].chip])
    lines.append(
        row("photograph to aligned face, in-process", *milliseconds(repeats, finder.find, image, FacePolicy.SINGLE))
    )
    for precision in (Precision.F32, Precision.INT8, Precision.BF16):
        try:
            runtime = create_runtime(weights, precision=precision, threads=1)
        except WeightsError as error:
            typer.echo(f"encoder, {precision}: {error.message}")
            continue
        lines.append(row(f"encoder, {precision}, one face, one thread", *milliseconds(repeats, runtime.encode, chips)))
    with tempfile.TemporaryDirectory() as directory:
        fill_gallery(Path(directory), weights.sha256, templates)
        with service(Path(directory)) as url, httpx.Client(base_url=url, timeout=60) as client:

            def post(path: str, *, files: tuple[str, ...] = ("image",), **fields: str) -> None:
                client.post(path, files=[(name, ("a.jpg", image)) for name in files], data=fields).raise_for_status()

            post("/enroll", subject_id="ada")
            lines.append(row("GET /livez (the floor)", *milliseconds(repeats, client.get, "/livez")))
            lines.append(row("POST /detect", *milliseconds(repeats, post, "/detect")))
            two = milliseconds(repeats, post, "/verify", files=("image", "reference"))
            lines.append(row("POST /verify, two photographs", *two))
            lines.append(row("POST /verify, subject", *milliseconds(repeats, post, "/verify", subject_id="ada")))
            lines.append(row(f"POST /identify, {templates} templates", *milliseconds(repeats, post, "/identify")))
            lines.append(row("POST /enroll", *milliseconds(repeats, post, "/enroll")))
    show(lines, "latency", results)


if __name__ == "__main__":
    typer.run(main)
