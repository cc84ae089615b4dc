"""The tables of the documents, from a calibration.

    python -m benchmarks.tables model/weights/tessera-l

prints what `docs/decisions.md` shows for an encoder: targets for both claims, groups, searches, weak faces and margins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from app.api.schemas import numbers
from app.decisions import (
    Calibration,
    Claim,
    Estimate,
    Group,
    GroupPoint,
    OperatingPoint,
    TemplateCurve,
    load_calibration,
)
from app.encoding import load_weights
from app.evaluation.bootstrap import Interval

TARGETS = (1e-2, 1e-3, 1e-4, 3e-5, 1e-5)
SEARCHED = (1e-3, 1e-4)


def rate(estimate: Estimate | None) -> str:
    """For example ``5.6e-05 [3.0e-05, 9.6e-05]``."""
    if estimate is None:
        return ""
    return f"{estimate.value:.1e} [{estimate.low:.1e}, {estimate.high:.1e}]"


def percent(estimate: Estimate | Interval | None) -> str:
    """For example ``23.1 [18.3, 28.4]``."""
    if estimate is None:
        return ""
    return f"{100 * estimate.value:.3g} [{100 * estimate.low:.3g}, {100 * estimate.high:.3g}]"


def lowest(fmr: float) -> str:
    """For example ``7.5e-06``; rounded up, since a claim of less would be refused."""
    return f"{numbers.significant(fmr, 2, numbers.UP):.1e}"


def matches_at(curve: TemplateCurve | Group, threshold: float) -> str:
    """FMR at a threshold: of the next more permissive point; ``at most`` beyond what could be measured."""
    point = curve.at_distance(threshold)
    if point is None:
        return ""
    return f"{'at most ' if threshold < curve.strictest.threshold else ''}{rate(point.false_match_rate)}"


def misses_at(curve: TemplateCurve | Group, threshold: float) -> Estimate | None:
    """FNMR at a threshold, on the straight line between the two points beside it.

    None if the threshold is beyond all points, or if nobody has two faces.
    """
    points: Sequence[OperatingPoint | GroupPoint] = curve.operating_points
    known = [(p.threshold, found) for p in reversed(points) if (found := p.false_non_match_rate) is not None]
    if not known or not known[0][0] <= threshold <= known[-1][0]:
        return None
    at = [place for place, _ in known]
    value, low, high = (
        float(np.interp(threshold, at, [getattr(found, name) for _, found in known]))
        for name in ("value", "low", "high")
    )
    return Estimate.around(value, low, high)


def targets(table: Calibration) -> Iterator[str]:
    """What each target costs with each claim, with one template per subject."""
    yield "| target FMR | claim | threshold | for | FMR over all pairs | FNMR, % |"
    yield "|---|---|---|---|---|---|"
    for target in TARGETS:
        for claim in Claim:
            bound = table.bound(claim, target, 1)
            if bound is None:
                smallest = table.smallest_supported(claim, 1)
                yield f"| {target:.0e} | {claim} | refused: {lowest(smallest)} at least | | | |"
                continue
            curve, threshold = table.curve(1), bound.threshold
            yield (
                f"| {target:.0e} | {claim} | {threshold:.3f} | {bound.group or 'all pairs'} | "
                f"{matches_at(curve, threshold)} | {percent(misses_at(curve, threshold))} |"
            )


def groups(table: Calibration) -> Iterator[str]:
    """Rates within each group at the threshold of the default target, and the lowest FMR it can show."""
    yield from _groups(table, claimed=True)


def not_promised(table: Calibration) -> Iterator[str]:
    """The same for the groups without a claim."""
    yield from _groups(table, claimed=False)


def _groups(table: Calibration, *, claimed: bool) -> Iterator[str]:
    bound = table.bound(Claim.EVERY_GROUP, table.default_fmr, 1)
    assert bound is not None
    yield f"| group | people | faces | FMR at {bound.threshold:.3f} | FNMR, % | lowest FMR that it can claim |"
    yield "|---|---|---|---|---|---|"
    for group in (g for g in table.groups if g.claimed is claimed):
        matches, misses = matches_at(group, bound.threshold), percent(misses_at(group, bound.threshold))
        yield (
            f"| {group.name} | {group.subjects:,} | {group.faces:,} | {matches} | {misses} | "
            f"{lowest(group.smallest_supported)} |"
        )


def searches(table: Calibration) -> Iterator[str]:
    """FPIR in random galleries of the people of all pairs: measured and predicted."""
    yield "| subjects | " + " | ".join(f"at FMR {f:.0e}: FPIR measured, % | predicted" for f in SEARCHED) + " |"
    yield "|---|" + "---|---|" * len(SEARCHED)
    for size in (s for s in table.identification if s.group is None):
        cells = []
        for target in SEARCHED:
            point = min(size.points, key=lambda p: abs(p.false_match_rate - target))
            cells += [percent(point.false_positive_identification_rate), f"{100 * point.predicted:.3g}"]
        yield f"| {size.subjects} | " + " | ".join(cells) + " |"


def group_searches(table: Calibration) -> Iterator[str]:
    """FPIR in galleries of one group, as large as it allows, near FMR 1e-3."""
    yield "| group | subjects | FMR within it | FPIR measured, % | predicted, % |"
    yield "|---|---|---|---|---|"
    for name in dict.fromkeys(size.group for size in table.identification if size.group):
        size = max((s for s in table.identification if s.group == name), key=lambda s: s.subjects)
        point = min(size.points, key=lambda p: abs(p.false_match_rate - SEARCHED[0]))
        measured = percent(point.false_positive_identification_rate)
        yield (
            f"| {name} | {size.subjects} | {point.false_match_rate:.1e} | {measured} | {100 * point.predicted:.3g} |"
        )


def weak_faces(table: Calibration) -> Iterator[str]:
    """Rates by the norm of the weaker face's embedding."""
    yield "| norm of the weaker face's embedding | FMR at the default threshold | FNMR, % |"
    yield "|---|---|---|"
    for band in table.quality.bands:
        misses = 100 * band.false_non_match_rate.value
        yield f"| {band.shortest:.2f} to {band.longest:.2f} | {band.false_match_rate.value:.1e} | {misses:.1f} |"
    yield ""
    limit = table.quality.limit
    inflation = table.quality.inflation
    often = "no more frequent" if inflation == 1 else f"{inflation:.2g} times as frequent"
    yield f"Limit {numbers.decimals(limit, 2, numbers.UP):.2f}; below it false matches are {often}."


