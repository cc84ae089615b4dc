"""Plots of the results."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.peers import results as keys
from benchmarks.peers.results import TESSERA, Results

mpl.use("Agg")
# Makes the SVG reproducible.
mpl.rcParams["svg.hashsalt"] = "tessera"

BARS = {
    "one core, 2 clients": keys.CORE_TWO,
    "all cores, 8 clients": keys.CLIENTS[8],
    "all cores, 64 clients": keys.CLIENTS[64],
}


def _throughput(axes: Axes, results: Results) -> None:
    own, services = results.services[TESSERA], list(results.services.values())
    height = 0.8 / len(BARS)
    for row, (name, load) in enumerate(BARS.items()):
        rates = [service.rate(load) or 0 for service in services]
        shares = [rate / (own.rate(load) or 1) for rate in rates]
        bars = axes.barh(np.arange(len(services)) + row * height, shares, height, label=name)
        axes.bar_label(
            bars, [f"{share:.2f}  ({rate:.1f}/s)" for share, rate in zip(shares, rates, strict=True)], padding=3
        )
    axes.set_yticks(np.arange(len(services)) + height, [service.title for service in services])
    axes.invert_yaxis()
    axes.set(xlabel="verifications a second, times Tessera's", title="throughput")
    axes.margins(x=0.3)
    axes.legend()


def _queueing(axes: Axes, results: Results) -> None:
    for number, service in enumerate(results.services.values()):
        points = [
            (offered, median, service.latency(load, "p99"))
            for load in keys.SHARES.values()
            if (offered := service.offered(load)) is not None and (median := service.latency(load, "p50")) is not None
        ]
        if points:
            offers, medians, _ = zip(*points, strict=True)
            axes.plot(offers, medians, f"C{number}o-", markersize=4, label=service.title)
            for offered, _, high in points:
                if high is not None:
                    axes.plot([offered], [high], f"C{number}^", markersize=6)
    axes.set(xscale="log", yscale="log", xlabel="requests a second, at random moments, 50 to 120 % of capacity")
    axes.set(
        ylabel="latency from when due, ms: p50 (line), p99 (triangle, of enough requests)",
        title="latency under load, all cores",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def draw(results: Results, path: Path) -> None:
    """Throughput relative to Tessera's, and latency against offered load."""
    _, (bars, lines) = plt.subplots(1, 2, figsize=(16, 1.5 + 1.1 * max(len(results.services), 4)))
    _throughput(bars, results)
    _queueing(lines, results)
    plt.tight_layout()
    plt.savefig(path, metadata={"Date": None})
    plt.close()
