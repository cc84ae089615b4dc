"""Packed aligned faces: one uint8 memory map of chips and one table of what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

CHIPS_FILE = "chips.npy"
TABLE_FILE = "faces.parquet"
CHIP_SIDE = 112
UNLABELLED = -1
SIDE_COLUMN = "face_pixels"


class Chips(Protocol):
    """Packed chips by row: a memory map, or several one after the other."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: npt.NDArray[np.int64], /) -> npt.NDArray[np.uint8]: ...


class JoinedChips:
    """Several packed files as if they were one."""

    def __init__(self, parts: Sequence[Chips]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, rows: npt.NDArray[np.int64], /) -> npt.NDArray[np.uint8]:
        """Copies of these rows, uint8 [len(rows), 112, 112, 3]."""
        chips = np.empty((len(rows), CHIP_SIDE, CHIP_SIDE, 3), dtype=np.uint8)
        owner = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(owner):
            chosen = owner == number
            start = self._ends[number] - len(self._parts[number])
            chips[chosen] = self._parts[number][rows[chosen] - start]
        return chips


@dataclass(frozen=True, slots=True)
class FaceSet:
    """Aligned faces and their labels, row by row.

    chips: uint8 [N, 112, 112, 3], RGB. identity, family: int64 [N], ``UNLABELLED`` where unknown.
    split, source: str [N]. face_side: float32 [N], of the face in the photograph, pixels; NaN where unknown.
    rows: int64 [N], the row of each face in the packed files. finished: bool [N], whether a picture is to be shown as
    it is, because a teacher judged it so.
    """

    chips: Chips
    identity: npt.NDArray[np.int64]
    family: npt.NDArray[np.int64]
    split: npt.NDArray[np.str_]
    source: npt.NDArray[np.str_]
    face_side: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    finished: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Copies the chips of these members (positions in this set), uint8 [len(index), 112, 112, 3]."""
        return np.asarray(self.chips[self.rows[index]])

    def where(self, mask: npt.NDArray[np.bool_]) -> FaceSet:
        """The members for which ``mask`` (bool [N]) holds; the chips are shared, not copied."""
        return FaceSet(
            chips=self.chips,
            identity=self.identity[mask],
            family=self.family[mask],
            split=self.split[mask],
            source=self.source[mask],
            face_side=self.face_side[mask],
            rows=self.rows[mask],
            finished=self.finished[mask],
        )

    def of_split(self, split: str) -> FaceSet:
        """The members of one split. Raises ValueError if there are none."""
        mask = self.split == split
        if not mask.any():
            raise ValueError(f"no faces in split {split!r}; this set has {sorted(set(self.split.tolist()))}")
        return self.where(mask)


def join(first: FaceSet, others: Sequence[FaceSet]) -> FaceSet:
    """The faces of all sets; those of ``others`` are unlabelled and finished, such as ``model.views`` makes."""
    starts = np.cumsum([len(s.chips) for s in (first, *others)])
    unknown = [np.full(len(s), UNLABELLED) for s in others]
    return FaceSet(
        chips=JoinedChips([s.chips for s in (first, *others)]),
        identity=np.concatenate([first.identity, *unknown]),
        family=np.concatenate([first.family, *unknown]),
        split=np.concatenate([s.split for s in (first, *others)]),
        source=np.concatenate([s.source for s in (first, *others)]),
        face_side=np.concatenate([s.face_side for s in (first, *others)]),
        rows=np.concatenate([first.rows, *(s.rows + start for s, start in zip(others, starts, strict=False))]),
        finished=np.concatenate([first.finished, *(np.ones(len(s), dtype=np.bool_) for s in others)]),
    )


def codes(names: list[str]) -> npt.NDArray[np.int64]:
    """Numbers for names, int64 [N], in the order of the sorted names; the empty name is ``UNLABELLED``."""
    number = {name: i for i, name in enumerate(sorted({n for n in names if n}))}
    return np.array([number.get(name, UNLABELLED) for name in names], dtype=np.int64)


def begin_packing(directory: Path) -> None:
    """Makes the folder and removes the table and the teacher's words that belong to the faces that were there.

    Chips are written next and the table last, so that a folder whose writing was interrupted has no table.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for stale in (directory / TABLE_FILE, *directory.glob("teacher-*.npy")):
        stale.unlink(missing_ok=True)


def write_table(directory: Path, columns: dict[str, list[str]], face_side: Sequence[float] | None = None) -> None:
    """Writes the table beside the chips: ``identity``, ``family``, ``split`` and ``source``, one string a face.

    face_side: see ``FaceSet``; None where it is unknown of all.
    """
    sides = {} if face_side is None else {SIDE_COLUMN: pa.array(face_side, pa.float32())}
    pq.write_table(pa.table({**columns, **sides}), directory / TABLE_FILE)


def load_face_set(directory: Path) -> FaceSet:
    """Opens a packed set without reading the pixels.

    Raises FileNotFoundError where ``directory`` was not written by ``model.prepare``, or not to the end; ValueError
    where chips and table are not of one set, or somebody is both trained on and held out.
    """
    if not (directory / TABLE_FILE).is_file() or not (directory / CHIPS_FILE).is_file():
        raise FileNotFoundError(f"{directory} holds no packed faces; write them with `python -m model.prepare`")
    table = pq.read_table(directory / TABLE_FILE)
    chips = np.load(directory / CHIPS_FILE, mmap_mode="r")
    if len(chips) != len(table):
        raise ValueError(
            f"{directory} has {len(chips)} chips and labels of {len(table)}; write both with `python -m model.prepare`"
        )
    people = {
        split: set(table.filter(pc.equal(table["split"], split))["identity"].to_pylist()) - {""}
        for split in ("train", "heldout")
    }
    both = sorted(people["train"] & people["heldout"])
    if both:
        raise ValueError(
            f"{len(both)} identities of {directory} are in both splits, such as {both[0]!r}; "
            "an encoder must not be measured on people whom it was trained on"
        )
    return FaceSet(
        chips=chips,
        identity=codes(table["identity"].to_pylist()),
        family=codes(table["family"].to_pylist()),
        split=np.array(table["split"].to_pylist()),
        source=np.array(table["source"].to_pylist()),
        face_side=_sides(table),
        rows=np.arange(len(chips), dtype=np.int64),
        finished=np.zeros(len(chips), dtype=np.bool_),
    )


def _sides(table: pa.Table) -> npt.NDArray[np.float32]:
    if SIDE_COLUMN not in table.column_names:
        return np.full(len(table), np.nan, dtype=np.float32)
    return np.array(table[SIDE_COLUMN].to_pylist(), dtype=np.float32)
