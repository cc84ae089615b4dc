"""Weights and held-out faces -> ``calibration.json``: thresholds with the error rates measured at them.

    python -m model.calibrate runs/faces model/weights/tessera-l

The faces are those of the split ``heldout``, whose identities the encoder never saw. Every pair of faces is compared,
through the runtime and the precision that serve. Relatives count as non-mated pairs; the rate without them stands
beside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from app.decisions.calibration import (
    CALIBRATION_FILE,
    Calibration,
    CalibrationData,
    OperatingPoint,
)
from app.encoding import EncoderRuntime, Precision, create_runtime, load_weights
from model.data import FaceSet, load_face_set
from model.metrics import PairDistances, accepted_share, all_pair_distances, threshold_at_fmr

TARGETS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
DEFAULT_FMR = 1e-4


def encode_all(runtime: EncoderRuntime, chips: npt.NDArray[np.uint8], *, batch: int = 64) -> npt.NDArray[np.float32]:
    """uint8 [N, 112, 112, 3] -> unit-length float32 [N, 128], in batches."""
    return np.concatenate([runtime.encode(chips[i : i + batch]) for i in range(0, len(chips), batch)])


def smallest_supported_fmr(subjects: int) -> float:
    """Rule of three over the pairs of subjects: comparisons that share a subject are not independent."""
    return min(3 / max(subjects * (subjects - 1) / 2, 1), 1.0)


def operating_point(pairs: PairDistances, unrelated: PairDistances, target: float) -> OperatingPoint:
    """The most permissive threshold whose measured false match rate is at most ``target``.

    Raises ValueError if more non-mated pairs than that are at distance 0, which no threshold refuses.
    """
    threshold = threshold_at_fmr(pairs.non_mated, target)
    if threshold < 0:
        raise ValueError(
            f"a share {target:g} or more of the non-mated pairs are equal: some faces are labelled wrongly"
        )
    return OperatingPoint(
        threshold=threshold,
        false_match_rate=accepted_share(pairs.non_mated, threshold),
        false_non_match_rate=1 - accepted_share(pairs.mated, threshold),
        false_match_rate_without_relatives=accepted_share(unrelated.non_mated, threshold),
    )


def calibrate(runtime: EncoderRuntime, faces: FaceSet, description: str) -> Calibration:
    """Measures a runtime on labelled faces of identities that its encoder never saw.

    The default is ``DEFAULT_FMR`` or the lowest of ``TARGETS`` that the subjects support. Raises ValueError if they
    support none.
    """
    subjects = len(np.unique(faces.identity))
    floor = smallest_supported_fmr(subjects)
    targets = [target for target in TARGETS if target >= floor]
    if not targets:
        raise ValueError(f"{subjects} subjects cannot show a false match rate of {TARGETS[0]:g}; calibrate on more")
    embeddings = encode_all(runtime, faces.images(np.arange(len(faces))))
    pairs = all_pair_distances(embeddings, faces.identity)
    unrelated = all_pair_distances(embeddings, faces.identity, faces.family)
    points = [operating_point(pairs, unrelated, target) for target in targets]
    return Calibration(
        schema_version=1,
        version=f"{runtime.info.name}-{runtime.info.version}-{runtime.info.sha256[:8]}",
        encoder_sha256=runtime.info.sha256,
        data=CalibrationData(
            description=description,
            subjects=subjects,
            faces=len(faces),
            mated_pairs=len(pairs.mated),
            non_mated_pairs=len(pairs.non_mated),
            runtime=runtime.info.runtime,
            precision=runtime.info.precision,
        ),
        smallest_supported_fmr=floor,
        default_fmr=max(DEFAULT_FMR, targets[-1]),
        operating_points=tuple(points),
    )


def main(
    faces: Annotated[Path, typer.Argument(help="folder written by model.prepare")],
    weights: Annotated[Path, typer.Argument(help="folder written by model.export; the table goes there")],
    split: Annotated[str, typer.Option(help="faces of identities that the encoder never saw")] = "heldout",
    precision: Annotated[Precision, typer.Option(help="arithmetic of the encoder")] = Precision.AUTO,
) -> None:
    """Measures the encoder and writes ``calibration.json``."""
    runtime = create_runtime(load_weights(weights), precision=precision)
    members = load_face_set(faces).of_split(split)
    labelled = members.where(members.identity >= 0)
    sources = ", ".join(sorted(set(labelled.source.tolist())))
    table = calibrate(runtime, labelled, f"identities kept out of training; faces from {sources}")
    (weights / CALIBRATION_FILE).write_text(table.model_dump_json(indent=2) + "\n")
    for point in table.operating_points:
        typer.echo(
            f"FMR {point.false_match_rate:.2e} (without relatives {point.false_match_rate_without_relatives:.2e})  "
            f"threshold {point.threshold:.4f}  FNMR {point.false_non_match_rate:.4f}"
        )


if __name__ == "__main__":
    typer.run(main)
