"""Photographs or a parquet file of aligned faces -> the packed faces that training reads.

    python -m model.data.prepare parquet faces.parquet runs/faces
    python -m model.data.prepare folder photographs runs/faces

The first takes faces that are already aligned, the second photographs in one sub-folder per identity.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import typer
from PIL import Image

from app.faces import FacePolicy
from model import commands
from model.commands import StoppedError
from model.data.face_set import (
    CHIP_SIDE,
    CHIPS_FILE,
    LABEL_COLUMNS,
    SIDE_COLUMN,
    begin_packing,
    codes,
    new_array,
    write_table,
)
from model.data.folder import (
    MIN_EYE_DISTANCE,
    Cut,
    Packer,
    choose_heldout,
    count_elsewhere,
    cut_faces,
    list_photographs,
)
from model.data.left_out import SHEET_FILE, write_left_out
from model.data.sufficiency import (
    ADVICE,
    CALIBRATION_PEOPLE,
    EXPECTATIONS,
    TRAIN_PEOPLE,
    holdings,
    refuse_small,
    short_of_heldout,
    short_of_training,
)
from model.progress import Progress

NEEDED_COLUMNS = ("image", "identity", "split", "source")

app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.callback()
def prepare() -> None:
    """Writes the packed faces that training reads."""


def decode_chip(data: Any) -> npt.NDArray[np.uint8]:
    """One encoded aligned face -> uint8 [112, 112, 3], RGB. Raises ValueError for anything else."""
    if not isinstance(data, bytes):
        raise ValueError(f"the column image holds the bytes of picture files, not {type(data).__name__}")
    try:
        chip = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except OSError as error:
        raise ValueError(f"an image cannot be decoded: {error}") from error
    if chip.shape != (CHIP_SIDE, CHIP_SIDE, 3):
        raise ValueError(f"an aligned face is {CHIP_SIDE}x{CHIP_SIDE} pixels, not {chip.shape[1]}x{chip.shape[0]}")
    return chip


@app.command()
def parquet(
    sources: Annotated[
        list[Path],
        typer.Argument(help="columns image, identity, split, source; perhaps family, origin, sex, age, face_pixels"),
    ],
    out: Annotated[Path, typer.Argument(help="folder to write")],
) -> None:
    """Unpacks parquet files of aligned 112x112 faces; the same identity name in several files is one person."""
    files = [pq.ParquetFile(source) for source in sources]
    for source, file in zip(sources, files, strict=True):
        if missing := [name for name in NEEDED_COLUMNS if name not in file.schema_arrow.names]:
            raise StoppedError(f"{source} lacks the column {' and '.join(missing)}")
    begin_packing(out)
    shape = (sum(file.metadata.num_rows for file in files), CHIP_SIDE, CHIP_SIDE, 3)
    chips = new_array(out / CHIPS_FILE, np.uint8, shape)
    columns: dict[str, list[str]] = {name: [] for name in LABEL_COLUMNS}
    sides, row = list[float](), 0
    with ThreadPoolExecutor() as pool:
        for source, file in zip(sources, files, strict=True):
            present, first = set(file.schema_arrow.names), row
            for batch in file.iter_batches(batch_size=2048):
                decoded = pool.map(decode_chip, batch["image"].to_pylist())
                for _ in range(len(batch)):
                    try:
                        chips[row] = next(decoded)
                    except ValueError as error:
                        raise StoppedError(f"row {row - first} of {source}: {error}") from error
                    row += 1
                for name, values in columns.items():
                    values.extend(_texts(batch[name].to_pylist()) if name in present else [""] * len(batch))
                sides.extend(batch[SIDE_COLUMN].to_pylist() if SIDE_COLUMN in present else [math.nan] * len(batch))
    chips.flush()
    write_table(out, columns, sides)
    typer.echo(f"{row} faces in {out}")


def _texts(labels: Iterable[Any]) -> Iterator[str]:
    """Labels of any type as texts, empty where there is none."""
    return ("" if label is None else str(label) for label in labels)


@app.command()
def folder(
    source: Annotated[Path, typer.Argument(help="one sub-folder an identity, photographs in each")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    policy: Annotated[
        FacePolicy,
        typer.Option(help="dominant leaves out photographs of several faces of like size, single all of several faces"),
    ] = FacePolicy.DOMINANT,
    heldout_share: Annotated[float, typer.Option(min=0, max=1, help="of the identities, kept out of training")] = 0.1,
    seed: Annotated[int, typer.Option(help="chooses the identities that are kept out")] = 1,
    min_eye_distance: Annotated[
        float, typer.Option(min=0, help="pixels between the eyes; smaller faces are left out")
    ] = MIN_EYE_DISTANCE,
    small: Annotated[bool, typer.Option("--small", help="go on with too small a folder, to try the commands")] = False,
) -> None:
    """Cuts one face from each photograph, and says first whether there are enough.

    left-out.csv and left-out.html in OUT show the photographs that are not used, and why.
    """
    if policy is FacePolicy.ALL:
        raise typer.BadParameter(
            "a sub-folder is one identity: choose single, dominant or largest", param_hint="--policy"
        )
    photographs = list_photographs(source)
    if not photographs:
        raise typer.BadParameter(f"{source} has no sub-folders with photographs", param_hint="SOURCE")
    _say_what_to_expect(source, [p.parent.name for p in photographs], heldout_share, seed, small)
    begin_packing(out)
    packer = Packer(source, out)
    with Progress("photographs", len(photographs)) as progress:
        packer.pack(_counted(cut_faces(photographs, policy, min_eye_distance), progress))
    write_left_out(out, source, packer.left_out, len(photographs))
    identity = packer.identity
    heldout = choose_heldout(identity, heldout_share, seed)
    split = ["heldout" if name in heldout else "train" for name in identity]
    constant = {"family": [""] * len(identity), "source": [source.resolve().name] * len(identity)}
    write_table(out, {"identity": identity, "split": split, **constant}, packer.sides)
    typer.echo(f"{len(identity)} faces of {len(set(identity))} identities in {out}, {len(heldout)} of them held out")
    reasons = Counter(entry.reason for entry in packer.left_out)
    typer.echo(f"left out {len(packer.left_out)} of {len(photographs)} photographs, shown in {out / SHEET_FILE}")
    for reason, count in reasons.most_common():
        typer.echo(f"  {reason}: {count}")
    for lack in _lacks(identity, heldout):
        typer.echo(f"too few are left: {lack}", err=True)


def _counted(cuts: Iterable[Cut], progress: Progress) -> Iterator[Cut]:
    for cut in cuts:
        progress.advance()
        yield cut


def _lacks(identity: list[str], heldout: set[str]) -> list[str]:
    """What lacks for any training, validation and calibration."""
    number, kept = codes(identity), np.array([name in heldout for name in identity], dtype=np.bool_)
    return [*short_of_training(holdings(number[~kept])), *short_of_heldout(holdings(number[kept]))]


def _say_what_to_expect(source: Path, names: list[str], share: float, seed: int, small: bool) -> None:
    """Says what there is, what is needed and what it is good for. Raises StoppedError for too little."""
    people = holdings(codes(names)).people
    typer.echo(f"{len(names)} photographs of {len(set(names))} people in {source}; {people} people have two or more")
    if elsewhere := count_elsewhere(source):
        typer.echo(f"{elsewhere} files lie in no person's folder, or deeper within one, and are not used")
    typer.echo(
        f"needed: {TRAIN_PEOPLE} people to train on (some recipes more), {CALIBRATION_PEOPLE} others to validate and "
        "calibrate on, all with two photographs or more. What so many gave, measured:"
    )
    for line in EXPECTATIONS:
        typer.echo(f"  {line}")
    typer.echo(ADVICE)
    if not small:
        better, both = _share_that_suffices(names, seed), TRAIN_PEOPLE + CALIBRATION_PEOPLE
        remedy = f"{both} people with two photographs or more suffice for both. "
        if better is not None:
            remedy = f"With so many people, --heldout-share {better:g} leaves enough for both. "
        refuse_small(_lacks(names, choose_heldout(names, share, seed)), remedy)


def _share_that_suffices(names: list[str], seed: int) -> float | None:
    """The smallest share of these people that leaves enough on both sides, in hundredths; None if there is none."""
    shares = (hundredths / 100 for hundredths in range(1, 100))
    return next((share for share in shares if not _lacks(names, choose_heldout(names, share, seed))), None)


if __name__ == "__main__":
    commands.run(app)
