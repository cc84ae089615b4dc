"""Packed aligned faces: one uint8 memory map of chips and one table of what is known of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

CHIPS_FILE = "chips.npy"
TABLE_FILE = "faces.parquet"
CHIP_SIDE = 112
UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class FaceSet:
    """Aligned faces and their labels, row by row.

    chips: uint8 [N, 112, 112, 3], RGB. identity, family: int64 [N], ``UNLABELLED`` where unknown.
    split, source: str [N]. rows: int64 [N], the row of each face in the packed files.
    """

    chips: npt.NDArray[np.uint8]
    identity: npt.NDArray[np.int64]
    family: npt.NDArray[np.int64]
    split: npt.NDArray[np.str_]
    source: npt.NDArray[np.str_]
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Copies the chips of these members (positions in this set), uint8 [len(index), 112, 112, 3]."""
        return np.asarray(self.chips[self.rows[index]])

    def where(self, mask: npt.NDArray[np.bool_]) -> FaceSet:
        """The members for which ``mask`` (bool [N]) holds; the chips are shared, not copied."""
        return FaceSet(
            self.chips, self.identity[mask], self.family[mask], self.split[mask], self.source[mask], self.rows[mask]
        )

    def of_split(self, split: str) -> FaceSet:
        """The members of one split. Raises ValueError if there are none."""
        mask = self.split == split
        if not mask.any():
            raise ValueError(f"no faces in split {split!r}; this set has {sorted(set(self.split.tolist()))}")
        return self.where(mask)


def codes(names: list[str]) -> npt.NDArray[np.int64]:
    """Numbers for names, int64 [N], in the order of the sorted names; the empty name is ``UNLABELLED``."""
    number = {name: i for i, name in enumerate(sorted({n for n in names if n}))}
    return np.array([number.get(name, UNLABELLED) for name in names], dtype=np.int64)


def write_table(directory: Path, columns: dict[str, list[str]]) -> None:
    """Writes the table beside the chips: ``identity``, ``family``, ``split`` and ``source``, one string a face.

    What a teacher said of the faces that were there before is removed.
    """
    for stale in directory.glob("teacher-*.npy"):
        stale.unlink()
    pq.write_table(pa.table(columns), directory / TABLE_FILE)


def load_face_set(directory: Path) -> FaceSet:
    """Opens a packed set without reading the pixels.

    Raises FileNotFoundError where ``directory`` was not written by ``model.prepare``, ValueError where it was
    interrupted and chips and table are not of one set.
    """
    if not (directory / TABLE_FILE).is_file() or not (directory / CHIPS_FILE).is_file():
        raise FileNotFoundError(f"{directory} holds no packed faces; write them with `python -m model.prepare`")
    table = pq.read_table(directory / TABLE_FILE)
    chips = np.load(directory / CHIPS_FILE, mmap_mode="r")
    if len(chips) != len(table):
        raise ValueError(
            f"{directory} has {len(chips)} chips and labels of {len(table)}; write both with `python -m model.prepare`"
        )
    return FaceSet(
        chips=chips,
        identity=codes(table["identity"].to_pylist()),
        family=codes(table["family"].to_pylist()),
        split=np.array(table["split"].to_pylist()),
        source=np.array(table["source"].to_pylist()),
        rows=np.arange(len(chips), dtype=np.int64),
    )
