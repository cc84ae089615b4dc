"""Images synthesised from chips for distillation: augmented faces, blends of two, and faces with swapped parts.

    python -m model.data.composites runs/faces runs/views --augmented 60000 --blends 30000 --swaps 20000
    python -m model.training.teacher runs/views
    python -m model.training.train RECIPE --faces runs/faces --composites runs/views --out runs/NAME

A student learns more when it sees exactly the image its teacher saw than from the teacher's embedding of the clean face
(Beyer et al. 2022, arXiv 2106.05237), and any face-like image will do: blends (mixup, Zhang et al. 2018, arXiv
1710.09412) and swapped parts (Hu et al. 2016, arXiv 1603.06470) are people who do not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer

from model.commands import run
from model.data.augmentation import Augmentation, augment
from model.data.face_set import CHIP_SIDE, CHIPS_FILE, FaceSet, begin_packing, load_face_set, new_array, write_table

Images = npt.NDArray[np.uint8]

BANDS = ((30, 62), (50, 80), (78, 112))
"""Rows of a chip that hold eyes and brows, nose, mouth and chin, by the alignment template."""

FEATHER = 5
BATCH = 256


def blend(first: Images, second: Images, rng: np.random.Generator) -> Images:
    """The weighted mean of two faces, 30 to 70 % of each; uint8 [N, 112, 112, 3]."""
    share = rng.uniform(0.3, 0.7, (len(first), 1, 1, 1))
    return np.asarray(first * share + second * (1 - share) + 0.5, dtype=np.uint8)


def swap_parts(first: Images, second: Images, rng: np.random.Generator) -> Images:
    """The first face with the eyes, nose or mouth of the second; uint8 [N, 112, 112, 3]. Seams are feathered."""
    rows = np.arange(CHIP_SIDE)
    masks = []
    for top, bottom in BANDS:
        inside = np.minimum(rows - top, bottom - rows) if bottom < CHIP_SIDE else rows - top
        masks.append(np.clip(inside / FEATHER, 0, 1))
    share = np.stack(masks)[rng.integers(len(BANDS), size=len(first))][:, :, None, None]
    return np.asarray(first * (1 - share) + second * share + 0.5, dtype=np.uint8)


def _augmented(faces: FaceSet, index: npt.NDArray[np.int64], seed: int) -> Images:
    chips = torch.from_numpy(faces.images(index))
    changed = augment(chips, Augmentation(), torch.Generator().manual_seed(seed))
    return changed.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).numpy()


def make_composites(faces: FaceSet, out: Path, *, augmented: int, blends: int, swaps: int, seed: int) -> None:
    """Writes a packed set of unlabelled training faces; the same arguments give the same pixels.

    Every face is augmented once before any is augmented again. Raises ValueError if all counts are zero.
    """
    kinds: list[tuple[str, int, Callable[[Images, Images, np.random.Generator], Images] | None]] = [
        ("augmented", augmented, None),
        ("blend", blends, blend),
        ("swap", swaps, swap_parts),
    ]
    total = augmented + blends + swaps
    if total <= 0:
        raise ValueError("nothing to make: give --augmented, --blends or --swaps")
    begin_packing(out)
    shape = (total, CHIP_SIDE, CHIP_SIDE, 3)
    chips = new_array(out / CHIPS_FILE, np.uint8, shape)
    position, sources = 0, list[str]()
    for number, (name, count, compose) in enumerate(kinds):
        rng = np.random.default_rng([seed, number])
        rounds = [rng.permutation(len(faces)) for _ in range(-(-count // len(faces)))]
        order = np.concatenate([*rounds, np.empty(0, dtype=np.int64)])[:count]
        for start in range(0, count, BATCH):
            index = order[start : start + BATCH]
            if compose is None:
                made = _augmented(faces, index, int(rng.integers(2**62)))
            else:
                made = compose(faces.images(index), faces.images(rng.integers(len(faces), size=len(index))), rng)
            chips[position : position + len(index)] = made
            position += len(index)
        sources += [name] * count
    chips.flush()
    nobody = [""] * total
    write_table(out, {"identity": nobody, "split": ["train"] * total, "family": nobody, "source": sources})


def main(
    faces: Annotated[Path, typer.Argument(help="folder written by model.data.prepare")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    augmented: Annotated[int, typer.Option(help="augmented faces", min=0)] = 0,
    blends: Annotated[int, typer.Option(help="blends of two faces", min=0)] = 0,
    swaps: Annotated[int, typer.Option(help="faces with a part of another", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="start of the random numbers")] = 0,
) -> None:
    """Makes composites of the training faces; run model.training.teacher on them next."""
    if out.resolve() == faces.resolve():
        raise typer.BadParameter("the pictures need a folder of their own: these faces would be overwritten")
    members = load_face_set(faces).of_split("train")
    make_composites(members, out, augmented=augmented, blends=blends, swaps=swaps, seed=seed)


if __name__ == "__main__":
    run(main)
