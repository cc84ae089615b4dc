"""The public benchmarks, LFW and CFP: reported, never used to choose anything.

LFW (Huang et al. 2007), View 2: 6,000 pairs of photographs in ten folds. Each photograph goes through the service's own
decoder, detector and alignment. CFP (Sengupta et al. 2016): 7,000 pairs of frontal faces (FF) in ten folds, and 7,000
of a frontal and a profile face (FP), from aligned chips.
"""

from __future__ import annotations

import io
import math
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from app.evaluation.roc import Comparisons
from app.faces import AlignedFace, DegenerateLandmarksError, FaceFinder, FacePolicy, NoFaceError, YunetDetector

FAILED_DISTANCE = 4.0
"""Distance of a pair in which a face was not found: the largest possible, so that it is never accepted."""

CFP_FOLDS = 10
CFP_ROOT = "cfp-chips"

NamedChips = dict[str, npt.NDArray[np.uint8]]
Embeddings = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class PairProtocol:
    """Pairs of named photographs in folds: ``names``, whether each is mated (bool [P]), and its fold (int64 [P]).

    ``subject`` maps each photograph to the person on it.
    """

    names: list[tuple[str, str]]
    mated: npt.NDArray[np.bool_]
    fold: npt.NDArray[np.int64]
    subject: dict[str, str]


