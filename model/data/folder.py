"""A folder of photographs, one sub-folder a person -> packed faces."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.errors import TesseraError
from app.faces import AlignedFace, FaceFinder, FacePolicy, MultipleFacesError, NoFaceError, YunetDetector
from app.faces.quality import QualityIssue, QualityLimits
from model.commands import StoppedError
from model.data.face_set import CHIP_SIDE, CHIPS_FILE
from model.data.left_out import LeftOut, Reason

MIN_EYE_DISTANCE = QualityLimits().min_eye_distance


@dataclass(frozen=True, slots=True)
class Cut:
    """The result for one photograph: its face, or why there is none."""

    path: Path
    face: AlignedFace | None
    reason: Reason = Reason.UNREADABLE
    detail: str = ""


def list_photographs(folder: Path) -> list[Path]:
    """The files in every sub-folder, sorted, without hidden ones; links that lead nowhere are among them.

    Raises StoppedError where the name of a person's folder is not UTF-8, which no table of identities can hold.
    """
    found = sorted(p for p in folder.glob("[!.]*/[!.]*") if p.is_file() or (p.is_symlink() and not p.exists()))
    for person in dict.fromkeys(p.parent.name for p in found):
        try:
            person.encode()
        except UnicodeEncodeError:
            raise StoppedError(f"the name of the folder {person!r} is not UTF-8: rename it") from None
    return found


def count_elsewhere(folder: Path) -> int:
    """How many files lie outside every person's folder, or deeper than that; they are not used."""
    return sum(1 for p in folder.glob("[!.]*") if p.is_file()) + sum(
        1 for p in folder.glob("[!.]*/[!.]*/**/[!.]*") if p.is_file()
    )


def cut_faces(
    photographs: Iterable[Path], policy: FacePolicy, min_eye_distance: float = MIN_EYE_DISTANCE
) -> Iterator[Cut]:
    """Cuts one face from each photograph, exactly as the service does; results keep the order of the input."""
    finder = FaceFinder(YunetDetector(), quality_limits=QualityLimits(min_eye_distance=min_eye_distance))

    def cut(path: Path) -> Cut:
        try:
            face = finder.find(path.read_bytes(), policy).faces[0]
        except NoFaceError:
            return Cut(path, None, Reason.NO_FACE, "No face was found.")
        except MultipleFacesError:
            which = "none clearly the largest" if policy is FacePolicy.DOMINANT else "where one is wanted"
            return Cut(path, None, Reason.SEVERAL_FACES, f"Several faces, {which}: crop it or choose another --policy.")
        except TesseraError as error:
            return Cut(path, None, Reason.UNREADABLE, error.message)
        except OSError as error:
            return Cut(path, None, Reason.UNREADABLE, error.strerror or str(error))
        if QualityIssue.FACE_TOO_SMALL in face.quality.issues:
            detail = f"{face.quality.eye_distance:.0f} pixels between the eyes, {min_eye_distance:g} at least"
            return Cut(path, None, Reason.TOO_SMALL, detail)
        return Cut(path, face)

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


@dataclass(slots=True)
class Packer:
    """Packs what was cut: each photograph once, and none that lies in the folders of two people.

    One face in two photographs, to the last bit, is one photograph. ``identity`` and ``sides`` are for
    ``write_table``.
    """

    source: Path
    out: Path
    identity: list[str] = field(default_factory=list)
    sides: list[float] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    _paths: list[Path] = field(default_factory=list)
    _rows: dict[bytes, int] = field(default_factory=dict)
    _disputed: dict[int, Path] = field(default_factory=dict)

    def pack(self, cuts: Iterable[Cut]) -> None:
        """Writes the chips and fills the lists."""
        writer = ChipWriter(self.out / CHIPS_FILE)
        for cut in cuts:
            path = cut.path.relative_to(self.source)
            if cut.face is None:
                self.left_out.append(LeftOut(path, cut.reason, cut.detail))
                continue
            earlier = self._rows.setdefault(hashlib.sha256(cut.face.chip.tobytes()).digest(), writer.count)
            if earlier < writer.count:
                self._repeated(path, earlier)
                continue
            writer.append(cut.face.chip)
            self._paths.append(path)
            self.identity.append(path.parent.name)
            self.sides.append(cut.face.detected.box.side)
        writer.close()
        if self._disputed:
            self._drop_disputed()

    def _repeated(self, path: Path, row: int) -> None:
        first = self._paths[row]
        if first.parent == path.parent:
            self.left_out.append(LeftOut(path, Reason.DUPLICATE, f"the same as {first}"))
            return
        self._disputed.setdefault(row, path)
        self.left_out.append(LeftOut(path, Reason.TWO_NAMES, f"the same as {first}: whose is it?"))

    def _drop_disputed(self) -> None:
        path = self.out / CHIPS_FILE
        part, chips = path.with_suffix(".part"), np.load(path, mmap_mode="r")
        writer = ChipWriter(part)
        for row in range(len(chips)):
            if row not in self._disputed:
                writer.append(chips[row])
        writer.close()
        part.replace(path)
        for row, other in sorted(self._disputed.items(), reverse=True):
            self.left_out.append(LeftOut(self._paths[row], Reason.TWO_NAMES, f"the same as {other}: whose is it?"))
            for column in (self.identity, self.sides, self._paths):
                column.pop(row)
