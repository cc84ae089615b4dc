from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.model.support import make_chips

pytest.importorskip("pyarrow")

from model.data.face_set import (
    CHIPS_FILE,
    TABLE_FILE,
    UNLABELLED,
    FaceSet,
    begin_packing,
    codes,
    join,
    load_face_set,
    new_array,
    write_table,
)

COLUMNS = {
    "identity": ["bea", "ann", "", "bea", "cid"],
    "family": ["f", "f", "", "f", ""],
    "split": ["train", "train", "train", "train", "heldout"],
    "source": ["x", "x", "y", "y", "y"],
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    np.save(tmp_path / CHIPS_FILE, make_chips([0, 1, 2, 0, 3]))
    write_table(tmp_path, COLUMNS)
    return tmp_path


@pytest.fixture
def faces(directory: Path) -> FaceSet:
    return load_face_set(directory)


def test_codes_follow_the_sorted_names_and_unknown_is_unlabelled() -> None:
    numbers = codes(["bea", "", "ann", "bea", "cid"])
    assert numbers.tolist() == [1, UNLABELLED, 0, 1, 2]
    assert numbers.dtype == np.int64
    assert codes([]).tolist() == []
    assert codes(["", ""]).tolist() == [UNLABELLED, UNLABELLED]


def test_load_gives_what_was_written(faces: FaceSet) -> None:
    assert len(faces) == 5
    assert faces.identity.tolist() == [1, 0, UNLABELLED, 1, 2]
    assert faces.family.tolist() == [0, 0, UNLABELLED, 0, UNLABELLED]
    assert faces.split.tolist() == COLUMNS["split"]
    assert faces.source.tolist() == COLUMNS["source"]
    np.testing.assert_array_equal(faces.images(np.arange(5)), make_chips([0, 1, 2, 0, 3]))


def test_images_are_a_copy_in_the_order_asked_for(faces: FaceSet) -> None:
    chips = make_chips([0, 1, 2, 0, 3])
    images = faces.images(np.array([3, 0, 3]))
    np.testing.assert_array_equal(images, chips[[3, 0, 3]])
    images[:] = 0
    np.testing.assert_array_equal(faces.images(np.array([3])), chips[[3]])


def test_where_keeps_the_rows_of_its_members(faces: FaceSet) -> None:
    some = faces.where(faces.source == "y").where(np.array([False, True, True]))
    assert len(some) == 2
    assert some.rows.tolist() == [3, 4]
    assert some.identity.tolist() == [1, 2]
    np.testing.assert_array_equal(some.images(np.array([1, 0])), make_chips([0, 1, 2, 0, 3])[[4, 3]])


def test_of_split(faces: FaceSet) -> None:
    assert faces.of_split("heldout").rows.tolist() == [4]
    assert faces.of_split("train").rows.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"no faces in split 'test'; this set has \['heldout', 'train'\]"):
        faces.of_split("test")


@pytest.mark.parametrize("missing", [CHIPS_FILE, TABLE_FILE])
def test_a_folder_that_was_not_prepared_says_so(directory: Path, missing: str) -> None:
    (directory / missing).unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no packed faces; .*model\.data\.prepare"):
        load_face_set(directory)


def test_chips_of_another_set_are_refused(directory: Path) -> None:
    np.save(directory / CHIPS_FILE, make_chips([0, 1]))
    with pytest.raises(ValueError, match="2 chips and labels of 5"):
        load_face_set(directory)


def test_packing_anew_removes_the_table_and_what_a_teacher_said(directory: Path) -> None:
    np.save(directory / "teacher-sface.npy", np.zeros(5))
    begin_packing(directory)
    assert [path.name for path in directory.iterdir()] == [CHIPS_FILE]
    with pytest.raises(FileNotFoundError, match="no packed faces"):
        load_face_set(directory)


def test_people_in_both_splits_are_refused(directory: Path) -> None:
    write_table(directory, {**COLUMNS, "identity": ["bea", "ann", "", "bea", "ann"]})
    with pytest.raises(ValueError, match=r"1 identities of .* are in both splits 'heldout' and 'train', such as 'ann'"):
        load_face_set(directory)


def test_joined_sets_follow_each_other_and_only_the_first_keeps_its_labels(faces: FaceSet, tmp_path: Path) -> None:
    others = []
    for number, size in enumerate((3, 2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        np.save(folder / CHIPS_FILE, make_chips(list(range(size)), seed=number + 1))
        write_table(folder, {name: values[:size] for name, values in COLUMNS.items()})
        others.append(load_face_set(folder))
    joined = join(faces.of_split("train"), others)
    assert len(joined) == 4 + 3 + 2
    assert joined.identity.tolist() == [1, 0, UNLABELLED, 1] + [UNLABELLED] * 5
    assert joined.finished.tolist() == [False] * 4 + [True] * 5
    assert joined.rows.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    expected = [faces.images(np.arange(4)), *(other.images(np.arange(len(other))) for other in others)]
    assert np.array_equal(joined.images(np.arange(9)), np.concatenate(expected))
    shuffled = np.array([8, 0, 4, 6, 7, 2])
    assert np.array_equal(joined.images(shuffled), np.concatenate(expected)[shuffled])
    assert np.array_equal(joined.where(joined.finished).images(np.array([4, 0])), np.concatenate(expected)[[8, 4]])


def test_faces_that_were_packed_are_not_finished(faces: FaceSet) -> None:
    assert not faces.finished.any()


def test_what_the_table_does_not_say_is_empty(directory: Path, faces: FaceSet) -> None:
    assert faces.origin.tolist() == faces.sex.tolist() == faces.age.tolist() == [""] * 5
    write_table(directory, {**COLUMNS, "origin": ["A", "B", "", "A", "A"], "age": ["", "7", "", "", ""]})
    told = load_face_set(directory)
    assert told.origin.tolist() == ["A", "B", "", "A", "A"]
    assert told.where(told.origin == "B").age.tolist() == ["7"]
    assert told.sex.tolist() == [""] * 5
    assert join(told, [faces]).origin.tolist() == ["A", "B", "", "A", "A", *[""] * 5]


def test_a_new_array_has_its_space_on_the_disk_before_it_is_filled(tmp_path: Path) -> None:
    array = new_array(tmp_path / CHIPS_FILE, np.uint8, (50, 112, 112, 3))
    file = (tmp_path / CHIPS_FILE).stat()
    assert file.st_blocks * 512 >= file.st_size > array.nbytes
    array[:] = 7
    array.flush()
    np.testing.assert_array_equal(np.load(tmp_path / CHIPS_FILE), np.full((50, 112, 112, 3), 7, dtype=np.uint8))


def test_no_array_is_begun_where_there_is_no_space_for_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"chips\.npy"):
        new_array(tmp_path / CHIPS_FILE, np.uint8, (2**45, 112, 112, 3))
    assert not (tmp_path / CHIPS_FILE).exists()
