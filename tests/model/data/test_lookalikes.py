from __future__ import annotations

import csv
import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.model.support import make_chips, unit_vectors

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

from model.data.face_set import CHIPS_FILE, UNLABELLED, FaceSet, load_face_set, write_table
from model.data.lookalikes import (
    PAIRS_FILE,
    VERDICT_COLUMNS,
    VERDICTS_FILE,
    Pair,
    Verdict,
    app,
    digest,
    groups,
    lowest_age,
    merge_same_people,
    nearest_pairs,
    read_verdicts,
    share_of_same,
)

IDENTITY = ["ann", "ann", "bea", "", "", "", "", ""]
SPLIT = ["calibrate"] * 3 + ["impostor"] * 5
ORIGIN = ["Asian", "Asian", "Asian", "East Asian", "Southeast Asian", "Asian", "India-India", "South Asian"]
SEX = ["female"] * 6 + ["", ""]
AGE = ["", "", "", "20-29", "more than 70", "10-19", "18", ""]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Eight faces, no two alike: two of ann, one of bea, and five of nobody known."""
    out = tmp_path / "faces"
    out.mkdir()
    np.save(out / CHIPS_FILE, make_chips(list(range(8))))
    columns = {"identity": IDENTITY, "split": SPLIT, "source": ["made up"] * 8}
    write_table(out, {**columns, "origin": ORIGIN, "sex": SEX, "age": AGE})
    return out


@pytest.fixture
def faces(directory: Path) -> FaceSet:
    return load_face_set(directory)


def pair_of(faces: FaceSet, first: int, second: int) -> Pair:
    return frozenset(digest(chip) for chip in faces.images(np.array([first, second])))


def write_verdicts(path: Path, *rows: tuple[str, str, str]) -> Path:
    lines = [",".join(VERDICT_COLUMNS), *(f"{first},{second},Asian,{verdict}" for first, second, verdict in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_digest_names_the_pixels_and_nothing_else() -> None:
    # head -c 37632 /dev/zero | sha256sum
    assert digest(np.zeros((112, 112, 3), dtype=np.uint8)) == "064472034d4d30ee"
    chip = make_chips([0])[0]
    assert digest(chip) == hashlib.sha256(chip.tobytes()).hexdigest()[:16]
    mirrored = chip[:, ::-1]
    assert digest(mirrored) == digest(mirrored.copy()) != digest(chip)


def test_verdicts_are_read_by_pair_in_either_order(tmp_path: Path) -> None:
    path = write_verdicts(tmp_path / "v.csv", ("a", "b", "same"), ("d", "c", "unsure"))
    assert read_verdicts(path) == {frozenset("ab"): Verdict.SAME, frozenset("cd"): Verdict.UNSURE}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "b", "same"), ("b", "a", "different")], "twice"),
        ([("a", "a", "same")], "pairs a with itself"),
        ([("a", "b", "perhaps")], "perhaps"),
    ],
)
def test_verdicts_that_contradict_or_say_nothing_are_refused(
    tmp_path: Path, rows: list[tuple[str, str, str]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_verdicts(write_verdicts(tmp_path / "v.csv", *rows))


def test_the_verdicts_of_the_repository_can_be_read_are_sorted_and_hold_no_pair_twice() -> None:
    rows = read_rows(VERDICTS_FILE)
    assert len(read_verdicts(VERDICTS_FILE)) == len(rows) > 0
    assert tuple(rows[0]) == VERDICT_COLUMNS
    keys = [(row["first"], row["second"]) for row in rows]
    assert all(first < second for first, second in keys)
    assert all(before < after for before, after in pairwise(keys))
    assert {len(name) for key in keys for name in key} == {16}


def test_without_verdicts_people_are_as_labelled_and_unlabelled_faces_apart(faces: FaceSet) -> None:
    people = merge_same_people(faces, {})
    assert people.dtype == np.int64
    assert people[0] == people[1]
    assert len(set(people.tolist())) == 7
    assert UNLABELLED not in people


def test_a_chain_of_verdicts_makes_one_person_of_all(faces: FaceSet) -> None:
    # bea is the third unlabelled face, and that one the fourth; so all three are one. ann stays two faces of her own.
    verdicts = {
        pair_of(faces, 2, 5): Verdict.SAME,
        pair_of(faces, 5, 6): Verdict.SAME,
        pair_of(faces, 3, 4): Verdict.DIFFERENT,
        pair_of(faces, 4, 7): Verdict.UNSURE,
        frozenset(("0" * 16, "1" * 16)): Verdict.SAME,
    }
    people = merge_same_people(faces, verdicts)
    assert people[2] == people[5] == people[6]
    assert people[0] == people[1]
    assert len(set(people.tolist())) == 5


def test_a_verdict_on_one_face_holds_for_the_whole_person(faces: FaceSet) -> None:
    people = merge_same_people(faces, {pair_of(faces, 1, 2): Verdict.SAME})
    assert people[0] == people[1] == people[2]
    assert len(set(people.tolist())) == 6


def test_verdicts_hold_in_a_part_of_the_faces(faces: FaceSet) -> None:
    verdicts = {pair_of(faces, 3, 4): Verdict.SAME, pair_of(faces, 0, 3): Verdict.SAME}
    people = merge_same_people(faces.of_split("impostor"), verdicts)
    assert people[0] == people[1]
    assert len(set(people.tolist())) == 4


@pytest.mark.parametrize(
    ("age", "lowest"), [("", None), ("26", 26), ("10-19", 10), ("more than 70", 70), ("masked", None)]
)
def test_an_age_counts_as_the_youngest_it_may_mean(age: str, lowest: int | None) -> None:
    assert lowest_age(age) == lowest


def test_groups_join_names_of_one_origin_and_leave_out_minors_and_other_splits(faces: FaceSet) -> None:
    # The sixth face is 10 to 19 years old.
    found = {name: members.tolist() for name, members in groups(faces).items()}
    assert found == {"Asian female": [0, 1, 2, 3, 4], "Indian": [6, 7]}
    faces.split[:] = "train"
    assert groups(faces) == {}


def nearest_by_loop(vectors: npt.NDArray[np.float32], person: list[int]) -> list[tuple[int, int, float]]:
    best: dict[tuple[int, int], tuple[int, int, float]] = {}
    for i in range(len(person)):
        for j in range(len(person)):
            if person[i] < person[j]:
                value = float(vectors[i] @ vectors[j])
                if value > best.get((person[i], person[j]), (0, 0, -2.0))[2]:
                    best[person[i], person[j]] = (i, j, value)
    return sorted(best.values(), key=lambda pair: -pair[2])


def test_nearest_pairs_are_those_of_a_loop_one_for_each_two_people() -> None:
    person = [3, 0, 3, 1, 0, 2, 3, 5]
    vectors = unit_vectors(8, 4)
    expected = nearest_by_loop(vectors, person)
    for count in (1, 4, len(expected), 100):
        pairs = nearest_pairs(vectors, np.array(person), count)
        assert [(p.first, p.second) for p in pairs] == [e[:2] for e in expected[:count]]
        assert [p.similarity for p in pairs] == pytest.approx([e[2] for e in expected[:count]], abs=1e-6)


def test_a_group_of_one_person_has_no_pairs() -> None:
    assert nearest_pairs(unit_vectors(3, 4), np.array([7, 7, 7]), 5) == []


def test_shares_are_bounds_and_only_of_what_was_judged() -> None:
    seen = [Verdict.SAME, Verdict.UNSURE, Verdict.DIFFERENT, Verdict.DIFFERENT, None]
    assert share_of_same(seen, 1) == (1.0, 1.0)
    assert share_of_same(seen, 4) == (0.25, 0.5)
    assert share_of_same(seen, 5) is None
    assert share_of_same(seen, 6) is None


def test_pairs_are_drawn_listed_judged_and_counted(directory: Path, tmp_path: Path) -> None:
    run, out, verdicts = CliRunner(), tmp_path / "sheets", tmp_path / "verdicts.csv"
    np.save(tmp_path / "embeddings.npy", 3 * unit_vectors(8).astype(np.float16))
    arguments = [str(directory), str(tmp_path / "embeddings.npy"), str(out), "--per-group", "4", "--per-sheet", "3"]
    result = run.invoke(app, ["sheets", *arguments], catch_exceptions=False)
    assert result.output.splitlines() == ["Asian female: 5 faces, 4 pairs", "Indian: 2 faces, 1 pairs"]
    assert sorted(path.name for path in out.glob("*.png")) == [
        "asian-female-1.png",
        "asian-female-2.png",
        "indian-1.png",
    ]
    with Image.open(out / "asian-female-1.png") as sheet:
        assert sheet.width >= 3 * 2 * 112
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 100
    rows = read_rows(out / PAIRS_FILE)
    assert [(row["group"], row["number"]) for row in rows] == [*(("Asian female", n) for n in "1234"), ("Indian", "1")]
    assert {row["verdict"] for row in rows} == {""}
    assert all(abs(float(row["similarity"])) <= 1 for row in rows)

    rows[0]["verdict"], rows[1]["verdict"], rows[4]["verdict"] = "different", "unsure", "same"
    for verdict in ("different", "same"):
        rows[0]["verdict"] = verdict
        with (out / PAIRS_FILE).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        arguments = [str(out / PAIRS_FILE), "--verdicts", str(verdicts)]
        assert run.invoke(app, ["record", *arguments], catch_exceptions=False).output.endswith("3 pairs\n")
    judged = read_verdicts(verdicts)
    assert judged[frozenset((rows[0]["first"], rows[0]["second"]))] is Verdict.SAME
    table = run.invoke(app, ["shares", *arguments], catch_exceptions=False).output
    assert "| Asian female | 2 | 1 | 1 |  |  |  |  |" in table
    assert "| Indian | 1 | 1 | 0 |  |  |  |  |" in table


def test_embeddings_of_other_faces_are_refused(directory: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "embeddings.npy", unit_vectors(7))
    result = CliRunner().invoke(
        app, ["sheets", str(directory), str(tmp_path / "embeddings.npy"), str(tmp_path / "out")]
    )
    assert result.exit_code != 0
    assert "7 embeddings of 8 faces" in result.output
