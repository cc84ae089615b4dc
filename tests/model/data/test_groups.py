from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.model.support import make_chips

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

from model.data import groups
from model.data.face_set import CHIPS_FILE, FaceSet, load_face_set, write_table
from model.data.groups import (
    ALIKE,
    COHORT_SHARE,
    EVERYBODY,
    HELD_OUT,
    GroupMembers,
    adults,
    evaluation_groups,
    for_cohort,
    people,
)
from model.data.lookalikes import digest

SINGLES = [
    *[("impostor", "Asian", "female", "")] * 30,
    *[("impostor", "Southeast Asian", "male", "20-29")] * 30,
    *[("impostor", "East Asian", "male", "34")] * 30,
    *[("impostor", "Black", "male", "")] * 30,
    *[("impostor", "Black", "male", "10-19")] * 6,
    *[("impostor", "Others", "female", "40")] * 30,
]


@pytest.fixture
def faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaceSet:
    monkeypatch.setattr(groups, "SMALLEST_GROUP", 8)
    rows: list[tuple[str, str, str, str, str, str]] = [(f"h{i // 2}", "heldout", "", "", "", "f") for i in range(8)]
    rows += [("", split, origin, sex, age, "") for split, origin, sex, age in SINGLES]
    rows += [(f"b{i // 3}", "calibrate", "Black", "male", "", "") for i in range(12)]
    rows += [("", "children", "Asian", "male", str(i % 9 + 1), "") for i in range(20)]
    rows += [(f"m{i // 2}", "train", "East Asian", "", "masked", "") for i in range(20)]
    np.save(tmp_path / CHIPS_FILE, make_chips(list(range(len(rows)))))
    names = ("identity", "split", "origin", "sex", "age", "family")
    columns: dict[str, list[str]] = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    write_table(tmp_path, {**columns, "source": ["made up"] * len(rows)})
    return load_face_set(tmp_path)


def by_name(found: list[GroupMembers]) -> dict[str, GroupMembers]:
    assert len({group.name for group in found}) == len(found)
    return {group.name: group for group in found}


def test_the_cohort_and_the_judges_share_nobody(faces: FaceSet) -> None:
    singles = adults(faces, "impostor")
    cohort = for_cohort(faces, singles)
    assert 0.15 < cohort.mean() < 0.55
    for position in singles[:20]:
        chip = faces.images(np.array([position]))[0]
        chosen = hashlib.sha256(chip.tobytes()).digest()[0] % COHORT_SHARE == 0
        assert chosen == cohort[singles == position][0]
    judges = {int(row) for group in evaluation_groups(faces, "heldout") for part in group.parts for row in part}
    assert judges.isdisjoint(singles[cohort].tolist())


def test_groups_are_one_origin_and_one_sex_and_are_part_of_larger_ones(faces: FaceSet) -> None:
    found = by_name(evaluation_groups(faces, "heldout"))
    assert {"Asian", "Asian women", "Asian men", "Black men", "East Asian men", "Southeast Asian men"} <= found.keys()
    # Only men of this origin were measured: it is no larger group than they are.
    assert "Black" not in found
    assert "Others women" not in found
    assert [found[n].part_of for n in ("Asian women", "Asian", "Black men", "Southeast Asian men")] == [
        "Asian",
        ALIKE,
        ALIKE,
        "Asian",
    ]
    assert all(group.part_of is None or group.part_of in found for group in found.values())
    for name in ("Asian women", "Asian men", "Black men"):
        (part,) = found[name].parts
        assert set(faces.sex[part].tolist()) == {"female" if name.endswith("women") else "male"}
    assert set(faces.origin[found["Asian men"].parts[0]].tolist()) == {"East Asian", "Southeast Asian"}
    assert len(found["Asian"].parts) == 2
    assert len(found[ALIKE].parts) == 3


def test_nobody_under_age_is_among_the_adults(faces: FaceSet) -> None:
    found = by_name(evaluation_groups(faces, "heldout"))
    assert "10-19" not in faces.age[found["Black men"].parts[0]].tolist()
    assert "10-19" not in faces.age[found[EVERYBODY].parts[0]].tolist()
    assert set(faces.split[found["children"].parts[0]].tolist()) == {"children"}


def test_what_is_measured_and_not_promised(faces: FaceSet) -> None:
    found = by_name(evaluation_groups(faces, "heldout"))
    assert {name for name, group in found.items() if not group.claimed} == {"children", "masked", "relatives"}
    assert faces.family[found["relatives"].parts[0]].min() >= 0
    masked = found["masked"].parts[0]
    assert set(faces.age[masked].tolist()) == {"masked"}
    # Whole people judge.
    assert all(np.isin(np.flatnonzero(faces.identity == i), masked).all() for i in np.unique(faces.identity[masked]))
    assert sorted(found[HELD_OUT].parts[0].tolist()) == list(range(8))


def test_faces_without_origins_give_no_groups(faces: FaceSet) -> None:
    assert evaluation_groups(faces.where(np.isin(faces.split, ["heldout", "train"])), "heldout") == []


def test_strangers_judged_to_be_one_person_are_one(
    faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = people(faces)
    assert len(set(before[faces.split == "impostor"].tolist())) == len(SINGLES)
    first, second, third = (digest(chip) for chip in faces.images(np.array([8, 9, 10])))
    verdicts: Any = [f"{first},{second},Asian female,same", f"{second},{third},Asian female,unsure"]
    path = tmp_path / "verdicts.csv"
    path.write_text("\n".join(["first,second,group,verdict", *verdicts]) + "\n")
    monkeypatch.setattr(groups, "VERDICTS_FILE", path)
    after = people(faces)
    assert after[8] == after[9] != after[10]
    assert len(set(after.tolist())) == len(set(before.tolist())) - 1
    assert len(set(after[faces.identity >= 0].tolist())) == len(set(faces.identity[faces.identity >= 0].tolist()))


def test_of_a_person_with_several_single_faces_one_judges(
    faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = by_name(evaluation_groups(faces, "heldout"))["Black men"].parts[0]
    singles = before[faces.split[before] == "impostor"]
    labelled = before[faces.split[before] == "calibrate"]
    names = [digest(chip) for chip in faces.images(np.array([singles[0], singles[1], singles[2], labelled[0]]))]
    path = tmp_path / "verdicts.csv"
    rows = [f"{names[0]},{names[1]},Black male,same", f"{names[2]},{names[3]},Black male,same"]
    path.write_text("\n".join(["first,second,group,verdict", *rows]) + "\n")
    monkeypatch.setattr(groups, "VERDICTS_FILE", path)
    after = by_name(evaluation_groups(faces, "heldout"))["Black men"].parts[0]
    # The second of two single faces, and the one of somebody who has labelled faces, are left out.
    assert set(before.tolist()) - set(after.tolist()) == {int(singles[1]), int(singles[2])}
