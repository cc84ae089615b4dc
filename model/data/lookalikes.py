"""Pairs of faces that are labelled as two people but look like one, to be judged by eye.

Faces of strangers measure false matches. If one person appears under two labels, a correct match counts as a false one,
and the lowest rates are far off. So the nearest pairs are judged once, by eye, and the verdicts are kept in
``model/data/verdicts.csv``, keyed by digests of the chips.

    python -m model.data.lookalikes sheets runs/faces EMBEDDINGS.npy runs/lookalikes --per-group 60
    python -m model.data.lookalikes record runs/lookalikes/pairs.csv
    python -m model.data.lookalikes shares runs/lookalikes/pairs.csv

``sheets`` draws the pairs and lists them in ``pairs.csv``; write a verdict into its last column; ``record`` adds those
to the stored verdicts; ``shares`` counts how many of the nearest pairs are one person.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image, ImageDraw, ImageFont
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from model import commands
from model.data.face_set import UNLABELLED, FaceSet, load_face_set

VERDICTS_FILE = Path(__file__).parent / "verdicts.csv"
VERDICT_COLUMNS = ("first", "second", "group", "verdict")
PAIRS_FILE = "pairs.csv"
STRANGER_SPLITS = ("impostor", "calibrate")
SAME_ORIGIN = {"India-India": "Indian", "South Asian": "Indian", "East Asian": "Asian", "Southeast Asian": "Asian"}
"""One name for origins that the sources call differently."""
ADULT = 18
DIGEST_LENGTH = 16
RANKS = (10, 20, 40, 60)
BATCH = 1024

app = typer.Typer(help=__doc__, no_args_is_help=True)

Identities = npt.NDArray[np.int64]
Pair = frozenset[str]
"""The digests of two faces, unordered."""


class Verdict(StrEnum):
    """What the reviewer saw: one person, two people, or undecided."""

    SAME = "same"
    DIFFERENT = "different"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two faces labelled as different people, by position in a face set; ``similarity`` is the cosine."""

    first: int
    second: int
    similarity: float


def digest(chip: npt.NDArray[np.uint8]) -> str:
    """Name of a chip: the first 16 hex digits of the SHA-256 of its bytes, uint8 [H, W, 3] in row order."""
    return hashlib.sha256(np.ascontiguousarray(chip).tobytes()).hexdigest()[:DIGEST_LENGTH]


def read_verdicts(path: Path) -> dict[Pair, Verdict]:
    """The verdict on each judged pair.

    Raises ValueError where a verdict is not a ``Verdict``, a face is paired with itself, or a pair occurs twice.
    """
    verdicts: dict[Pair, Verdict] = {}
    for row in _read_rows(path):
        pair = frozenset((row["first"], row["second"]))
        if len(pair) != 2:
            raise ValueError(f"{path} pairs {row['first']} with itself")
        if pair in verdicts:
            raise ValueError(f"{path} judges {row['first']} and {row['second']} twice")
        verdicts[pair] = Verdict(row["verdict"])
    return verdicts


def merge_same_people(faces: FaceSet, verdicts: dict[Pair, Verdict]) -> Identities:
    """A number for every face, int64 [N], equal for all faces of one person.

    Faces of one identity share a number, and so do all faces of two identities if a pair of them was judged to be the
    same person; an unlabelled face that no verdict links has a number of its own. Verdicts on faces outside this set
    are ignored. Reads the pixels of every face.
    """
    person = _people(faces)
    judged = {name for pair in verdicts for name in pair}
    seen: dict[str, list[int]] = {}
    for position, name in enumerate(_digests(faces)):
        if name in judged:
            seen.setdefault(name, []).append(position)
    links: list[tuple[int, int]] = []
    for pair, verdict in verdicts.items():
        if verdict is Verdict.SAME:
            first, second = pair
            links.extend((person[a], person[b]) for a in seen.get(first, ()) for b in seen.get(second, ()))
    ends = np.array(links, dtype=np.int64).reshape(-1, 2)
    count = int(person.max(initial=UNLABELLED)) + 1
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    merged = np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)
    return merged[person]