def margins(table: Calibration) -> Iterator[str]:
    """How often the better of two matching subjects is the wrong one."""
    yield "| margin | first is wrong, % |"
    yield "|---|---|"
    for band in table.margin.bands:
        yield f"| {band.shortest:.3f} to {band.longest:.3f} | {100 * band.wrong:.0f} |"
    yield ""
    yield f"Limit {table.margin.limit:.3f}."


def show(lines: Iterable[str], name: str, results: Path | None = None) -> None:
    """Prints a table and, given a results folder, stores it there as ``NAME.md`` for the documents."""
    text = "\n".join(lines)
    typer.echo(text)
    if results is not None:
        results.mkdir(parents=True, exist_ok=True)
        (results / f"{name}.md").write_text(f"{text}\n")


ResultsOption = Annotated[Path | None, typer.Option(help="folder to keep the tables in, for benchmarks.documents")]

TABLES = (targets, groups, not_promised, searches, group_searches, weak_faces, margins)


def main(weights: Annotated[Path, typer.Argument(help="folder with encoder and calibration")]) -> None:
    """Prints all tables."""
    table = load_calibration(weights, load_weights(weights).sha256)
    typer.echo(f"{table.version}, {table.data.subjects} people and {len(table.groups)} groups")
    for make in TABLES:
        typer.echo(f"\n{make.__name__.replace('_', ' ')}\n")
        for line in make(table):
            typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
