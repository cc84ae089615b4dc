"""Faces cropped tightly by the caller: how many are detected, and how accurately they are verified.

    python -m benchmarks.tight_crops tight-crops.zip --lfw lfw.tar --keep lfw-chips.npz

Three sets go through the service's decoder, detector, alignment and encoder: crops as received, one folder per person;
LFW cropped to the box of the labelled face; LFW unchanged. Pairs with a photograph in which no face is found are never
accepted. Run it on two versions to compare them: ``--against`` takes the file that ``--keep`` wrote on the other one,
and counts the photographs of LFW whose chips differ.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image

from app.evaluation.pairs import all_pair_distances
from app.faces import (
    Box,
    DecodeLimits,
    DegenerateLandmarksError,
    FaceFinder,
    FacePolicy,
    NoFaceError,
    YunetDetector,
    decode,
)
from app.settings import Settings
from benchmarks.tables import ResultsOption, show
from model.evaluation.baselines import Encode, load_encode
from model.evaluation.protocols import LfwPairs, NamedChips, find_central_faces, pair_distances, read_lfw, ten_fold

FMRS = (1e-2, 1e-3, 1e-4)


@dataclass(frozen=True, slots=True)
class Row:
    """Results on one set; rates in 0..1.

    tars: share of all mated pairs accepted at each of ``FMRS`` over all pairs. accuracy: LFW, View 2.
    """

    name: str
    photographs: int
    found: int
    tars: tuple[float, ...]
    accuracy: float | None = None

    def markdown(self) -> str:
        """A row of the table, in percent."""
        accuracy = "" if self.accuracy is None else f"{100 * self.accuracy:.2f}"
        tars = " | ".join(f"{100 * tar:.2f}" for tar in self.tars)
        return f"| {self.name} | {self.found} of {self.photographs} | {tars} | {accuracy} |"


def read_crops(archive: Path) -> dict[str, bytes]:
    """The files of a zip, by path; the folder of each is the person."""
    with zipfile.ZipFile(archive) as bundle:
        return {name: bundle.read(name) for name in sorted(bundle.namelist()) if not name.endswith("/")}


def cut_largest(photographs: dict[str, bytes]) -> NamedChips:
    """The chip of the largest face of each photograph, as in ``/verify``; none where no face is found."""
    finder, chips = FaceFinder(YunetDetector()), {}
    for name, data in photographs.items():
        try:
            chips[name] = finder.find(data, FacePolicy.LARGEST).faces[0].chip
        except (NoFaceError, DegenerateLandmarksError):
            continue
    return chips


def cropped(data: bytes, box: Box) -> bytes:
    """A PNG of the region of a photograph inside a box, rounded outwards."""
    pixels = decode(data, DecodeLimits()).pixels
    left, top = max(0, int(box.x)), max(0, int(box.y))
    right, bottom = int(np.ceil(box.x + box.width)), int(np.ceil(box.y + box.height))
    out = io.BytesIO()
    Image.fromarray(pixels[top:bottom, left:right]).save(out, "PNG")
    return out.getvalue()


def true_accepts(
    embeddings: dict[str, npt.NDArray[np.float32]], subject: dict[str, str], fmrs: Sequence[float] = FMRS
) -> tuple[float, ...]:
    """Share of all mated pairs that are accepted where at most the given share of the non-mated pairs is.

    ``subject`` names the person on every photograph; pairs with a missing embedding are not accepted.
    """
    identity = np.unique([subject[name] for name in embeddings], return_inverse=True)[1]
    pairs = all_pair_distances(np.stack(list(embeddings.values())), identity)
    counts = np.unique(list(subject.values()), return_counts=True)[1].astype(np.int64)
    mated = int((counts * (counts - 1)).sum()) // 2
    non_mated = len(subject) * (len(subject) - 1) // 2 - mated
    limits = np.append(pairs.non_mated, np.float32(np.inf))[
        [min(int(f * non_mated), len(pairs.non_mated)) for f in fmrs]
    ]
    return tuple(float(n) / mated for n in np.searchsorted(pairs.mated, limits, side="left"))


def measure(name: str, chips: NamedChips, subject: dict[str, str], encode: Encode, lfw: LfwPairs | None = None) -> Row:
    """Encodes chips and compares all with all; the pairs of View 2 as well, if given."""
    embeddings = dict(zip(chips, encode(np.stack(list(chips.values()))), strict=True))
    accuracy = None
    if lfw:
        accuracy = ten_fold(pair_distances(embeddings, lfw.names), lfw.mated, lfw.fold).mean
    return Row(name, len(subject), len(chips), true_accepts(embeddings, subject), accuracy)


def first_folds(lfw: LfwPairs, folds: int) -> LfwPairs:
    """The pairs of the first folds, and their photographs."""
    chosen = lfw.fold < folds
    names = [pair for pair, kept in zip(lfw.names, chosen, strict=True) if kept]
    photographs = {name: lfw.photographs[name] for name in sorted({name for pair in names for name in pair})}
    subject = {name: lfw.subject[name] for name in photographs}
    return LfwPairs(names, lfw.mated[chosen], lfw.fold[chosen], subject, photographs)


def differing(chips: NamedChips, others: NamedChips) -> int:
    """How many photographs have different chips, or a chip in only one of the two."""
    common = chips.keys() & others.keys()
    return len(chips.keys() ^ others.keys()) + sum(not np.array_equal(chips[n], others[n]) for n in common)


def main(
    crops: Annotated[Path, typer.Argument(help="zip file of cropped faces, a folder a person")],
    lfw: Annotated[Path | None, typer.Option(help="tar file with the LFW photographs and pairs.txt")] = None,
    folds: Annotated[int, typer.Option(help="so many of the first folds of LFW", min=2, max=10)] = 10,
    keep: Annotated[Path | None, typer.Option(help="npz file to write the chips of LFW to")] = None,
    against: Annotated[Path | None, typer.Option(help="npz file of chips of LFW to compare with")] = None,
    results: ResultsOption = None,
) -> None:
    """Prints a table, in percent."""
    encoder, encode = load_encode(str(Settings().encoding.directory))
    found = read_crops(crops)
    people = {name: PurePosixPath(name).parent.as_posix() for name in found}
    rows = [measure("crops", cut_largest(found), people, encode)]
    if lfw:
        data = first_folds(read_lfw(lfw), folds)
        faces = find_central_faces(data.photographs)
        chips = {name: face.chip for name, face in faces.items()}
        boxes = {name: cropped(data.photographs[name], face.detected.box) for name, face in faces.items()}
        rows += [
            measure("LFW cropped to the face's box", cut_largest(boxes), data.subject, encode, data),
            measure("LFW as it is", chips, data.subject, encode, data),
        ]
        if keep:
            np.savez_compressed(keep, allow_pickle=False, **chips)
        if against:
            with np.load(against) as others:
                count = differing(chips, dict(others))
            typer.echo(f"{count} of {len(data.photographs)} photographs of LFW have other chips than in {against.name}")
    typer.echo(encoder)
    head = "| photographs | found | " + " | ".join(f"TAR at FMR {fmr:g}" for fmr in FMRS) + " | View 2 |"
    show([head, "|" + "---|" * (3 + len(FMRS)), *(row.markdown() for row in rows)], "tight-crops", results)


if __name__ == "__main__":
    typer.run(main)
