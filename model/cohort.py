"""Single faces -> ``cohort.npz``: the centroids against which the crowding of a face is measured.

    python -m model.cohort runs/faces model/weights/tessera-l

Faces of many demographic groups, disjoint from those that train or evaluate the encoder, are clustered by k-means on
the sphere. Each centroid is the mean of some ten people and nobody's face. Children and masked faces have their own
centroids: the encoder finds both alike, and crowding lets a decision account for that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import faiss
import numpy as np
import numpy.typing as npt
import typer

from app.crowding import COHORT_FILE, Cohort, write_cohort
from app.encoding import create_runtime, load_weights
from model.calibrate import encode_all
from model.commands import run
from model.data.face_set import FaceSet, load_face_set
from model.data.groups import CHILDREN, MASKED, SINGLES, adults, for_cohort, people, people_for_cohort

FACES_A_CENTROID = 10
ITERATIONS = 12

Floats = npt.NDArray[np.float32]


def cohort_members(faces: FaceSet) -> list[npt.NDArray[np.int64]]:
    """Positions in ``faces`` of the adults, children and masked faces of the cohort; the last two may be empty."""
    singles = adults(faces, SINGLES)
    children = np.flatnonzero(faces.split == CHILDREN)
    masked = np.flatnonzero(faces.age == MASKED)
    return [
        singles[for_cohort(faces, singles)],
        children[for_cohort(faces, children)],
        masked[people_for_cohort(people(faces)[masked])],
    ]


def centroids(embeddings: Floats, count: int) -> Floats:
    """Unit-length [N, D] -> unit-length [count, D]: k-means by cosine, deterministic."""
    clusters = faiss.Kmeans(
        embeddings.shape[1], count, niter=ITERATIONS, spherical=True, seed=1, min_points_per_centroid=1
    )
    clusters.train(np.ascontiguousarray(embeddings))
    found = np.array(clusters.centroids, dtype=np.float32)
    unit: Floats = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def make_cohort(path: Path, parts: list[Floats], *, neighbours: int, strength: float) -> Cohort:
    """Writes a cohort from the embeddings of each kind; the first kind as a whole defines the usual crowding."""
    found = np.concatenate([centroids(part, -(-len(part) // FACES_A_CENTROID)) for part in parts if len(part)])
    plain = write_cohort(path, found, neighbours=neighbours, strength=1.0, usual=0.0)
    usual = float(plain(parts[0]).mean())
    return write_cohort(path, found, neighbours=neighbours, strength=strength, usual=usual)


def main(
    faces: Annotated[Path, typer.Argument(help="folder written by model.data.prepare")],
    weights: Annotated[Path, typer.Argument(help="folder written by model.export; the cohort goes there")],
    neighbours: Annotated[int, typer.Option(help="nearest centroids that count", min=1)] = 3,
    strength: Annotated[float, typer.Option(help="of crowding in a threshold", min=0)] = 0.85,
) -> None:
    """Writes the cohort. The encoder must be calibrated again afterwards."""
    everybody, runtime = load_face_set(faces), create_runtime(load_weights(weights))
    members = cohort_members(everybody)
    if not len(members[0]):
        raise typer.BadParameter(f"{faces} has no faces of the split {SINGLES}, which a cohort is made of")
    parts = [encode_all(runtime, everybody.images(m)).embeddings for m in members if len(m)]
    cohort = make_cohort(weights / COHORT_FILE, parts, neighbours=neighbours, strength=strength)
    typer.echo(
        f"{weights / COHORT_FILE}: {len(cohort.centroids)} centroids of {sum(map(len, parts))} faces, usual similarity "
        f"{cohort.usual:.3f}, SHA-256 {cohort.digest}"
    )


if __name__ == "__main__":
    run(main)
