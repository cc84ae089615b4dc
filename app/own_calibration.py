"""A calibration table from one's own people: a folder of photographs, or what is enrolled already.

The table that comes with an encoder was measured on public photographs. Where yours differ, in cameras, light or
people, rates measured on them are the better ones, as far down as so many people can show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.decisions import Calibration
from app.encoding import EncoderRuntime
from app.errors import TesseraError
from app.faces import FaceFinder, FacePolicy
from app.gallery import Gallery, every_subject
from app.gallery.fusion import fuse
from app.measuring.table import UNKNOWN, Labelled, Measured, make_table


class CannotCalibrate(ValueError):
    """There are too few people or photographs to measure anything by."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A photograph that gave no face, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class _Face:
    person: str
    embedding: np.ndarray[tuple[int], np.dtype[np.float32]]
    length: float
    side: float = math.nan


def calibrate_folder(folder: Path, finder: FaceFinder, encoder: EncoderRuntime) -> tuple[Calibration, list[Skipped]]:
    """Measures the encoder on photographs, one sub-folder a person; the largest face of each counts.

    Raises CannotCalibrate.
    """
    faces, skipped = list[_Face](), list[Skipped]()
    for person, path in _photographs(folder):
        try:
            face = finder.find(path.read_bytes(), FacePolicy.LARGEST).faces[0]
        except TesseraError as error:
            skipped.append(Skipped(path, error.message))
            continue
        encodings = encoder.encode(face.chip[None])
        faces.append(_Face(person, encodings.embeddings[0], float(encodings.lengths[0]), face.detected.box.side))
    return _table(faces, encoder, f"{len(faces)} photographs of {folder.name}"), skipped


def _photographs(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file in a sub-folder, with that folder's name; hidden ones are passed over."""
    if not folder.is_dir():
        raise CannotCalibrate(f"{folder} is not a folder; give one with a sub-folder of photographs for each person.")
    for person in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        for path in sorted(p for p in person.iterdir() if p.is_file() and not p.name.startswith(".")):
            yield person.name, path


def calibrate_gallery(gallery: Gallery, collection: str, encoder: EncoderRuntime) -> Calibration:
    """Measures the encoder on the templates of a collection; subjects with several say how often one is missed.

    Raises CollectionNotFound, CannotCalibrate.
    """
    faces = [
        _Face(subject.subject_id, embedding, length)
        for subject in every_subject(gallery, collection)
        for embedding, length in zip(subject.embeddings, subject.lengths.tolist(), strict=True)
    ]
    return _table(faces, encoder, f"{len(faces)} templates of the collection {collection}")


def _table(faces: Sequence[_Face], encoder: EncoderRuntime, description: str) -> Calibration:
    if not faces:
        raise CannotCalibrate("There is no face to calibrate on.")
    info = encoder.info
    labelled = Labelled(
        embeddings=np.stack([face.embedding for face in faces]),
        lengths=np.array([face.length for face in faces], dtype=np.float32),
        subject=np.unique([face.person for face in faces], return_inverse=True)[1],
        family=np.full(len(faces), UNKNOWN),
        source=np.full(len(faces), "own"),
        face_side=np.array([face.side for face in faces], dtype=np.float32),
    )
    measured = Measured(info.name, info.version, info.sha256, info.runtime, info.precision)
    try:
        return make_table(labelled, measured, description, fuse)
    except ValueError as error:
        raise CannotCalibrate(f"These faces cannot calibrate an encoder: {error}.") from error
