"""Photographs or a parquet file of aligned faces -> the packed faces that training reads.

    python -m model.prepare parquet faces.parquet runs/faces
    python -m model.prepare folder  photographs/  runs/faces   (one sub-folder an identity)
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import typer
from PIL import Image

from model.data import CHIP_SIDE, CHIPS_FILE, write_table

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
    source: Annotated[Path, typer.Argument(help="columns image, identity, split, source, family")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
) -> None:
    """Unpacks a parquet file of aligned 112x112 faces."""
    file = pq.ParquetFile(source)
    out.mkdir(parents=True, exist_ok=True)
    shape = (file.metadata.num_rows, CHIP_SIDE, CHIP_SIDE, 3)
    chips = np.lib.format.open_memmap(out / CHIPS_FILE, mode="w+", dtype=np.uint8, shape=shape)
    columns: dict[str, list[str]] = {"identity": [], "family": [], "split": [], "source": []}
    row = 0
    with ThreadPoolExecutor() as pool:
        for batch in file.iter_batches(batch_size=2048):
            for chip in pool.map(decode_chip, batch["image"].to_pylist()):
                chips[row] = chip
                row += 1
            for name, values in columns.items():
                values.extend(batch[name].to_pylist())
    chips.flush()
    write_table(out, columns)
    typer.echo(f"{row} faces in {out}")


if __name__ == "__main__":
    app()
