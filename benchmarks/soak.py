"""Hours of ordinary load: does memory grow, does the tail, and does anything fail?

    python -m benchmarks.soak --minutes 60

A closed loop first measures how many requests a second the service can answer. Then requests arrive at random moments
at 80 % of that: verifications, searches, and enrolments that are erased again, of photographs in many sizes. Each line
is a window of time with the resident memory at its end.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Annotated

import httpx
import typer

from benchmarks.peers.load import Target, closed_loop, open_loop, summary
from benchmarks.running import process
from tests.app.photographs import collins, hopper

SHARE = 0.8
SIZES = 60
WARM_UP, CALIBRATING = 5.0, 20.0
TIMEOUT = 30.0
LARGE_ENOUGH = 40_000
"""Bytes of a photograph whose face is good enough to enrol."""
MOST_OPEN = 64


def photographs(folder: Path) -> list[Path]:
    """Two people in many sizes and qualities."""
    chance, paths = random.Random(1), []
    for number in range(SIZES):
        picture = (collins(), hopper())[number % 2]
        side = chance.randint(160, 1400)
        data = io.BytesIO()
        picture.resize((side, int(side * chance.uniform(0.9, 1.1)))).save(data, "JPEG", quality=chance.randint(60, 95))
        paths.append(folder / f"{number}.jpg")
        paths[-1].write_bytes(data.getvalue())
    return paths


def resident(pid: int) -> float:
    """Resident memory of a process, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no memory")


async def churn(url: str, images: list[Path], seconds: float) -> int:
    """Enrols and erases somebody every half second; returns how many answers were not as they should be."""
    wrong, end = 0, time.monotonic() + seconds
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client:
        for number in itertools.count():
            if time.monotonic() > end:
                return wrong
            file = {"image": ("a.jpg", images[number % len(images)].read_bytes(), "image/jpeg")}
            answers = (
                await client.post("/enroll", files=file, data={"subject_id": "passing", "face_policy": "largest"}),
                await client.delete("/subjects/passing"),
            )
            wrong += [a.status_code for a in answers] != [201, 200]
            await asyncio.sleep(0.5)
    return wrong


def main(
    minutes: Annotated[float, typer.Option(help="how long, without the calibration", min=1)] = 60,
    windows: Annotated[int, typer.Option(help="lines to print", min=2)] = 12,
    encoder: Annotated[str, typer.Option(help="which encoder")] = "tessera-l",
) -> None:
    """Prints latency, failures and memory over time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = photographs(folder)
        with process(folder / "data", TESSERA_ENCODING__ENCODER=encoder) as (url, pid):
            _run(url, pid, images, minutes, windows)


def _run(url: str, pid: int, images: list[Path], minutes: float, windows: int) -> None:
    for number, path in enumerate(images[:2]):
        files = {"image": ("a.jpg", path.read_bytes(), "image/jpeg")}
        httpx.post(f"{url}/enroll", files=files, data={"subject_id": f"s{number}"}).raise_for_status()
    verify = [{"image": f"@{path}", "subject_id": f"s{n % 2}"} for n, path in enumerate(images)]
    identify = [{"image": f"@{path}"} for path in images]
    target = Target([f"{url}/verify"], verify, TIMEOUT)
    begin, record = asyncio.run(closed_loop(target, 8, WARM_UP, CALIBRATING))
    capacity = summary(record, begin, CALIBRATING)["answers_per_second"]
    rate = SHARE * capacity
    typer.echo(f"capacity {capacity:.1f}/s; {rate:.1f} requests a second for {minutes:g} minutes")
    typer.echo(
        f"{'minute':>7} {'requests':>9} {'p50 ms':>8} {'p99 ms':>8} {'not 200':>8} {'churn wrong':>12} {'MiB':>7}"
    )
    seconds = 60 * minutes / windows

    async def window(seed: int) -> tuple[dict[str, object], int]:
        one = Target([f"{url}/verify"], verify, TIMEOUT)
        other = Target([f"{url}/identify"], identify, TIMEOUT)
        wrong, (begin, record), (_, more) = await asyncio.gather(
            churn(url, [path for path in images if path.stat().st_size > LARGE_ENOUGH], seconds),
            open_loop(one, rate / 2, seconds, MOST_OPEN, seed),
            open_loop(other, rate / 2, seconds, MOST_OPEN, seed + 10_000),
        )
        return summary(record + more, begin, seconds), wrong

    for number in range(windows):
        found, wrong = asyncio.run(window(number))
        latency, statuses = found["latency_ms"], found["statuses"]
        assert isinstance(latency, dict)
        assert isinstance(statuses, dict)
        failed = {status: count for status, count in statuses.items() if status != "200"}
        typer.echo(
            f"{(number + 1) * seconds / 60:7.1f} {found['requests']:9} {latency['p50']:8.1f} {latency['p99']:8.1f} "
            f"{json.dumps(failed) if failed else 0:>8} {wrong:12} {resident(pid):7.0f}"
        )


if __name__ == "__main__":
    typer.run(main)
