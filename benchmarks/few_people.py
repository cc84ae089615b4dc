"""How low a false match rate can be claimed after calibrating on so many people?

    python -m benchmarks.few_people runs/reports/tessera-m --faces runs/faces

Draws people among the held-out ones, four photographs of each, and measures one template against one, as
``model.calibrate`` does. The embeddings are those that ``model.evaluation.evaluate run`` wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from app.evaluation.calibration import measure_curve
from app.evaluation.rates import single_templates
from benchmarks.tables import ResultsOption, show
from model.data.face_set import UNLABELLED, load_face_set
from model.evaluation.evaluate import EMBEDDINGS_FILE

PEOPLE = (10, 12, 14, 20, 40, 60, 100, 200, 500)
PHOTOGRAPHS = 4
DRAWS = 10


def smallest_claims(
    embeddings: npt.NDArray[np.float32], identity: npt.NDArray[np.int64], people: int, draws: int = DRAWS
) -> list[float]:
    """The lowest false match rate that each draw of so many people can claim, lowest first; 1 where none can.

    embeddings: unit-length [N, D]; identity: int64 [N]. Only people with ``PHOTOGRAPHS`` photographs are drawn.
    """
    labels, counts = np.unique(identity, return_counts=True)
    able, claims = labels[counts >= PHOTOGRAPHS], list[float]()
    for draw in range(draws):
        rng = np.random.default_rng([people, draw])
        chosen = rng.choice(able, people, replace=False)
        rows = np.concatenate(
            [rng.choice(np.flatnonzero(identity == label), PHOTOGRAPHS, replace=False) for label in chosen]
        )
        subject = np.unique(identity[rows], return_inverse=True)[1]
        crowding = np.zeros(len(rows), dtype=np.float32)
        try:
            curve = measure_curve(single_templates(embeddings[rows], subject, crowding), people, 1)
        except ValueError:
            claims.append(1.0)
        else:
            claims.append(curve.smallest_supported)
    return sorted(claims)


def table(embeddings: npt.NDArray[np.float32], identity: npt.NDArray[np.int64]) -> Iterator[str]:
    """A row for each number of people."""
    yield "| held-out people | smallest false match rate to claim, median | worst draw | draws refused |"
    yield "|---|---|---|---|"
    for people in PEOPLE:
        claims = smallest_claims(embeddings, identity, people)
        made = [claim for claim in claims if claim < 1]
        shown = f"{np.median(made):.1e} | {made[-1]:.1e}" if made else "|"
        yield f"| {people} | {shown} | {len(claims) - len(made)} of {len(claims)} |"


def main(
    report: Annotated[Path, typer.Argument(help="folder that `model.evaluation.evaluate run` wrote")],
    faces: Annotated[Path, typer.Option(help="folder written by model.data.prepare")],
    results: ResultsOption = None,
) -> None:
    """Measures what so many people can show."""
    heldout = load_face_set(faces).of_split("heldout")
    identity = heldout.identity[heldout.identity != UNLABELLED]
    with np.load(report / EMBEDDINGS_FILE) as kept:
        show(table(kept["heldout"], identity), "few-people", results)


if __name__ == "__main__":
    typer.run(main)
