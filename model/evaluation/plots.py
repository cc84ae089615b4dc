"""Plots of the results, as SVG files."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.stats import norm

from app.decisions.curves import Group
from app.evaluation.roc import Comparisons

mpl.use("Agg")
# Makes the SVG reproducible.
mpl.rcParams["svg.hashsalt"] = "tessera"

FARS = np.logspace(-5, -2, 40)
DET_TICKS = (1e-5, 1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5)


def _save(path: Path) -> None:
    plt.tight_layout()
    plt.savefig(path, metadata={"Date": None})
    plt.close()


def roc_and_det(curves: dict[str, Comparisons], path: Path, title: str) -> None:
    """TAR against FAR (ROC), and misses against FAR on normal-deviate scales (DET, Martin et al. 1997)."""
    _, (roc, det) = plt.subplots(1, 2, figsize=(11, 4.6))
    for name, comparisons in curves.items():
        fars = comparisons.shown(FARS.tolist())
        tars = np.array(comparisons.tar_at_far(fars))
        roc.semilogx(fars, 100 * tars, label=name)
        det.plot(norm.ppf(fars), norm.ppf(np.clip(1 - tars, 1e-5, 1 - 1e-5)), label=name)
    roc.set(xlabel="false accepts (FAR)", ylabel="true accepts (TAR), %", title=f"{title}: ROC")
    det.set(xlabel="false accepts (FAR)", ylabel="misses (FRR)", title=f"{title}: DET")
    ticks = norm.ppf(DET_TICKS)
    det.set_xticks(ticks, [f"{t:g}" for t in DET_TICKS], rotation=45)
    det.set_yticks(ticks, [f"{t:g}" for t in DET_TICKS])
    det.set_xlim(norm.ppf(FARS[0]), norm.ppf(FARS[-1]))
    for axes in (roc, det):
        axes.grid(alpha=0.3)
        axes.legend()
    _save(path)


def distance_histogram(
    mated: np.ndarray[tuple[int], np.dtype[np.float32]],
    non_mated: np.ndarray[tuple[int], np.dtype[np.float32]],
    thresholds: dict[str, float],
    path: Path,
    title: str,
) -> None:
    """Densities of mated and non-mated distances, adjusted by crowding as thresholds are, with named thresholds."""
    _, axes = plt.subplots(figsize=(7, 4))
    for values, name in ((mated, "same person"), (non_mated, "different people")):
        axes.hist(values, bins=120, range=(0, 3), density=True, alpha=0.6, label=name)
    for name, value in thresholds.items():
        axes.axvline(value, color="black", linewidth=0.8, linestyle=":")
        axes.text(value, axes.get_ylim()[1] * 0.98, f" {name}", rotation=90, va="top", ha="right", fontsize=8)
    axes.set(xlabel="squared distance and crowding", ylabel="density", title=title)
    axes.legend()
    _save(path)


def robustness_curves(curves: dict[str, dict[str, dict[float, float]]], titles: dict[str, str], path: Path) -> None:
    """One panel per corruption (name -> encoder -> strength -> true accept rate, 0..1)."""
    columns = 4
    rows = -(-len(curves) // columns)
    _, panels = plt.subplots(rows, columns, figsize=(3.2 * columns, 3 * rows), squeeze=False)
    flat: list[Axes] = list(panels.flat)
    for axes, (name, encoders) in zip(flat, curves.items(), strict=False):
        for encoder, points in encoders.items():
            axes.plot(list(points), [100 * v for v in points.values()], marker="o", markersize=3, label=encoder)
        axes.set(xlabel=titles[name], ylim=(0, 100))
        axes.grid(alpha=0.3)
    for axes in flat[len(curves) :]:
        axes.axis("off")
    flat[0].set_ylabel("TAR, %")
    flat[0].legend(fontsize=8)
    _save(path)


def accuracy_against_time(points: dict[str, tuple[float, float, float]], path: Path) -> None:
    """Name -> (milliseconds per face, accuracy in percent, standard error in percent)."""
    _, axes = plt.subplots(figsize=(6.5, 4.2))
    for number, (name, (milliseconds, accuracy, error)) in enumerate(points.items()):
        axes.errorbar(milliseconds, accuracy, yerr=error, fmt="o", capsize=3)
        # Labels alternate above and below, so that encoders of similar speed do not overlap.
        offset = (8, -13 if number % 2 else 5)
        axes.annotate(name, (milliseconds, accuracy), textcoords="offset points", xytext=offset, fontsize=9)
    times = [milliseconds for milliseconds, _, _ in points.values()]
    # Room on the right for the label of the slowest.
    axes.set(xscale="log", xlim=(min(times) / 1.6, 2.2 * max(times)))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="milliseconds a face, one thread", ylabel="LFW accuracy, % (± standard error)")
    axes.grid(alpha=0.3)
    _save(path)


def group_curves(curves: dict[str, list[Group]], path: Path) -> None:
    """FMR over thresholds, one line per group, as far down as the number of its people supports.

    One panel per way of measuring distances, by name; groups without a claim are dotted.
    """
    _, panels = plt.subplots(1, len(curves), figsize=(5.5 * len(curves) + 2, 5), sharey=True, squeeze=False)
    names = [group.name for group in next(iter(curves.values()))]
    colours = dict(zip(names, plt.get_cmap("turbo")(np.linspace(0, 1, len(names))), strict=True))
    for axes, (title, groups) in zip(panels[0], curves.items(), strict=True):
        for group in groups:
            points = [p for p in group.operating_points if p.threshold >= group.strictest.threshold]
            axes.semilogy(
                [p.threshold for p in points],
                [p.false_match_rate.value for p in points],
                color=colours[group.name],
                linestyle="-" if group.claimed else ":",
                label=group.name,
            )
        axes.set(xlabel=f"threshold ({title})", title=title)
        axes.grid(alpha=0.3)
    panels[0][0].set(ylabel="false match rate within the group")
    panels[0][-1].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    _save(path)