def lowest_age(age: str) -> int | None:
    """The lowest age a label allows: 20 for "20-29", 70 for "more than 70"; None for an empty label."""
    digits = age.removeprefix("more than ").split("-")[0]
    return int(digits) if digits.isdigit() else None


def groups(faces: FaceSet) -> dict[str, npt.NDArray[np.int64]]:
    """Positions of the adult strangers of each origin and sex, by name; of each origin where no sex is given."""
    members: dict[str, list[int]] = {}
    for position in np.flatnonzero(np.isin(faces.split, STRANGER_SPLITS)):
        age = lowest_age(str(faces.age[position]))
        if age is not None and age < ADULT:
            continue
        origin, sex = str(faces.origin[position]), str(faces.sex[position])
        members.setdefault(f"{SAME_ORIGIN.get(origin, origin)} {sex}".strip(), []).append(int(position))
    return {name: np.array(members[name], dtype=np.int64) for name in sorted(members)}


def nearest_pairs(vectors: npt.NDArray[np.float32], person: Identities, count: int) -> list[NearPair]:
    """The nearest faces of the ``count`` closest pairs of people, nearest first.

    vectors: unit-length [N, D]. person: int64 [N]. Each pair of people is listed once, by their nearest faces, so that
    one person under two names does not fill the list. Takes 4 N^2 bytes.
    """
    order = np.argsort(person, kind="stable")
    starts = np.flatnonzero(np.diff(person[order], prepend=UNLABELLED - 1))
    similarity = vectors[order] @ vectors[order].T
    nearest = np.maximum.reduceat(np.maximum.reduceat(similarity, starts, axis=0), starts, axis=1)
    one, other = np.triu_indices(len(starts), k=1)
    values = nearest[one, other]
    ends = np.append(starts, len(order))[1:]
    pairs = []
    for chosen in np.argsort(-values, kind="stable")[:count]:
        a, b = one[chosen], other[chosen]
        block = similarity[starts[a] : ends[a], starts[b] : ends[b]]
        row, column = np.unravel_index(int(block.argmax()), block.shape)
        pairs.append(NearPair(int(order[starts[a] + row]), int(order[starts[b] + column]), float(values[chosen])))
    return pairs


