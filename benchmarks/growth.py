"""How time and memory grow with templates, pixels, faces and clients.

    python -m benchmarks.growth --results docs/results --plot docs/growth.svg

One thing grows at a time, over HTTP on loopback: subjects in the collection that ``/identify`` searches; pixels of the
photograph that ``/verify`` gets; faces in a photograph that is identified with ``face_policy=all``; clients that verify
at once, each sending its next request when it has its answer. Photographs are scikit-image's astronaut (public domain).
Memory is the most that the process held while a row was measured.
"""

from __future__ import annotations

import asyncio
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import matplotlib as mpl
import numpy as np
import typer
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image
from skimage import data

from app.encoding import load_weights
from app.settings import EncodingSettings
from benchmarks.galleries import fill_gallery
from benchmarks.memory import MEBIBYTE
from benchmarks.peers.load import Target, closed_loop, summary
from benchmarks.profile import Post, milliseconds, photograph, ready
from benchmarks.running import process
from benchmarks.tables import ResultsOption, show

mpl.use("Agg")
# Makes the SVG reproducible.
mpl.rcParams["svg.hashsalt"] = "tessera"

SUBJECTS = (1_000, 10_000, 100_000, 300_000, 1_000_000)
SIDES = ((400, 300), (640, 480), (1280, 720), (2000, 1500), (4000, 3000), (8000, 6000))
FACES = (1, 4, 16, 64)
CLIENTS = (1, 2, 4, 8, 16, 64, 256)
FEW = 1000
"""Subjects in the collection where something else grows."""
WARM_UP = 3
RESET_PEAK = "5"
"""Written to ``clear_refs`` of a process: its peak of resident memory begins anew (proc_pid_clear_refs(5))."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured at one size.

    milliseconds: median and 99th percentile of an answer. per_second: answers. peak: resident memory, MiB.
    start: seconds until the service was ready, where that is what grows.
    """

    size: float
    milliseconds: tuple[float, float]
    per_second: float
    peak: float
    start: float | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """The rows of one thing that grows. ``thing`` and ``unit`` name it, ``request`` says what is asked."""

    thing: str
    unit: str
    request: str
    rows: tuple[Row, ...]


@contextmanager
def peak_of(pid: int) -> Iterator[Callable[[], float]]:
    """Begins the peak of a process anew; yields a function that reads it, MiB."""
    Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK)

    def read() -> float:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / MEBIBYTE

    yield read


def timed(pid: int, size: float, post: Post, repeats: int, start: float | None = None) -> Row:
    """One client, one request after the other."""
    for _ in range(WARM_UP):
        post()
    with peak_of(pid) as peak:
        times = [milliseconds(post) for _ in range(repeats)]
        middle = statistics.median(times)
        high = float(np.percentile(times, 99))
        return Row(size, (middle, high), 1000 / statistics.fmean(times), peak(), start)


