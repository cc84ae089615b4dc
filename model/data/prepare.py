"""Photographs or a parquet file of aligned faces -> the packed faces that training reads.

    python -m model.data.prepare parquet faces.parquet runs/faces
    python -m model.data.prepare folder photographs runs/faces

The first takes faces that are already aligned, the second photographs in one sub-folder per identity.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import typer
from PIL import Image

from app.errors import TesseraError
from app.faces import FaceFinder, FacePolicy, YunetDetector
from app.faces import AlignedFace
from model import commands
from model.data.face_set import CHIP_SIDE, CHIPS_FILE, LABEL_COLUMNS, SIDE_COLUMN, begin_packing, write_table

app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.callback()
def prepare() -> None:
    """Writes the packed faces that training reads."""


def decode_chip(data: bytes) -> npt.NDArray[np.uint8]:
    """One encoded aligned face -> uint8 [112, 112, 3], RGB. Raises ValueError for any other size."""
    chip = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
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
    begin_packing(out)
    shape = (sum(file.metadata.num_rows for file in files), CHIP_SIDE, CHIP_SIDE, 3)
    chips = np.lib.format.open_memmap(out / CHIPS_FILE, mode="w+", dtype=np.uint8, shape=shape)
    columns: dict[str, list[str]] = {name: [] for name in LABEL_COLUMNS}
    sides, row = list[float](), 0
    with ThreadPoolExecutor() as pool:
        for file in files:
            present = set(file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=2048):
                for chip in pool.map(decode_chip, batch["image"].to_pylist()):
                    chips[row] = chip
                    row += 1
                for name, values in columns.items():
                    values.extend(batch[name].to_pylist() if name in present else [""] * len(batch))
                sides.extend(batch[SIDE_COLUMN].to_pylist() if SIDE_COLUMN in present else [math.nan] * len(batch))
    chips.flush()
    write_table(out, columns, sides)
    typer.echo(f"{row} faces in {out}")


@dataclass(frozen=True, slots=True)
class Cut:
    """The result for one photograph: its chip, or why there is none."""

    path: Path
    face: AlignedFace | None
    reason: str = ""


def list_photographs(folder: Path) -> list[Path]:
    """The files in every sub-folder, sorted, without hidden ones."""
    return sorted(p for p in folder.glob("[!.]*/[!.]*") if p.is_file())


def cut_faces(photographs: Iterable[Path], policy: FacePolicy) -> Iterator[Cut]:
    """Cuts one face from each photograph, exactly as the service does; results keep the order of the input."""
    finder = FaceFinder(YunetDetector())

    def cut(path: Path) -> Cut:
        try:
            return Cut(path, finder.find(path.read_bytes(), policy).faces[0])
        except (TesseraError, OSError) as error:
            return Cut(path, None, str(error))

    with ThreadPoolExecutor() as pool:
        yield from pool.map(cut, photographs)


def choose_heldout(identities: Iterable[str], share: float, seed: int) -> set[str]:
    """Identities kept out of training: a share of them, rounded up, chosen by a hash of name and seed."""
    ranked = sorted(set(identities), key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    return set(ranked[: math.ceil(share * len(ranked))])


class ChipWriter:
    """Writes chips one by one into an ``.npy`` file whose final size is not known in advance."""

    def __init__(self, path: Path) -> None:
        self._file, self.count = path.open("wb"), 0
        self._write_header()

    def _write_header(self) -> None:
        # NumPy pads the header so that it keeps its length when the first dimension grows.
        shape = (self.count, CHIP_SIDE, CHIP_SIDE, 3)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, chip: npt.NDArray[np.uint8]) -> None:
        """Adds uint8 [112, 112, 3]."""
        self._file.write(chip.tobytes())
        self.count += 1

    def close(self) -> None:
        """Completes the file."""
        self._file.seek(0)
        self._write_header()
        self._file.close()


@app.command()
def folder(
    source: Annotated[Path, typer.Argument(help="one sub-folder an identity, photographs in each")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    policy: Annotated[
        FacePolicy, typer.Option(help="single leaves out photographs of several faces")
    ] = FacePolicy.LARGEST,
    heldout_share: Annotated[float, typer.Option(min=0, max=1, help="of the identities, kept out of training")] = 0.1,
    seed: Annotated[int, typer.Option(help="chooses the identities that are kept out")] = 1,
) -> None:
    """Cuts one face from each photograph; photographs without one are skipped and listed with the reason."""
    if policy is FacePolicy.ALL:
        raise typer.BadParameter("a sub-folder is one identity: choose single or largest", param_hint="--policy")
    photographs = list_photographs(source)
    if not photographs:
        raise typer.BadParameter(f"{source} has no sub-folders with photographs", param_hint="SOURCE")
    begin_packing(out)
    identity, sides = list[str](), list[float]()
    with closing(ChipWriter(out / CHIPS_FILE)) as writer:
        for cut in cut_faces(photographs, policy):
            if cut.face is None:
                typer.echo(f"left out {cut.path.relative_to(source)}: {cut.reason}", err=True)
            else:
                writer.append(cut.face.chip)
                sides.append(cut.face.detected.box.side)
                identity.append(cut.path.parent.name)
    heldout = choose_heldout(identity, heldout_share, seed)
    split = ["heldout" if name in heldout else "train" for name in identity]
    constant = {"family": [""] * len(identity), "source": [source.resolve().name] * len(identity)}
    write_table(out, {"identity": identity, "split": split, **constant}, sides)
    typer.echo(f"{len(identity)} faces of {len(set(identity))} identities in {out}, {len(heldout)} of them held out")
    typer.echo(f"left out {len(photographs) - len(identity)} of {len(photographs)} photographs")


if __name__ == "__main__":
    commands.run(app)