def draw_sheet(
    faces: FaceSet, pairs: list[NearPair], first_number: int = 1, columns: int = 5, side: int = 140
) -> Image.Image:
    """Pairs side by side, ``columns`` per row, each with its number and similarity above; ``side`` in pixels."""
    caption, gap = 18, 14
    width, height = 2 * side + gap, side + caption + 4
    sheet = Image.new("RGB", (columns * width, -(-len(pairs) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for place, pair in enumerate(pairs):
        left, top = place % columns * width, place // columns * height
        draw.text((left, top), f"{first_number + place}   {pair.similarity:.3f}", "black", font)
        for number, chip in enumerate(faces.images(np.array([pair.first, pair.second]))):
            picture = Image.fromarray(chip).resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(picture, (left + number * side, top + caption))
    return sheet


def share_of_same(verdicts: list[Verdict | None], rank: int) -> tuple[float, float] | None:
    """Lower and upper bound for the share of the first ``rank`` pairs that are one person.

    verdicts: of pairs, nearest first, None where not yet judged. The lower bound counts the pairs that are certainly
    one person; the upper bound adds the undecided ones. None unless all of them were judged.
    """
    first = verdicts[:rank]
    if len(first) < rank or None in first:
        return None
    same = first.count(Verdict.SAME)
    return same / rank, (same + first.count(Verdict.UNSURE)) / rank


@app.command()
def sheets(
    faces_dir: Annotated[Path, typer.Argument(metavar="FACES", help="folder written by model.data.prepare")],
    embeddings: Annotated[Path, typer.Argument(help=".npy file of their embeddings, one row a packed face")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    per_group: Annotated[int, typer.Option(min=1, help="pairs to list of each group")] = 60,
    per_sheet: Annotated[int, typer.Option(min=1, help="pairs on a sheet")] = 40,
    columns: Annotated[int, typer.Option(min=1, help="pairs in a row of a sheet")] = 5,
    side: Annotated[int, typer.Option(min=1, help="side of a face on the sheet, pixels")] = 140,
) -> None:
    """Draw the nearest pairs of different people in every group, and list them."""
    faces = load_face_set(faces_dir)
    vectors = np.load(embeddings, mmap_mode="r")
    if len(vectors) != len(faces):
        raise typer.BadParameter(f"{len(vectors)} embeddings of {len(faces)} faces")
    person = _people(faces)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for name, members in groups(faces).items():
        own = np.asarray(vectors[members], dtype=np.float32)
        own /= np.linalg.norm(own, axis=1, keepdims=True)
        mask = np.zeros(len(faces), dtype=np.bool_)
        mask[members] = True
        group = faces.where(mask)
        pairs = nearest_pairs(own, person[members], per_group)
        for number, start in enumerate(range(0, len(pairs), per_sheet), start=1):
            sheet = draw_sheet(group, pairs[start : start + per_sheet], start + 1, columns, side)
            sheet.save(out / f"{name.lower().replace(' ', '-')}-{number}.png")
        for number, pair in enumerate(pairs, start=1):
            first, second = (digest(chip) for chip in group.images(np.array([pair.first, pair.second])))
            row = {"number": str(number), "similarity": f"{pair.similarity:.4f}"}
            rows.append({**row, "first": first, "second": second, "group": name, "verdict": ""})
        typer.echo(f"{name}: {len(members)} faces, {len(pairs)} pairs")
    _write_rows(out / PAIRS_FILE, ("number", "similarity", *VERDICT_COLUMNS), rows)


@app.command()
def record(
    pairs: Annotated[Path, typer.Argument(help="pairs.csv of `sheets` with verdicts in its last column")],
    verdicts: Annotated[Path, typer.Option(help="file to add them to")] = VERDICTS_FILE,
) -> None:
    """Add the judged pairs to the stored verdicts; a new verdict on a pair replaces the old one."""
    kept: dict[Pair, dict[str, str]] = {}
    for path in (verdicts, pairs):
        for row in _read_rows(path) if path.exists() else ():
            if row["verdict"]:
                first, second = sorted((row["first"], row["second"]))
                judged = {"group": row["group"], "verdict": Verdict(row["verdict"]).value}
                kept[frozenset((first, second))] = {"first": first, "second": second, **judged}
    _write_rows(verdicts, VERDICT_COLUMNS, sorted(kept.values(), key=lambda row: (row["first"], row["second"])))
    typer.echo(f"{verdicts}: {len(kept)} pairs")


@app.command()
def shares(
    pairs: Annotated[Path, typer.Argument(help="pairs.csv of `sheets`")],
    verdicts: Annotated[Path, typer.Option(help="the judged pairs")] = VERDICTS_FILE,
) -> None:
    """Print what share of each group's nearest pairs is one person: certainly, and at most."""
    judged = read_verdicts(verdicts)
    found: dict[str, list[Verdict | None]] = {}
    for row in _read_rows(pairs):
        found.setdefault(row["group"], []).append(judged.get(frozenset((row["first"], row["second"]))))
    typer.echo("| group | judged | same | unsure | " + " | ".join(f"same of first {rank}" for rank in RANKS) + " |")
    typer.echo("|---" * (4 + len(RANKS)) + "|")
    for name, seen in found.items():
        counts = (sum(v is not None for v in seen), seen.count(Verdict.SAME), seen.count(Verdict.UNSURE))
        bounds = (share_of_same(seen, rank) for rank in RANKS)
        cells = ("" if bound is None else f"{bound[0]:.0%} to {bound[1]:.0%}" for bound in bounds)
        typer.echo("| " + " | ".join([name, *map(str, counts), *cells]) + " |")


def _people(faces: FaceSet) -> Identities:
    """The identity of each face, int64 [N]; unlabelled faces are numbered after the labelled ones."""
    person = faces.identity.copy()
    unlabelled = np.flatnonzero(person == UNLABELLED)
    person[unlabelled] = person.max(initial=UNLABELLED) + 1 + np.arange(len(unlabelled))
    return person


def _digests(faces: FaceSet) -> Iterator[str]:
    for start in range(0, len(faces), BATCH):
        yield from map(digest, faces.images(np.arange(start, min(start + BATCH, len(faces)))))


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write_rows(path: Path, columns: tuple[str, ...], rows: Iterable[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    commands.run(app)
