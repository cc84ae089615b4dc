"""What an encoder is worth, measured through the very parts that serve.

    python -m model.evaluate lfw lfw.tar --weights model/weights
    python -m model.evaluate heldout runs/faces --weights model/weights
    python -m model.evaluate teacher runs/faces

LFW (Huang et al. 2007): View 2, 6,000 pairs in ten folds, only to report; nothing is chosen on it. Each photograph goes
through the service's own decoder, detector and alignment.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from app.encoding import Precision, RuntimeName, create_runtime, load_weights
from app.faces import FaceFinder, FacePolicy, NoFaceError, YunetDetector
from model.calibrate import encode_all
from model.data import FaceSet, load_face_set
from model.metrics import PairDistances, all_pair_distances, can_show, tar_at_far
from model.teacher import CACHE_FILE

Encode = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]

DEFAULT_WEIGHTS = Path("model/weights")
FAILED_DISTANCE = 4.0
"""Of a pair with a photograph in which no face is found: the farthest possible, so that it is never accepted."""

app = typer.Typer(help=__doc__, no_args_is_help=True)


@dataclass(frozen=True, slots=True)
class LfwPairs:
    """View 2: photographs by name, pairs as rows of names, mated or not, and the fold (0..9) of each."""

    photographs: dict[str, bytes]
    names: list[tuple[str, str]]
    mated: npt.NDArray[np.bool_]
    fold: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Mean over folds and standard error of the mean, in 0..1; ``threshold`` is the mean of those used."""

    mean: float
    standard_error: float
    threshold: float


