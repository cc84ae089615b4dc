"""A calibration table from your own people: a folder of photographs or an enrolled collection.

The table that comes with an encoder was measured on public photographs. If yours differ in cameras, light or people,
rates measured on them are more accurate, as far down as the number of people supports.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.crowding import Crowding
from app.decisions import Calibration, CalibrationError
from app.embeddings import fuse
from app.encoding import EncoderRuntime
from app.encoding.trained_on import were_trained_on
from app.errors import TesseraError
from app.evaluation.calibration import UNKNOWN, EncoderRun, LabelledEmbeddings, make_table, people_needed
from app.evaluation.groups import GroupFaces, Part
from app.faces import FaceFinder, FacePolicy
from app.gallery import Gallery, every_subject

_LOGGER = logging.getLogger("tessera")
PUBLIC_PEOPLE = (
    "People of public face data sets, such as celebrities, do not count here: %s may have learnt from their "
    "photographs, and error rates on them would flatter it. Calibrate on people who are nobody's training data."
)


class SiteCalibrationError(CalibrationError):
    """There are too few people or photographs to measure anything; ``skipped`` are those that were not measured."""

    skipped: tuple[Skipped, ...] = ()


NEEDED = (
    "To claim a false match rate takes about this many people, in each group for the claim every_group: "
    + ", ".join(f"{people_needed(rate):,} for {rate:g}" for rate in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6))
    + "; to show a false non-match rate, some of them need two photographs or more."
)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A photograph that was not measured, and why.

    ``code`` as for ``TesseraError``, or ``unreadable``, ``duplicate`` or ``two_names``.
    """

    person: str
    path: Path
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Photograph:
    group: str
    person: str
    path: Path


@dataclass(frozen=True, slots=True)
class _Face:
    person: str
    embedding: np.ndarray[tuple[int], np.dtype[np.float32]]
    norm: float
    side: float = math.nan
    group: str = ""
    path: Path = Path()
    digest: bytes = b""


def count_photographs(folder: Path) -> int:
    """How many files ``calibrate_folder`` would read. Raises SiteCalibrationError."""
    return sum(1 for _ in _photographs(folder))


def calibrate_folder(
    folder: Path,
    finder: FaceFinder,
    encoder: EncoderRuntime,
    crowding: Crowding,
    *,
    threads: int = 1,
    read: Callable[[Path], bytes] = Path.read_bytes,
    on_photograph: Callable[[], None] = lambda: None,
) -> tuple[Calibration, list[Skipped]]:
    """Measures the encoder on photographs; the largest face of each counts.

    One sub-folder per person, or one per group of people that holds one per person; each group is then also measured
    within itself. A face that is there twice, to the last bit, is one photograph; one in the folders of two people is
    nobody's. ``threads``: photographs processed at once. ``read`` reads a file and may raise OSError.
    ``on_photograph`` is called after each. Raises SiteCalibrationError.
    """
    _LOGGER.warning(PUBLIC_PEOPLE, f"{encoder.info.name} {encoder.info.version}")

    def face_of(photograph: _Photograph) -> _Face | Skipped:
        try:
            face = finder.find(read(photograph.path), FacePolicy.LARGEST).faces[0]
        except TesseraError as error:
            return Skipped(photograph.person, photograph.path, error.code, error.message)
        except OSError as error:
            return Skipped(photograph.person, photograph.path, "unreadable", str(error.strerror or error))
        if were_trained_on(face.chip[None], encoder.info.trained_on).any():
            raise SiteCalibrationError(
                f"The encoder was trained on {photograph.path}: error rates on its own training photographs would "
                "flatter it. Calibrate on people who were kept out of training."
            )
        # One by one: what a face is encoded with changes the last digits, and they would depend on the threads.
        encodings = encoder.encode(face.chip[None])
        return _Face(
            f"{photograph.group}/{photograph.person}",
            encodings.embeddings[0],
            float(encodings.norms[0]),
            face.detected.box.side,
            photograph.group,
            photograph.path,
            hashlib.sha256(face.chip.tobytes()).digest(),
        )

    faces, skipped = list[_Face](), list[Skipped]()
    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(face_of, _photographs(folder)):
            on_photograph()
            if isinstance(found, Skipped):
                skipped.append(found)
            else:
                faces.append(found)
    faces, repeated = _each_once(faces)
    skipped += repeated
    try:
        table = _table(faces, encoder_run(encoder), crowding, f"{len(faces)} photographs of {folder.name}")
    except SiteCalibrationError as error:
        error.skipped = tuple(skipped)
        raise
    return table, skipped


