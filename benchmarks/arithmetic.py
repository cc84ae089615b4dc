"""What does another arithmetic of the encoder do to the rates at the served thresholds?

    python -m benchmarks.arithmetic model/weights/tessera-l --faces runs/faces --results docs/results

The thresholds are those for every group, of the calibration beside the encoder. At each, the people of every promised
group are compared with each other: all in float32, all in another arithmetic, and every second face in each, as in a
gallery that was filled on processors of two kinds. They are the people who calibrated, so compare the rows with each
other; ``benchmarks.groups`` judges the claims on people who did not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from app.crowding import load_crowding
from app.decisions import Claim, Estimate, load_calibration
from app.encoding import Precision, create_runtime, load_weights
from app.evaluation.groups import GroupFaces, GroupRates, Part
from benchmarks.tables import ResultsOption, percent, rate, show
from model.calibrate import encode_groups
from model.data.face_set import load_face_set
from model.data.groups import EVERYBODY, GroupMembers, evaluation_groups

TARGETS = (1e-2, 1e-3, 1e-4)


@dataclass(frozen=True, slots=True)
class Found:
    """Rates of one group at the thresholds for ``TARGETS``; no misses where nobody has two faces."""

    false_match: list[Estimate]
    false_non_match: list[Estimate] | None


def every_second(
    groups: Sequence[GroupMembers], first: Sequence[GroupFaces], second: Sequence[GroupFaces]
) -> list[GroupFaces]:
    """Groups whose faces of odd number are those of ``second``, and the others those of ``first``."""

    def mixed(members: np.ndarray[tuple[int], np.dtype[np.int64]], a: Part, b: Part) -> Part:
        odd = members % 2 == 1
        return Part(
            np.where(odd[:, None], b.embeddings, a.embeddings), np.where(odd, b.crowding, a.crowding), a.subject
        )

    return [
        replace(a, parts=[mixed(m, p, q) for m, p, q in zip(group.parts, a.parts, b.parts, strict=True)])
        for group, a, b in zip(groups, first, second, strict=True)
    ]


def observe(groups: Sequence[GroupFaces], thresholds: Sequence[float]) -> dict[str, Found]:
    """The rates of every promised group."""
    at, found = np.array(thresholds), dict[str, Found]()
    for group in groups:
        if group.claimed:
            rates = GroupRates(group.parts)
            found[group.name] = Found(rates.false_match_rates(at), rates.false_non_match_rates(at))
    return found


def rows_of(by_way: dict[str, dict[str, Found]], reference: str) -> Iterator[str]:
    """A table with a row for each target and way of computing; FMR of groups relative to those of ``reference``."""
    yield (
        "| claimed FMR | arithmetic | groups above the claim | refuted in | highest FMR of a group | "
        f"FMR of a group over that in {reference}: median, most | FNMR of everybody, % |"
    )
    yield "|---|---|---|---|---|---|---|"
    for number, target in enumerate(TARGETS):
        for way, groups in by_way.items():
            rates = {name: found.false_match[number] for name, found in groups.items()}
            before = {name: found.false_match[number].value for name, found in by_way[reference].items()}
            ratios = [found.value / before[name] for name, found in rates.items() if before[name] > 0]
            highest = max(rates.values(), key=_value)
            misses = groups[EVERYBODY].false_non_match
            above, refuted = (sum(limit(r) > target for r in rates.values()) for limit in (_value, _low))
            yield (
                f"| {target:.0e} | {way} | {above} of {len(rates)} | {refuted} | {rate(highest)} | "
                f"{np.median(ratios):.2f}, {max(ratios):.2f} | {percent(misses[number]) if misses else ''} |"
            )


def _value(found: Estimate) -> float:
    return found.value


def _low(found: Estimate) -> float:
    return found.low


def main(
    weights: Annotated[Path, typer.Argument(help="folder with encoder, cohort and calibration")],
    faces: Annotated[Path, typer.Option(help="folder written by model.data.prepare")],
    precision: Annotated[Precision, typer.Option(help="the other arithmetic")] = Precision.INT8,
    results: ResultsOption = None,
) -> None:
    """Prints a table, and exits with 1 where a claim is refuted."""
    encoder = load_weights(weights)
    table = load_calibration(weights, encoder.sha256)
    crowding = load_crowding(weights, table.cohort_sha256)
    bounds = [table.bound(Claim.EVERY_GROUP, target, 1) for target in TARGETS]
    thresholds = [bound.threshold for bound in bounds if bound is not None]
    if len(thresholds) < len(TARGETS):
        raise typer.BadParameter(f"the calibration in {weights} cannot claim {min(TARGETS):g}")
    groups = evaluation_groups(load_face_set(faces), "heldout")
    plain, other = (
        encode_groups(groups, create_runtime(encoder, precision=chosen), crowding)
        for chosen in (Precision.F32, precision)
    )
    both = f"{Precision.F32} and {precision}"
    by_way = {
        Precision.F32.value: observe(plain, thresholds),
        precision.value: observe(other, thresholds),
        both: observe(every_second(groups, plain, other), thresholds),
    }
    typer.echo(f"{encoder.name} {encoder.version}, calibrated in {table.data.precision}")
    show(rows_of(by_way, Precision.F32.value), f"arithmetic-{encoder.name}", results)
    if any(
        rate.low > t
        for way in by_way.values()
        for f in way.values()
        for t, rate in zip(TARGETS, f.false_match, strict=True)
    ):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
