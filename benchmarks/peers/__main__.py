"""Tessera against other services that compare two photographs, over HTTP, each behind FastAPI and uvicorn.

    python -m benchmarks.peers prepare ../peers-venv
    python -m benchmarks.peers run --venv ../peers-venv --lfw lfw.tar --out runs/peers --plot docs/peers.svg
    python -m benchmarks.peers report --out runs/peers

The peers have their own environment; ``services`` documents which part of each is the peer's and which is ours. All
services take turns in every round; compare the ratios. The load comes from a separate process on the same machine.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.peers.accuracy import accuracies
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.photographs import mated_pairs
from benchmarks.peers.plots import draw
from benchmarks.peers.processes import REPOSITORY
from benchmarks.peers.report import report
from benchmarks.peers.results import TESSERA, Results, Service
from benchmarks.peers.sizes import installed_mb
from benchmarks.peers.stages import Bench, all_cores, cold_starts, installed_sizes, one_core, with_gallery
from model.evaluation.protocols import read_lfw

OUT = Path("runs/peers")

cli = typer.Typer(help="Tessera beside its peers.", no_args_is_help=True, add_completion=False)


def machine() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


@cli.command()
def prepare(venv: Annotated[Path, typer.Argument(help="folder of the peers' virtual environment")]) -> None:
    """Makes the peers' environment and networks, and prints how much is installed for each service."""
    python = venv.resolve() / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    requirements = Path(__file__).with_name("requirements.txt")
    subprocess.run([str(python), "-m", "pip", "install", "--no-deps", "-r", str(requirements)], check=True)
    networks = [str(python), "-m", "benchmarks.peers.services.networks", str(venv.resolve() / "models")]
    subprocess.run(networks, check=True, cwd=REPOSITORY)
    for contender in CONTENDERS:
        typer.echo(f"{contender.title:<60} {installed_mb(contender, venv):8.1f} MB")


@cli.command()
def run(
    venv: Annotated[Path, typer.Option(help="the peers' virtual environment")],
    lfw: Annotated[Path, typer.Option(help="tar file with the LFW photographs and pairs.txt")],
    out: Annotated[Path, typer.Option(help="folder for results.json")] = OUT,
    seconds: Annotated[float, typer.Option(help="length of each load", min=0.1)] = 3,
    rounds: Annotated[int, typer.Option(help="how often every service takes its turn", min=1)] = 3,
    only: Annotated[
        list[str] | None, typer.Option(help="peer to be measured; all but arcface-scrfd if not given")
    ] = None,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="also LFW's 6,000 pairs, where weights are real")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="SVG file to draw")] = None,
) -> None:
    """Measures everything, writes results.json after each part, and prints the tables."""
    unknown = set(only or ()) - {contender.name for contender in CONTENDERS}
    if unknown:
        raise typer.BadParameter(f"no such service: {', '.join(sorted(unknown))}")
    taking_part = [c for c in CONTENDERS if (c.name in {TESSERA, *only} if only else not c.slow)]
    results = Results(machine=machine(), cores=len(os.sched_getaffinity(0)), seconds=seconds, rounds=rounds)
    results.services = {contender.name: Service(title=contender.title) for contender in taking_part}
    photographs = read_lfw(lfw)
    bench = Bench(taking_part, venv, out, results, {})
    parts: list[Callable[[], None]] = [
        partial(installed_sizes, bench),
        partial(one_core, bench, mated_pairs(photographs)),
        partial(all_cores, bench),
        partial(cold_starts, bench),
        partial(with_gallery, bench, taking_part[0]),
    ]
    if accuracy:
        parts.append(partial(accuracies, bench, photographs))
    for part in parts:
        part()
        results.save(out)
    _show(results, plot)


@cli.command("report")
def show(
    out: Annotated[Path, typer.Option(help="folder with results.json")] = OUT,
    plot: Annotated[Path | None, typer.Option(help="SVG file to draw")] = None,
) -> None:
    """Prints the tables of a run, in Markdown."""
    _show(Results.load(out), plot)


def _show(results: Results, plot: Path | None) -> None:
    typer.echo(report(results))
    if plot:
        draw(results, plot)


if __name__ == "__main__":
    cli()