def crowd(faces: int) -> bytes:
    """A JPEG with the astronaut's face in every field of a square grid; the face of a field is some 100 pixels wide."""
    face = Image.fromarray(data.astronaut()).crop((110, 0, 350, 240))  # type: ignore[no-untyped-call]
    columns = round(faces**0.5)
    canvas = Image.new("RGB", (240 * columns, 240 * columns), (96, 108, 120))
    for number in range(faces):
        canvas.paste(face, (240 * (number % columns), 240 * (number // columns)))
    out = io.BytesIO()
    canvas.save(out, "JPEG", quality=90)
    return out.getvalue()


def of_subjects(sizes: tuple[int, ...], repeats: int) -> Growth:
    """Searches of ever larger collections, and how long the service takes to start with them."""
    image, digest, rows = photograph(640, 480), load_weights(EncodingSettings().directory).sha256, list[Row]()
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            fill_gallery(Path(folder), digest, size, each=1)
            with process(Path(folder)):
                pass  # the first start computes the crowding of all subjects
            began = time.perf_counter()
            with process(Path(folder)) as (url, pid):
                start = time.perf_counter() - began
                rows.append(timed(pid, size, ready(url, "/identify", [("image", image)]), repeats, start))
    return Growth("subjects in the collection", "", "`/identify`, 640x480", tuple(rows))


def of_photographs(url: str, pid: int, repeats: int) -> Growth:
    """Verifications of ever larger photographs."""
    rows = []
    for width, height in SIDES:
        post = ready(url, "/verify", [("image", photograph(width, height))], subject_id="ada")
        rows.append(timed(pid, width * height / 1e6, post, repeats))
    return Growth("pixels of the photograph", "megapixels", "`/verify` with a subject", tuple(rows))


def of_faces(url: str, pid: int, repeats: int) -> Growth:
    """Searches for ever more faces of one photograph."""
    rows = []
    for faces in FACES:
        post = ready(url, "/identify", [("image", crowd(faces))], face_policy="all", top_k="1")
        found = len(json.loads(post().body)["faces"])
        if found != faces:
            raise RuntimeError(f"{found} of {faces} faces were found")
        rows.append(timed(pid, faces, post, repeats))
    return Growth("faces in the photograph", "", "`/identify`, `face_policy=all`", tuple(rows))


def of_clients(url: str, pid: int, folder: Path, seconds: float) -> Growth:
    """Verifications by ever more clients at once."""
    path, rows = folder / "photograph.jpg", []
    path.write_bytes(photograph(640, 480))
    for clients in CLIENTS:
        target = Target([f"{url}/verify"], [{"image": f"@{path}", "subject_id": "ada"}], 60)
        with peak_of(pid) as peak:
            begin, record = asyncio.run(closed_loop(target, clients, 1, seconds))
            found = summary(record, begin, seconds)
            if found["statuses"].keys() != {"200"}:
                raise RuntimeError(f"{clients} clients got {found['statuses']}")
            latency = found["latency_ms"]
            rows.append(Row(clients, (latency["p50"], latency["p99"]), found["answers_per_second"], peak()))
    return Growth("clients at once", "", "`/verify` with a subject, 640x480", tuple(rows))


def table(found: list[Growth]) -> Iterator[str]:
    """All rows, in Markdown."""
    yield "| what grows | request | size | p50, ms | p99, ms | answers/s | peak memory, MiB | start, s |"
    yield "|---|---|---|---|---|---|---|---|"
    for growth in found:
        for row in growth.rows:
            start = "" if row.start is None else f"{row.start:.2f}"
            size = f"{row.size:,.0f}" if row.size >= 100 else f"{row.size:.2g}"
            yield (
                f"| {growth.thing} | {growth.request} | {size} {growth.unit} | {row.milliseconds[0]:.1f} | "
                f"{row.milliseconds[1]:.1f} | {row.per_second:.1f} | {row.peak:.0f} | {start} |"
            )


def draw(found: list[Growth], path: Path) -> None:
    """Latency (left axis) and memory (right axis) against each size, all logarithmic but memory."""
    figure, places = plt.subplots(1, len(found), figsize=(4.2 * len(found), 3.8))
    for axes, growth in zip(places, found, strict=True):
        sizes = [row.size for row in growth.rows]
        for number, name in enumerate(("p50", "p99")):
            times = [row.milliseconds[number] for row in growth.rows]
            axes.plot(sizes, times, f"C0{'o-' if number == 0 else '^--'}", markersize=4, label=f"{name}, ms")
        axes.set(xscale="log", yscale="log", title=growth.request.replace("`", ""))
        axes.set(xlabel=f"{growth.thing}{', ' * bool(growth.unit)}{growth.unit}", ylabel="latency, ms")
        axes.grid(alpha=0.3)
        memory = axes.twinx()
        peaks = [row.peak for row in growth.rows]
        memory.plot(sizes, peaks, "C1s:", markersize=4, label="peak memory, MiB")
        memory.set(ylim=(0, 1.1 * max(peaks)), ylabel="MiB")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        lines = [*axes.get_lines(), *memory.get_lines()]
    figure.legend(lines, [str(line.get_label()) for line in lines], loc="lower center", ncols=len(lines), fontsize=9)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main(
    repeats: Annotated[int, typer.Option(help="requests of each size", min=10)] = 100,
    seconds: Annotated[float, typer.Option(help="duration of the load of each number of clients", min=1)] = 15,
    most_subjects: Annotated[int, typer.Option(help="of the largest collection", min=SUBJECTS[0])] = SUBJECTS[-1],
    plot: Annotated[Path | None, typer.Option(help="picture to write")] = None,
    results: ResultsOption = None,
) -> None:
    """Prints a table and draws it."""
    found = [of_subjects(tuple(size for size in SUBJECTS if size <= most_subjects), repeats)]
    digest = load_weights(EncodingSettings().directory).sha256
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill_gallery(folder / "data", digest, FEW, each=1)
        with process(folder / "data") as (url, pid):
            files = {"image": ("a.jpg", photograph(640, 480))}
            httpx.post(f"{url}/enroll", files=files, data={"subject_id": "ada"}, timeout=60).raise_for_status()
            found += [of_photographs(url, pid, repeats), of_faces(url, pid, repeats)]
            found.append(of_clients(url, pid, folder, seconds))
    show(table(found), "growth", results)
    if plot is not None:
        draw(found, plot)


if __name__ == "__main__":
    typer.run(main)
