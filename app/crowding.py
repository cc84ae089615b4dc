"""How crowded the embedding space is around a face: how similar the face is to those of other people.

Where many people look alike to an encoder, two different people match more often than elsewhere. A threshold that is
stricter there, and looser where faces are isolated, gives people of every kind the same false match rate. It costs
less than one threshold strict enough for the most alike, and nobody's group is named or guessed. Normalising scores by
a cohort is well known in speaker recognition (Auckenthaler et al. 2000, score normalization); FairCal, which calibrates
each cluster of faces (Salvador et al., ICLR 2022), is a related method for fairness.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from app.errors import TesseraError

COHORT_FILE = "cohort.npz"
BLOCK = 1024

Floats = npt.NDArray[np.float32]


class CohortError(TesseraError):
    """The cohort of an encoder is missing, damaged, or belongs to another encoder."""

    code = "cohort_invalid"


class Crowding(Protocol):
    """Computes the crowding of embeddings; ``digest`` identifies the method, so that stale stored values show."""

    @property
    def digest(self) -> str:
        """Text that is equal only if all crowding values are."""
        ...

    def __call__(self, embeddings: Floats) -> Floats:
        """Unit-length [N, 128] -> [N], in units of squared distance."""
        ...


class NoCrowding:
    """Gives every face the usual crowding, 0."""

    digest = "none"

    def __call__(self, embeddings: Floats) -> Floats:
        return np.zeros(len(embeddings), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Cohort:
    """Centroids of the faces of many people; none is the face of a single person.

    centroids: unit-length float32 [C, 128]. The crowding of a face is ``strength`` times the excess over ``usual`` of
    its mean similarity to its ``neighbours`` nearest centroids. The crowding of both faces is added to their squared
    distance.
    """

    centroids: Floats
    neighbours: int
    strength: float
    usual: float
    digest: str

    def __call__(self, embeddings: Floats) -> Floats:
        """See ``Crowding``."""
        crowding = np.empty(len(embeddings), dtype=np.float32)
        for start in range(0, len(embeddings), BLOCK):
            similarities = embeddings[start : start + BLOCK] @ self.centroids.T
            nearest = np.partition(similarities, -self.neighbours, axis=1)[:, -self.neighbours :]
            crowding[start : start + BLOCK] = self.strength * (nearest.mean(axis=1) - self.usual)
        return crowding


def write_cohort(path: Path, centroids: Floats, *, neighbours: int, strength: float, usual: float) -> Cohort:
    """Writes a cohort, its centroids as float16, and returns what ``read_cohort`` would."""
    file = io.BytesIO()
    np.savez(
        file,
        centroids=centroids.astype(np.float16),
        neighbours=np.int64(neighbours),
        strength=np.float64(strength),
        usual=np.float64(usual),
    )
    path.write_bytes(file.getvalue())
    return read_cohort(path)


def read_cohort(path: Path) -> Cohort:
    """Reads a cohort written by ``write_cohort``. Raises CohortError."""
    try:
        data = path.read_bytes()
        with np.load(io.BytesIO(data), allow_pickle=False) as content:
            centroids = content["centroids"].astype(np.float32)
            neighbours, strength, usual = (content[name].item() for name in ("neighbours", "strength", "usual"))
        lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
        if centroids.ndim != 2 or not 1 <= neighbours <= len(centroids) or not np.all(np.abs(lengths - 1) < 0.01):
            raise ValueError("its centroids are not unit vectors, or fewer than its neighbours")
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise CohortError(
            f"no usable cohort in {path}: {error}; restore it or make it with `python -m model.cohort`"
        ) from error
    return Cohort(centroids / lengths, neighbours, strength, usual, hashlib.sha256(data).hexdigest())


def crowding_beside(directory: Path) -> Crowding:
    """The crowding to calibrate the encoder in a folder with; an encoder may have no cohort. Raises CohortError."""
    path = directory / COHORT_FILE
    return read_cohort(path) if path.is_file() else NoCrowding()


def load_crowding(directory: Path, digest: str | None) -> Crowding:
    """The crowding that a calibration was made with: the cohort beside the encoder, or none if ``digest`` is None.

    Raises CohortError if the cohort is missing or is not the calibration's.
    """
    if digest is None:
        return NoCrowding()
    cohort = read_cohort(directory / COHORT_FILE)
    if cohort.digest != digest:
        raise CohortError(
            f"{directory / COHORT_FILE} is cohort {cohort.digest[:12]}, but the calibration was measured with "
            f"{digest[:12]}; restore it, or measure the calibration anew with `python -m model.calibrate` or "
            "`tessera calibrate`"
        )
    return cohort