def _each_once(faces: Sequence[_Face]) -> tuple[list[_Face], list[Skipped]]:
    """Every photograph once, for one that is compared with itself tells nothing; and none that two people have."""
    same = dict[bytes, list[_Face]]()
    for face in faces:
        same.setdefault(face.digest, []).append(face)
    kept, skipped = list[_Face](), list[Skipped]()
    for first, *others in same.values():
        stranger = next((other for other in others if other.person != first.person), None)
        if stranger is None:
            kept.append(first)
            skipped += [_repeated(other, "duplicate", f"The same photograph as {first.path}.") for other in others]
            continue
        for face in (first, *others):
            of = first if face.person != first.person else stranger
            skipped.append(_repeated(face, "two_names", f"The same photograph as {of.path}: whose is it?"))
    return kept, skipped


def _repeated(face: _Face, code: str, reason: str) -> Skipped:
    return Skipped(face.person.removeprefix("/"), face.path, code, reason)


def encoder_run(encoder: EncoderRuntime) -> EncoderRun:
    """Which encoder runs, and how."""
    info = encoder.info
    return EncoderRun(info.name, info.version, info.sha256, info.runtime, info.precision)


def _photographs(folder: Path) -> Iterator[_Photograph]:
    """Every file of a person's folder, with the names of that folder and of its group; hidden ones are skipped."""
    if not folder.is_dir():
        raise SiteCalibrationError(
            f"{folder} is not a folder; give one with a sub-folder of photographs for each person."
        )
    grouped = {first: _shown(first, Path.is_dir) for first in _shown(folder, Path.is_dir)}
    deeper = next((people[0] for people in grouped.values() if people), None)
    if deeper is not None:
        for first, people in grouped.items():
            if _shown(first, Path.is_file):
                raise SiteCalibrationError(
                    f"{first} holds photographs, and {deeper} is a folder in another folder: give every person a "
                    "folder within a group, or nobody."
                )
            for person in people:
                for path in _shown(person, Path.is_file):
                    yield _Photograph(first.name, person.name, path)
        return
    for person in grouped:
        for path in _shown(person, Path.is_file):
            yield _Photograph("", person.name, path)


def _shown(folder: Path, kind: Callable[[Path], bool]) -> list[Path]:
    return sorted(p for p in folder.iterdir() if kind(p) and not p.name.startswith("."))


def calibrate_gallery(gallery: Gallery, collection: str, encoder: EncoderRun, crowding: Crowding) -> Calibration:
    """Measures the encoder on the templates of a collection; subjects with several templates give the FNMR.

    Raises CollectionNotFound, SiteCalibrationError.
    """
    faces = [
        _Face(subject.subject_id, embedding, norm)
        for subject in every_subject(gallery, collection)
        for embedding, norm in zip(subject.embeddings, subject.norms.tolist(), strict=True)
    ]
    return _table(faces, encoder, crowding, f"{len(faces)} templates of the collection {collection}")


def _table(faces: Sequence[_Face], encoder: EncoderRun, crowding: Crowding, description: str) -> Calibration:
    if not faces:
        raise SiteCalibrationError("There is no face to calibrate on.")
    labelled = LabelledEmbeddings(
        embeddings=np.stack([face.embedding for face in faces]),
        norms=np.array([face.norm for face in faces], dtype=np.float32),
        subject=np.unique([face.person for face in faces], return_inverse=True)[1],
        family=np.full(len(faces), UNKNOWN),
        source=np.full(len(faces), "own"),
        face_side=np.array([face.side for face in faces], dtype=np.float32),
    )
    names = sorted({face.group for face in faces} - {""})
    try:
        groups = [_group(name, [face for face in faces if face.group == name], crowding) for name in names]
        table = make_table(labelled, encoder, description, fuse, crowding, groups=groups)
    except ValueError as error:
        raise SiteCalibrationError(f"These faces cannot calibrate an encoder: {error}. {NEEDED}") from error
    # Its own name, so that answers and the audit trail tell it from the table beside the encoder and from others.
    digest = hashlib.sha256(table.model_dump_json().encode()).hexdigest()
    return table.model_copy(update={"version": f"{table.version}-own-{digest[:8]}"})


def _group(name: str, faces: Sequence[_Face], crowding: Crowding) -> GroupFaces:
    embeddings = np.stack([face.embedding for face in faces])
    subject = np.unique([face.person for face in faces], return_inverse=True)[1]
    part = Part(embeddings, crowding(embeddings), subject)
    return GroupFaces(name, f"photographs in the folder {name}", [part])
