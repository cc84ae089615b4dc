"""Does a claim hold in every group of people, and what does it cost? One half of each calibrates, the other is judged.

    python -m benchmarks.groups model/weights/tessera-l --faces runs/faces --plot docs/groups.svg

Thresholds are taken from one half of the people of every group, chosen by a digest of their number, and observed on the
other half; then the other way round. Three kinds of threshold are compared: one for the average over all held-out
pairs, which is what is usually quoted; one for everybody that holds in every group; and the same with a threshold per
pair, by how crowded the region of each face is (``app.crowding``), which is what is served. A claim is the requested
target; it holds where the lower bound of the observed rate's interval is not above it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from app.crowding import NoCrowding, crowding_beside
from app.decisions.curves import ClaimedThreshold, Estimate, Group, strictest_threshold
from app.encoding import create_runtime, load_weights
from app.evaluation.groups import GroupFaces, GroupRates, Part, measure_group
from benchmarks.tables import ResultsOption, show
from model.calibrate import encode_groups
from model.data.face_set import load_face_set
from model.data.groups import HELD_OUT, GroupMembers, evaluation_groups
from model.evaluation.plots import group_curves

TARGETS = (1e-2, 1e-3, 1e-4)
WAYS = ("one threshold for all pairs", "one threshold for every group", "a threshold a pair")
FEWEST_PEOPLE = 40

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Observed:
    """Rates of one way of deciding on the judging half of a group, at the threshold taken from the other half."""

    way: str
    target: float
    group: str
    claimed: bool
    false_match: Estimate
    false_non_match: Estimate | None

    @property
    def holds(self) -> bool:
        """Whether the observation is consistent with the claim."""
        return self.false_match.low <= self.target


def half_of(person: Ints) -> npt.NDArray[np.bool_]:
    """Which half each person belongs to, by a digest of their number."""
    return np.array([hashlib.sha256(f"half {p}".encode()).digest()[0] % 2 == 0 for p in person.tolist()])


def of_half(group: GroupMembers, first: bool) -> GroupMembers | None:
    """The people of a group in one half; None where too few are left for a rate."""
    parts = [part[half_of(group.person[part]) == first] for part in group.parts]
    parts = [part for part in parts if len(set(group.person[part].tolist())) > 1]
    people = sum(len(set(group.person[part].tolist())) for part in parts)
    return replace(group, parts=parts) if people >= FEWEST_PEOPLE else None


def without_crowding(groups: Sequence[GroupFaces]) -> list[GroupFaces]:
    """The same groups with the usual crowding for every face."""
    plain = NoCrowding()
    return [replace(g, parts=[Part(p.embeddings, plain(p.embeddings), p.subject) for p in g.parts]) for g in groups]


def bound_of(way: str, groups: Sequence[Group], target: float) -> ClaimedThreshold | None:
    """The threshold that a way of deciding takes from the calibrating half."""
    if way != WAYS[0]:
        return strictest_threshold(groups, target)
    pooled = next(group for group in groups if group.name == HELD_OUT)
    point = pooled.at_rate(target)
    return None if point is None else ClaimedThreshold(point.threshold, None)


def observe(calibrating: Sequence[GroupFaces], judging: Sequence[GroupFaces]) -> Iterator[Observed]:
    """All ways of deciding at all targets, group by group."""
    for way in WAYS:
        mine, others = calibrating, judging
        if way != WAYS[2]:
            mine, others = without_crowding(mine), without_crowding(others)
        measured = [measure_group(group) for group in mine]
        bounds = {target: bound_of(way, measured, target) for target in TARGETS}
        known = {target: bound.threshold for target, bound in bounds.items() if bound is not None}
        for group in others:
            rates, thresholds = GroupRates(group.parts), np.array(list(known.values()))
            matches, misses = rates.false_match_rates(thresholds), rates.false_non_match_rates(thresholds)
            for number, target in enumerate(known):
                missed = None if misses is None else misses[number]
                yield Observed(way, target, group.name, group.claimed, matches[number], missed)


def rows_of(found: Sequence[Observed], target: float) -> Iterator[str]:
    """A table for one target: one row per group, the three ways side by side."""
    yield "| group | " + " | ".join(f"{way}: FMR | FNMR, %" for way in WAYS) + " |"
    yield "|---|" + "---|---|" * len(WAYS)
    for name in dict.fromkeys(o.group for o in found):
        cells = []
        for way in WAYS:
            row = next((o for o in found if (o.way, o.target, o.group) == (way, target, name)), None)
            cells += ["", ""] if row is None else [_rate(row), _percent(row.false_non_match)]
        yield f"| {name} | " + " | ".join(cells) + " |"


def _rate(row: Observed) -> str:
    rate = row.false_match
    refuted = "" if row.holds or not row.claimed else " **no**"
    return f"{rate.value:.1e} [{rate.low:.1e}, {rate.high:.1e}]{refuted}"


def _percent(rate: Estimate | None) -> str:
    return "" if rate is None else f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def main(
    weights: Annotated[Path, typer.Argument(help="folder with encoder and cohort")],
    faces: Annotated[Path, typer.Option(help="folder written by model.data.prepare")],
    plot: Annotated[Path | None, typer.Option(help="SVG file: FMR over threshold, a line a group")] = None,
    results: ResultsOption = None,
) -> None:
    """Prints a table for each direction and target, and exits with 1 where the served way does not keep its claim."""
    runtime, crowding = create_runtime(load_weights(weights)), crowding_beside(weights)
    groups, refuted = evaluation_groups(load_face_set(faces), "heldout"), 0
    halves = {first: [half for g in groups if (half := of_half(g, first)) is not None] for first in (True, False)}
    encoded = {first: encode_groups(half, runtime, crowding) for first, half in halves.items()}
    for first in (True, False):
        found = list(observe(encoded[first], encoded[not first]))
        for target in TARGETS:
            typer.echo(f"\n{runtime.info.name} {runtime.info.version}, claimed FMR {target:g}, half {1 + first} judges")
            show(rows_of(found, target), f"groups-{target:.0e}-half-{1 + first}", results)
        refuted += sum(o.claimed and not o.holds for o in found if o.way == WAYS[2])
    if plot is not None:
        whole = encode_groups(groups, runtime, crowding)
        curves = {
            "squared distance": [measure_group(group) for group in without_crowding(whole)],
            "with crowding": [measure_group(group) for group in whole],
        }
        group_curves(curves, plot)
    if refuted:
        typer.echo(f"{refuted} claims do not hold")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
