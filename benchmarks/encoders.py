"""Time per face of each encoder on one thread, side by side, and the accuracy it buys.

    python -m benchmarks.encoders
    python -m benchmarks.encoders --dlib --reports runs/reports --plot docs/accuracy-and-time.svg

All encoders take turns in one run, so that a busy moment of the machine affects all of them; compare the ratios. SFace
runs as published, through the same library with the same options; dlib, on request, through its own, which supports
float32 only.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from app.encoding import Precision, create_runtime, load_weights
from app.openvino import ov
from app.settings import DEFAULT_WEIGHTS
from app.types import CHIP_SIDE
from benchmarks.tables import ResultsOption, show
from model.evaluation.baselines import DLIB, SFACE, dlib_network
from model.evaluation.plots import accuracy_against_time
from model.evaluation.report import Report
from model.training.teacher import load_sface

CALLS_A_TURN = 5
DLIB_SIDE = 150


def load_peer(precision: Precision) -> Callable[[], Any]:
    """SFace on one face, one thread."""
    network = ov.Core().read_model(load_sface().SerializeToString())
    network.reshape({"data": [1, 3, CHIP_SIDE, CHIP_SIDE]})
    options = {"INFERENCE_PRECISION_HINT": precision.value, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = ov.Core().compile_model(network, "CPU", {**options, "ENABLE_CPU_PINNING": False}).create_infer_request()
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 3, CHIP_SIDE, CHIP_SIDE)).astype(np.float32)
    return lambda: request.infer({"data": pixels})


def load_own(directory: Path, precision: Precision) -> Callable[[], Any]:
    """One of ours on one face, one thread, as the service runs it."""
    runtime = create_runtime(load_weights(directory), precision=precision, threads=1)
    chip = np.random.default_rng(0).integers(0, 256, (1, CHIP_SIDE, CHIP_SIDE, 3), dtype=np.uint8)
    return lambda: runtime.encode(chip)


def load_dlib() -> Callable[[], Any]:
    """The dlib network on one face of its input size, one thread."""
    network = dlib_network()
    chip = np.random.default_rng(0).integers(0, 256, (DLIB_SIDE, DLIB_SIDE, 3), dtype=np.uint8)
    return lambda: network(chip)


def measure(calls: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Median milliseconds of each call. The first call of a turn is excluded, as its caches are cold."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 3):
        for name, call in calls.items():
            for number in range(CALLS_A_TURN + 1):
                start = time.perf_counter()
                call()
                if turn >= 3 and number > 0:
                    times[name].append((time.perf_counter() - start) * 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def main(
    weights: Annotated[Path, typer.Option(help="folder with a folder for each encoder")] = DEFAULT_WEIGHTS,
    turns: Annotated[int, typer.Option(help="how often all encoders take their turn")] = 60,
    reports: Annotated[
        Path | None, typer.Option(help="folder with the reports of model.evaluation.evaluate, by encoder")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="SVG file: accuracy against milliseconds; needs --reports")] = None,
    results: ResultsOption = None,
    dlib: Annotated[bool, typer.Option("--dlib", help="measure dlib as well, which must be installed")] = False,
) -> None:
    """Prints a table: milliseconds in each precision and the ratio to SFace; to its fastest, where it has no int8."""
    if plot and not reports:
        raise typer.BadParameter("--plot needs --reports, where the accuracies are")
    directories = sorted(path for path in weights.iterdir() if (path / "encoder.onnx").is_file())
    has_bf16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    points: dict[str, tuple[float, float, float]] = {}
    lines = ["| one face, one thread | precision | ms | of SFace | MB |", "|---|---|---|---|---|"]
    floating = (Precision.BF16, Precision.F32) if has_bf16 else (Precision.F32,)
    for precision in (*floating[:1], Precision.INT8, *floating[1:]):
        peer = precision if precision in floating else floating[0]
        ours = [p for p in directories if precision is not Precision.INT8 or load_weights(p).quantisation]
        calls = {path.name: load_own(path, precision) for path in ours} | {SFACE: load_peer(peer)}
        if dlib and precision is Precision.F32:
            calls[DLIB] = load_dlib()
        medians = measure(calls, turns)
        for name, median in medians.items():
            file = weights / name / "encoder.onnx"
            size = f"{file.stat().st_size / 1e6:.1f}" if file.is_file() else ""
            shown = peer if name == SFACE else precision
            lines.append(f"| {name} | {shown} | {median:.2f} | {median / medians[SFACE]:.2f} | {size} |")
            path = (reports or Path()) / name / "report.json"
            if reports and path.is_file() and name not in points:
                lfw = Report.model_validate_json(path.read_text()).lfw
                if lfw is not None:
                    points[name] = (median, 100 * lfw.accuracy, 100 * lfw.standard_error)
    show(lines, "encoders-time", results)
    if plot:
        if not points:
            raise typer.BadParameter(f"{reports} has no report with LFW for any of {', '.join(medians)}")
        accuracy_against_time(points, plot)


if __name__ == "__main__":
    typer.run(main)
