"""Packed aligned faces: a uint8 memory map of chips and a table of their labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

CHIPS_FILE = "chips.npy"
TABLE_FILE = "faces.parquet"
CHIP_SIDE = 112
UNLABELLED = -1
SIDE_COLUMN = "face_pixels"
LABEL_COLUMNS = ("identity", "split", "source", "family", "origin", "sex", "age")
"""Text columns a table may have; only the first three are required."""


class Chips(Protocol):
    """Packed chips by row: one memory map, or several concatenated."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: npt.NDArray[np.int64], /) -> npt.NDArray[np.uint8]: ...


class JoinedChips:
    """Several packed files read as one."""

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
    split, source, origin, sex, age: str [N]; the last three are empty where the source does not give them.
    face_side: float32 [N], side of the face in the photograph, pixels; NaN where unknown.
    rows: int64 [N], row of each face in the packed files. finished: bool [N], whether an image must be shown
    without augmentation, because the teacher's embedding is of exactly this image.
    """

    chips: Chips
    identity: npt.NDArray[np.int64]
    family: npt.NDArray[np.int64]
    split: npt.NDArray[np.str_]
    source: npt.NDArray[np.str_]
    origin: npt.NDArray[np.str_]
    sex: npt.NDArray[np.str_]
    age: npt.NDArray[np.str_]
    face_side: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    finished: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Copies the chips of these members (positions in this set), uint8 [len(index), 112, 112, 3]."""
        return np.asarray(self.chips[self.rows[index]])

    def where(self, mask: npt.NDArray[np.bool_]) -> FaceSet:
        """The members for which ``mask`` (bool [N]) is true; the chips are shared, not copied."""
        columns = (field.name for field in fields(self) if field.name != "chips")
        return replace(self, **{name: getattr(self, name)[mask] for name in columns})

    def of_split(self, split: str) -> FaceSet:
        """The members of one split. Raises ValueError if there are none."""
        mask = self.split == split
        if not mask.any():
            raise ValueError(f"no faces in split {split!r}; this set has {sorted(set(self.split.tolist()))}")
        return self.where(mask)


def join(first: FaceSet, others: Sequence[FaceSet]) -> FaceSet:
    """The faces of all sets; ``others`` count as unlabelled and finished, like those of ``model.data.composites``."""
    sets = (first, *others)
    starts = np.cumsum([0, *(len(s.chips) for s in sets)])
    unknown = [np.full(len(s), UNLABELLED) for s in others]

    def texts(name: str) -> npt.NDArray[np.str_]:
        return np.concatenate([getattr(s, name) for s in sets])

    return FaceSet(
        chips=JoinedChips([s.chips for s in sets]),
        identity=np.concatenate([first.identity, *unknown]),
        family=np.concatenate([first.family, *unknown]),
        split=texts("split"),
        source=texts("source"),
        origin=texts("origin"),
        sex=texts("sex"),
        age=texts("age"),
        face_side=np.concatenate([s.face_side for s in sets]),
        rows=np.concatenate([s.rows + start for s, start in zip(sets, starts, strict=False)]),
        finished=np.concatenate([first.finished, *(np.ones(len(s), dtype=np.bool_) for s in others)]),
    )


def codes(names: list[str]) -> npt.NDArray[np.int64]:
    """Numbers names in sorted order, int64 [N]; the empty name is ``UNLABELLED``."""
    number = {name: i for i, name in enumerate(sorted({n for n in names if n}))}
    return np.array([number.get(name, UNLABELLED) for name in names], dtype=np.int64)


def new_array(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A new ``.npy`` file, mapped into memory to be filled.

    All its space is taken at once. Raises OSError where the disk has too little: writing to the map would end the
    process without a word.
    """
    try:
        array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    return array


def begin_packing(directory: Path) -> None:
    """Makes the folder and removes the table and cached teacher embeddings of any earlier set.

    Chips are written next and the table last, so an interrupted write leaves no table.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for stale in (directory / TABLE_FILE, *directory.glob("teacher-*.npy")):
        stale.unlink(missing_ok=True)


def write_table(directory: Path, columns: dict[str, list[str]], face_side: Sequence[float] | None = None) -> None:
    """Writes the table next to the chips: some or all of ``LABEL_COLUMNS``, one string per face.

    face_side: see ``FaceSet``; None if unknown for every face.
    """
    sides = {} if face_side is None else {SIDE_COLUMN: pa.array(face_side, pa.float32())}
    pq.write_table(pa.table({**columns, **sides}), directory / TABLE_FILE)


def load_face_set(directory: Path) -> FaceSet:
    """Opens a packed set without reading the pixels.

    Raises FileNotFoundError where ``model.data.prepare`` did not write ``directory``, or not completely; ValueError
    where chips and table do not match, or an identity is in two splits.
    """
    if not (directory / TABLE_FILE).is_file() or not (directory / CHIPS_FILE).is_file():
        raise FileNotFoundError(f"{directory} holds no packed faces; write them with `python -m model.data.prepare`")
    table = pq.read_table(directory / TABLE_FILE)
    chips = np.load(directory / CHIPS_FILE, mmap_mode="r")
    if len(chips) != len(table):
        raise ValueError(
            f"{directory} has {len(chips)} chips and labels of {len(table)}; write both with "
            "`python -m model.data.prepare`"
        )

    def texts(name: str) -> list[str]:
        return table[name].to_pylist() if name in table.column_names else [""] * len(table)

    identity, split = texts("identity"), texts("split")
    people: dict[str, set[str]] = {}
    for name, part in zip(identity, split, strict=True):
        people.setdefault(part, set()).add(name)
    for first, second in combinations(sorted(people), 2):
        both = sorted((people[first] & people[second]) - {""})
        if both:
            raise ValueError(
                f"{len(both)} identities of {directory} are in both splits {first!r} and {second!r}, such as "
                f"{both[0]!r}; an encoder must not be measured on people whom it was trained on"
            )
    return FaceSet(
        chips=chips,
        identity=codes(identity),
        family=codes(texts("family")),
        split=np.array(split),
        source=np.array(texts("source")),
        origin=np.array(texts("origin")),
        sex=np.array(texts("sex")),
        age=np.array(texts("age")),
        face_side=_sides(table),
        rows=np.arange(len(chips), dtype=np.int64),
        finished=np.zeros(len(chips), dtype=np.bool_),
    )


def _sides(table: pa.Table) -> npt.NDArray[np.float32]:
    if SIDE_COLUMN not in table.column_names:
        return np.full(len(table), np.nan, dtype=np.float32)
    return np.array(table[SIDE_COLUMN].to_pylist(), dtype=np.float32)
