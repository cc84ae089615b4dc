"""Several templates per subject: compare with the nearest, their mean, or a quality-weighted mean?

    python -m benchmarks.templates runs/faces

On held-out people, with templates drawn several times: FNMR at a fixed FMR, and FPIR of strangers' searches at that
threshold. The weight is the embedding norm, the best predictor of errors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from app.embeddings import fuse
from app.encoding import create_runtime, load_weights
from app.evaluation.pairs import threshold_at_fmr
from app.settings import Settings
from benchmarks.tables import ResultsOption, show
from model.calibrate import encode_all
from model.data.face_set import UNLABELLED, load_face_set

TEMPLATES = (2, 3, 5, 8)
FMR = 1e-4
GALLERY = 100
DRAWS = 8

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Reference = Callable[[Floats, Floats], Floats]
"""Templates [S, K, D], unit-length, and their norms [S, K] -> the references for probes, [S, M, D]."""


def weighted(templates: Floats, norms: Floats) -> Floats:
    """The direction of the mean, weighted by embedding norm."""
    mean = (templates * norms[:, :, np.newaxis]).sum(axis=1, keepdims=True)
    direction: Floats = mean / np.linalg.norm(mean, axis=2, keepdims=True)
    return direction


WAYS: dict[str, Reference] = {
    "nearest": lambda templates, _: templates,
    "mean": lambda templates, _: fuse(templates),
    "weighted mean": weighted,
}


def distances(references: Floats, probes: Floats) -> Floats:
    """Squared distance, float32 [S, P], to the nearest of each subject's references."""
    nearest: Floats = np.max([references[:, m] @ probes.T for m in range(references.shape[1])], axis=0)
    return 2 - 2 * nearest


def rates(embeddings: Floats, norms: Floats, subject: Ints, count: int, way: Reference) -> tuple[float, float]:
    """FNMR at ``FMR``, and FPIR among ``GALLERY`` subjects at the same threshold; means over the draws."""
    members = [np.flatnonzero(subject == s) for s in range(int(subject.max()) + 1)]
    enrolled = np.array([s for s, faces in enumerate(members) if len(faces) > count])
    misses, found = [], []
    for draw in range(DRAWS):
        rng = np.random.default_rng([count, draw])
        chosen = np.stack([rng.choice(members[s], count, replace=False) for s in enrolled])
        table = distances(way(embeddings[chosen], norms[chosen]), embeddings)
        same = enrolled[:, np.newaxis] == subject[np.newaxis]
        threshold = threshold_at_fmr(np.sort(table[~same]), FMR)
        same[np.arange(len(enrolled))[:, np.newaxis], chosen] = False
        misses.append(float((table[same] > threshold).mean()))
        gallery = rng.permutation(len(enrolled))[:GALLERY]
        strangers = ~np.isin(subject, enrolled[gallery])
        found.append(float((table[gallery][:, strangers].min(axis=0) <= threshold).mean()))
    return float(np.mean(misses)), float(np.mean(found))


def main(
    faces: Annotated[Path, typer.Argument(help="folder written by model.data.prepare")],
    results: ResultsOption = None,
) -> None:
    """Prints a table, in percent."""
    runtime = create_runtime(load_weights(Settings().encoding.directory))
    members = load_face_set(faces).of_split("heldout")
    members = members.where(members.identity != UNLABELLED)
    subject = np.unique(members.identity, return_inverse=True)[1]
    encodings = encode_all(runtime, members.images(np.arange(len(members))))
    typer.echo(f"{runtime.info.name} {runtime.info.version}: FNMR at FMR {FMR:g}, FPIR among {GALLERY} there, %")
    head = "| templates | " + " | ".join(f"{name}: FNMR | FPIR" for name in WAYS) + " |"
    lines = [head, "|" + "---|" * (1 + 2 * len(WAYS))]
    for count in TEMPLATES:
        found = [rates(encodings.embeddings, encodings.norms, subject, count, way) for way in WAYS.values()]
        lines.append(
            f"| {count} | " + " | ".join(f"{100 * miss:.1f} | {100 * stranger:.2f}" for miss, stranger in found) + " |"
        )
    show(lines, "templates", results)


if __name__ == "__main__":
    typer.run(main)