@dataclass(frozen=True, slots=True)
class LfwPairs(PairProtocol):
    """View 2 with its photographs by name."""

    photographs: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Mean over folds and its standard error, in 0..1; ``threshold`` is the mean over folds."""

    mean: float
    standard_error: float
    threshold: float


def parse_pairs(text: str) -> tuple[list[tuple[str, str]], list[bool], list[int]]:
    """Reads LFW's ``pairs.txt``: the names of both photographs, whether mated, and the fold of each pair.

    The first line gives the number of folds and of mated pairs per fold; each fold has as many non-mated pairs.
    Raises ValueError for any other format.
    """
    header, *lines = text.strip().splitlines()
    folds, size = (int(n) for n in header.split())
    if len(lines) != folds * size * 2:
        raise ValueError(f"pairs.txt promises {folds * size * 2} pairs and has {len(lines)}")
    names, mated, fold = [], [], []
    for number, line in enumerate(lines):
        parts = line.split()
        if len(parts) not in {3, 4}:
            raise ValueError(f"pair {number + 1} of pairs.txt has {len(parts)} fields instead of 3 or 4: {line!r}")
        first, a, second, b = parts if len(parts) == 4 else (parts[0], parts[1], parts[0], parts[2])
        names.append((f"{first}_{int(a):04d}", f"{second}_{int(b):04d}"))
        mated.append(len(parts) == 3)
        fold.append(number // (2 * size))
    return names, mated, fold


def read_lfw(archive: Path) -> LfwPairs:
    """Reads the photographs and ``pairs.txt`` of an LFW tar file. Raises ValueError if any of them is missing."""
    photographs, pairs = {}, ""
    if not tarfile.is_tarfile(archive):
        raise ValueError(f"{archive} is no tar file")
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is None:
                continue
            if member.name.endswith(".jpg"):
                photographs[Path(member.name).stem] = file.read()
            elif Path(member.name).name == "pairs.txt":
                pairs = file.read().decode()
    if not pairs:
        raise ValueError(f"{archive} lacks pairs.txt")
    names, mated, fold = parse_pairs(pairs)
    missing = {n for pair in names for n in pair} - photographs.keys()
    if missing:
        raise ValueError(f"{archive} lacks {len(missing)} photographs of pairs.txt, such as {min(missing)}")
    subject = {name: name.rsplit("_", 1)[0] for name in photographs}
    return LfwPairs(names, np.array(mated), np.array(fold), subject, photographs)


def _zip_file(archive: Path) -> zipfile.ZipFile:
    if archive.exists() and not zipfile.is_zipfile(archive):
        raise ValueError(f"{archive} is no zip file")
    return zipfile.ZipFile(archive)


def read_cfp(archive: Path, kind: Literal["FF", "FP"]) -> tuple[PairProtocol, NamedChips]:
    """Reads protocol and chips of CFP; photographs without a detected face have no chip.

    The archive holds ``Protocol`` as published and ``images/<subject>/<frontal|profile>/<number>.webp``, under
    ``cfp-chips``. Raises ValueError otherwise.
    """
    with _zip_file(archive) as bundle:
        present = set(bundle.namelist())

        def text(name: str) -> str:
            path = f"{CFP_ROOT}/Protocol/{name}"
            if path not in present:
                raise ValueError(f"{archive} lacks {path}")
            return bundle.read(path).decode()

        # Lines such as "12 ../Data/Images/002/frontal/02.jpg": the numbers that the pairs refer to.
        lists = {}
        for side in {"F", kind[1]}:
            entries = (line.split() for line in text(f"Pair_list_{side}.txt").splitlines() if line.strip())
            lists[side] = {int(number): "/".join(Path(path).with_suffix("").parts[-3:]) for number, path in entries}
        names, mated, fold = [], [], []
        for number in range(CFP_FOLDS):
            for file, same in (("same", True), ("diff", False)):
                for line in text(f"Split/{kind}/{number + 1:02d}/{file}.txt").split():
                    a, b = (int(n) for n in line.split(","))
                    names.append((lists["F"][a], lists[kind[1]][b]))
                    mated.append(same)
                    fold.append(number)
        chips = {}
        for name in sorted({n for pair in names for n in pair}):
            path = f"{CFP_ROOT}/images/{name}.webp"
            if path in present:
                chips[name] = np.asarray(Image.open(io.BytesIO(bundle.read(path))).convert("RGB"))
    if not chips:
        raise ValueError(f"{archive} has none of the images that its protocol names")
    subject = {n: n.split("/")[0] for pair in names for n in pair}
    return PairProtocol(names, np.array(mated), np.array(fold), subject), chips


def find_central_faces(photographs: dict[str, bytes]) -> dict[str, AlignedFace]:
    """The face nearest to the middle of each photograph, which is the labelled one in LFW; none if none is found.

    Each goes through the service's own decoder, detector and alignment.
    """
    finder = FaceFinder(YunetDetector())

    def find(data: bytes) -> AlignedFace | None:
        try:
            found = finder.find(data, FacePolicy.ALL)
        except (NoFaceError, DegenerateLandmarksError):
            return None

        def off_centre(face: AlignedFace) -> float:
            box = face.detected.box
            return math.hypot(box.x + (box.width - found.width) / 2, box.y + (box.height - found.height) / 2)

        return min(found.faces, key=off_centre)

    with ThreadPoolExecutor() as pool:
        faces = pool.map(find, photographs.values())
        return {name: face for name, face in zip(photographs, faces, strict=True) if face is not None}


def cut_faces(photographs: dict[str, bytes]) -> NamedChips:
    """The chips of ``find_central_faces``."""
    return {name: face.chip for name, face in find_central_faces(photographs).items()}


def pair_distances(embeddings: Embeddings, names: list[tuple[str, str]]) -> npt.NDArray[np.float64]:
    """Squared distance of each pair, ``FAILED_DISTANCE`` where a face is missing."""

    def distance(a: str, b: str) -> float:
        if a not in embeddings or b not in embeddings:
            return FAILED_DISTANCE
        return float(np.square(embeddings[a] - embeddings[b]).sum())

    return np.array([distance(a, b) for a, b in names])


def protocol_comparisons(protocol: PairProtocol, distances: npt.NDArray[np.float64]) -> Comparisons:
    """The pairs of a protocol with their subjects."""
    present = {protocol.subject[name] for pair in protocol.names for name in pair}
    number = {name: i for i, name in enumerate(sorted(present))}
    subjects = np.array([[number[protocol.subject[a]], number[protocol.subject[b]]] for a, b in protocol.names])
    order = np.argsort(distances, kind="stable")
    mated = order[protocol.mated[order]]
    others = order[~protocol.mated[order]]
    return Comparisons(
        mated=distances[mated].astype(np.float32),
        mated_subject=subjects[mated, 0],
        non_mated=distances[others].astype(np.float32),
        non_mated_subjects=subjects[others],
        subjects=len(number),
    )


def best_threshold(distances: npt.NDArray[np.float64], mated: npt.NDArray[np.bool_]) -> float:
    """The most accurate threshold, midway between two distances; of equally good ones the lowest."""
    order = np.argsort(distances, kind="stable")
    ascending = distances[order]
    # correct[i]: the i nearest pairs are accepted, the others rejected.
    accepted = np.concatenate([[0], np.cumsum(mated[order])])
    refused = np.concatenate([[0], np.cumsum(~mated[order])])
    correct = accepted + (refused[-1] - refused)
    edges = np.concatenate([[ascending[0] - 1e-6], (ascending[1:] + ascending[:-1]) / 2, [ascending[-1] + 1e-6]])
    # No threshold separates equal distances.
    tied = np.concatenate([[False], ascending[1:] == ascending[:-1], [False]])
    return float(edges[np.where(tied, -1, correct).argmax()])


def ten_fold(distances: npt.NDArray[np.float64], mated: npt.NDArray[np.bool_], fold: npt.NDArray[np.int64]) -> Accuracy:
    """Accuracy on each fold at the threshold that is best on the other folds (LFW, View 2)."""
    scores, thresholds = [], []
    for number in np.unique(fold):
        test = fold == number
        threshold = best_threshold(distances[~test], mated[~test])
        scores.append(float(((distances[test] <= threshold) == mated[test]).mean()))
        thresholds.append(threshold)
    error = float(np.std(scores, ddof=1) / np.sqrt(len(scores)))
    return Accuracy(float(np.mean(scores)), error, float(np.mean(thresholds)))


@dataclass(frozen=True, slots=True)
class Identification:
    """Rates of 1:N search, each with its standard deviation over random galleries, in 0..1.

    rank1: the correct subject is nearest. dir_at_1: nearest *and* within the threshold at FPIR 1 % (detection and
    identification rate, open set).
    """

    rank1: float
    rank1_deviation: float
    dir_at_1: float
    dir_at_1_deviation: float
    subjects: int


def identify(
    embeddings: npt.NDArray[np.float32], subject: npt.NDArray[np.int64], *, galleries: int = 10, seed: int = 0
) -> Identification:
    """One template per subject with two or more faces; their other faces and all single faces are probes.

    As in BLUFR (Liao et al. 2014), but with the photographs of View 2. embeddings: unit-length [N, D]; subject:
    int64 [N]. Raises ValueError with fewer than a hundred single-face subjects to act as strangers.
    """
    labels, counts = np.unique(subject, return_counts=True)
    strangers = np.flatnonzero(np.isin(subject, labels[counts == 1]))
    if len(strangers) < 100:
        raise ValueError(f"{len(strangers)} subjects of one face cannot show a false alarm rate of 1 %")
    known = labels[counts > 1]
    members = {label: np.flatnonzero(subject == label) for label in known}
    rng, rank1, found = np.random.default_rng(seed), [], []
    for _ in range(galleries):
        gallery = np.array([rng.choice(members[label]) for label in known])
        probes = np.setdiff1d(np.concatenate(list(members.values())), gallery)
        to_strangers = (2 - 2 * embeddings[strangers] @ embeddings[gallery].T).min(axis=1)
        limit = np.sort(to_strangers)[int(np.floor(0.01 * len(strangers)))]
        distances = 2 - 2 * embeddings[probes] @ embeddings[gallery].T
        right = known[distances.argmin(axis=1)] == subject[probes]
        rank1.append(right.mean())
        found.append((right & (distances.min(axis=1) < limit)).mean())
    return Identification(
        float(np.mean(rank1)), float(np.std(rank1)), float(np.mean(found)), float(np.std(found)), len(known)
    )