def parse_pairs(text: str) -> tuple[list[tuple[str, str]], list[bool], list[int]]:
    """Reads LFW's ``pairs.txt``: names of both photographs, whether mated, and fold of each pair.

    The first line has the number of folds and of mated pairs in each; as many non-mated pairs follow in every fold.
    Raises ValueError for anything else.
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
    return LfwPairs(photographs, names, np.array(mated), np.array(fold))


def cut_faces(photographs: dict[str, bytes]) -> dict[str, npt.NDArray[np.uint8]]:
    """The largest face of each photograph as the service cuts it; photographs without a face are left out."""
    finder = FaceFinder(YunetDetector())

    def cut(data: bytes) -> npt.NDArray[np.uint8] | None:
        try:
            return finder.find(data, FacePolicy.LARGEST).faces[0].chip
        except NoFaceError:
            return None

    with ThreadPoolExecutor() as pool:
        chips = pool.map(cut, photographs.values())
        return {name: chip for name, chip in zip(photographs, chips, strict=True) if chip is not None}


def pair_distances(
    embeddings: dict[str, npt.NDArray[np.float32]], names: list[tuple[str, str]]
) -> npt.NDArray[np.float64]:
    """Squared distance of each pair, ``FAILED_DISTANCE`` where a face is missing."""

    def distance(a: str, b: str) -> float:
        if a not in embeddings or b not in embeddings:
            return FAILED_DISTANCE
        return float(np.square(embeddings[a] - embeddings[b]).sum())

    return np.array([distance(a, b) for a, b in names])


def best_threshold(distances: npt.NDArray[np.float64], mated: npt.NDArray[np.bool_]) -> float:
    """The threshold with the highest accuracy; the middle between two distances, the lowest of equally good ones."""
    order = np.argsort(distances, kind="stable")
    ascending = distances[order]
    # correct[i]: the i nearest pairs are accepted, the others refused.
    accepted = np.concatenate([[0], np.cumsum(mated[order])])
    refused = np.concatenate([[0], np.cumsum(~mated[order])])
    correct = accepted + (refused[-1] - refused)
    edges = np.concatenate([[ascending[0] - 1e-6], (ascending[1:] + ascending[:-1]) / 2, [ascending[-1] + 1e-6]])
    # Equal distances cannot be told apart by any threshold.
    tied = np.concatenate([[False], ascending[1:] == ascending[:-1], [False]])
    return float(edges[np.where(tied, -1, correct).argmax()])


def ten_fold(distances: npt.NDArray[np.float64], mated: npt.NDArray[np.bool_], fold: npt.NDArray[np.int64]) -> Accuracy:
    """Accuracy on each fold at the threshold that is best on the others (LFW, View 2)."""
    scores, thresholds = [], []
    for number in np.unique(fold):
        test = fold == number
        threshold = best_threshold(distances[~test], mated[~test])
        scores.append(float(((distances[test] <= threshold) == mated[test]).mean()))
        thresholds.append(threshold)
    error = float(np.std(scores, ddof=1) / np.sqrt(len(scores)))
    return Accuracy(float(np.mean(scores)), error, float(np.mean(thresholds)))


def load_encode(weights: Path, runtime: RuntimeName, precision: Precision) -> Encode:
    """The served encoder as a function over any number of chips."""
    encoder = create_runtime(load_weights(weights), runtime=runtime, precision=precision)
    typer.echo(f"{encoder.info.name} {encoder.info.version} on {encoder.info.runtime} {encoder.info.precision}")
    return lambda chips: encode_all(encoder, chips)


WeightsOption = Annotated[Path, typer.Option(help="folder with encoder.onnx and encoder.json")]
RuntimeOption = Annotated[RuntimeName, typer.Option(help="library that executes the encoder")]
PrecisionOption = Annotated[Precision, typer.Option(help="arithmetic of the encoder")]


@app.command()
def lfw(
    archive: Annotated[Path, typer.Argument(help="tar file with the LFW photographs and pairs.txt")],
    weights: WeightsOption = DEFAULT_WEIGHTS,
    runtime: RuntimeOption = RuntimeName.OPENVINO,
    precision: PrecisionOption = Precision.AUTO,
) -> None:
    """LFW View 2 from the original photographs."""
    encode = load_encode(weights, runtime, precision)
    data = read_lfw(archive)
    chips = cut_faces(data.photographs)
    vectors = encode(np.stack(list(chips.values())))
    distances = pair_distances(dict(zip(chips, vectors, strict=True)), data.names)
    accuracy = ten_fold(distances, data.mated, data.fold)
    pairs = PairDistances(
        np.sort(distances[data.mated]).astype(np.float32), np.sort(distances[~data.mated]).astype(np.float32)
    )
    typer.echo(f"photographs without a face: {len(data.photographs) - len(chips)} of {len(data.photographs)}")
    typer.echo(
        f"accuracy {100 * accuracy.mean:.2f} % +- {100 * accuracy.standard_error:.2f} (standard error), "
        f"mean threshold {accuracy.threshold:.3f}"
    )
    for far in (1e-2, 1e-3):
        typer.echo(f"TAR at FAR {far:g}: {100 * tar_at_far(pairs, far):.2f} %")


@app.command()
def heldout(
    faces: Annotated[Path, typer.Argument(help="folder written by model.prepare")],
    weights: WeightsOption = DEFAULT_WEIGHTS,
    runtime: RuntimeOption = RuntimeName.OPENVINO,
    precision: PrecisionOption = Precision.AUTO,
) -> None:
    """All pairs of the identities kept out of training, with and without pairs of relatives.

    False accept rates that so few pairs cannot show are left out.
    """
    encode = load_encode(weights, runtime, precision)
    members = load_face_set(faces).of_split("heldout")
    show_all_pairs(members, encode(members.images(np.arange(len(members)))))


@app.command()
def teacher(faces: Annotated[Path, typer.Argument(help="folder that model.teacher has been run on")]) -> None:
    """The same for the teacher: mean of the face and its mirror image, from the cache."""
    members = load_face_set(faces).of_split("heldout")
    show_all_pairs(members, np.load(faces / CACHE_FILE)[members.rows])


def show_all_pairs(members: FaceSet, embeddings: npt.NDArray[np.float32]) -> None:
    """Prints the rates of true accepts over all pairs, with and without pairs of relatives."""
    for label, family in (("all pairs", None), ("without relatives", members.family)):
        pairs = all_pair_distances(embeddings, members.identity, family)
        fars = [far for far in (1e-3, 1e-4, 1e-5) if can_show(pairs.non_mated, far)]
        rates = ", ".join(f"{100 * tar_at_far(pairs, far):.2f} % at {far:g}" for far in fars)
        typer.echo(f"{label} ({len(pairs.mated)} mated, {len(pairs.non_mated)} non-mated): TAR {rates} FAR")


if __name__ == "__main__":
    app()
