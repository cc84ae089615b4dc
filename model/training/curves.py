"""The curves and metrics of a training run, from its ``log.jsonl``; also while it runs.

    python -m model.training.curves runs/own

``training.svg`` shows loss, distances, the share of active triplets and true accepts on held-out people over all steps
of all stages; ``metrics.csv`` has every value, a row a line of the log.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import typer
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from model.commands import run

LOG_FILE = "log.jsonl"
CSV_FILE = "metrics.csv"
PLOT_FILE = "training.svg"
PANELS = (("loss",), ("d_ap", "d_an"), ("active",))

Line = dict[str, Any]

mpl.use("Agg")


def read_log(out: Path) -> list[Line]:
    """The lines of a run, values by name; ``heldout`` as ``heldout tar@...``, ``total_step`` counted over all stages.

    Steps that were done again after an interruption count once, as they were the last time. Raises FileNotFoundError
    where nothing was logged yet, ValueError for a line that is none.
    """
    path = out / LOG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: give the folder that model.training.train was given as --out")
    lines: dict[tuple[str, int, bool], Line] = {}
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        try:
            line = json.loads(text)
            key = (line["stage"], line["step"], "heldout" in line)
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"line {number} of {path} is not one that training wrote") from None
        # Deleted first, so that a line that was written again takes its place at the end.
        lines.pop(key, None)
        lines[key] = line
    return _counted_over_stages(lines.values())


def _counted_over_stages(lines: Any) -> list[Line]:
    before, stage, last, result = 0, None, 0, list[Line]()
    for line in lines:
        if line["stage"] != stage:
            before, stage = before + last, line["stage"]
        last = line["step"]
        rates = {f"heldout {name}": rate for name, rate in line.get("heldout", {}).items()}
        kept = {name: value for name, value in line.items() if name != "heldout"}
        result.append({"total_step": before + last, **kept, **rates})
    return result


def write_metrics(lines: list[Line], path: Path) -> None:
    """Every line as a row of a CSV; what a line does not have is empty."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(lines)


def draw_curves(lines: list[Line], path: Path, title: str) -> None:
    """Four panels over the steps of all stages; the format follows the name of the file (.svg, .png)."""
    figure, panels = plt.subplots(2, 2, figsize=(11, 7))
    rates = tuple(sorted({name for line in lines for name in line if name.startswith("heldout ")}))
    for axes, names in zip(panels.flat, (*PANELS, rates), strict=True):
        _panel(axes, lines, names)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _panel(axes: Axes, lines: list[Line], names: tuple[str, ...]) -> None:
    for name in names:
        points = [(line["total_step"], line[name]) for line in lines if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set(xlabel="step")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    else:
        what = ", ".join(names) or "held-out rates"
        axes.text(0.5, 0.5, f"{what}: not logged", ha="center", va="center", transform=axes.transAxes)


def write_curves(out: Path) -> None:
    """Writes both files beside the log of a run."""
    lines = read_log(out)
    write_metrics(lines, out / CSV_FILE)
    draw_curves(lines, out / PLOT_FILE, out.resolve().name)


def main(
    out: Annotated[Path, typer.Argument(help="folder of a run, as given to model.training.train")],
    picture: Annotated[Path | None, typer.Option(help="another file for the curves, .svg or .png")] = None,
) -> None:
    """Writes ``training.svg`` and ``metrics.csv`` from the log of a run."""
    write_curves(out)
    if picture is not None:
        draw_curves(read_log(out), picture, out.resolve().name)
    typer.echo(f"{picture or out / PLOT_FILE}, {out / CSV_FILE}")


if __name__ == "__main__":
    run(main)
