from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
from PIL import Image
from typer.testing import CliRunner

from app.faces import FaceFinder, FacePolicy, YunetDetector
from tests.model.support import make_chips

pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet as pq

from model.commands import StoppedError
from model.data.face_set import CHIPS_FILE, UNLABELLED, load_face_set
from model.data.folder import ChipWriter, choose_heldout, list_photographs
from model.data.prepare import _lacks, _share_that_suffices, app, decode_chip


def encoded(pixels: npt.NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


# --- parquet


def test_parquet_unpacks_chips_and_labels(tmp_path: Path) -> None:
    chips = make_chips([0, 1, 0])
    table = {
        "image": [encoded(chip) for chip in chips],
        "identity": ["b", "a", "b"],
        "split": ["train", "heldout", "train"],
        "source": ["s", "s", "t"],
        "family": ["", "f", None],
    }
    pq.write_table(pa.table(table), tmp_path / "faces.parquet")
    result = run("parquet", tmp_path / "faces.parquet", tmp_path / "out" / "faces")
    assert result.exit_code == 0, result.output
    assert "3 faces" in result.output
    faces = load_face_set(tmp_path / "out" / "faces")
    np.testing.assert_array_equal(faces.images(np.arange(3)), chips)
    assert faces.identity.tolist() == [1, 0, 1]
    assert faces.family.tolist() == [UNLABELLED, 0, UNLABELLED]
    assert faces.split.tolist() == table["split"]
    assert faces.source.tolist() == table["source"]
    assert faces.origin.tolist() == ["", "", ""]


def test_several_files_are_one_set_and_a_name_is_one_person(tmp_path: Path) -> None:
    chips = make_chips([0, 1, 2])
    first: dict[str, list[Any]] = {
        "image": [encoded(chips[0]), encoded(chips[1])],
        "identity": ["b", "a"],
        "split": ["train"] * 2,
    }
    second: dict[str, list[Any]] = {
        "image": [encoded(chips[2])],
        "identity": ["b"],
        "split": ["train"],
        "origin": ["Asian"],
        "age": ["9"],
    }
    for name, table in (("1", first), ("2", second)):
        pq.write_table(pa.table({**table, "source": [name] * len(table["image"])}), tmp_path / f"{name}.parquet")
    result = run("parquet", tmp_path / "1.parquet", tmp_path / "2.parquet", tmp_path / "out")
    assert result.exit_code == 0, result.output
    faces = load_face_set(tmp_path / "out")
    np.testing.assert_array_equal(faces.images(np.arange(3)), chips)
    assert faces.identity.tolist() == [1, 0, 1]
    assert faces.source.tolist() == ["1", "1", "2"]
    assert faces.origin.tolist() == ["", "", "Asian"]
    assert faces.age.tolist() == ["", "", "9"]


def test_a_chip_of_another_size_is_refused(tmp_path: Path) -> None:
    wide = encoded(np.zeros((112, 96, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="112x112 pixels, not 96x112"):
        decode_chip(wide)
    columns = {name: ["x"] for name in ("identity", "split", "source", "family")}
    pq.write_table(pa.table({"image": [wide], **columns}), tmp_path / "faces.parquet")
    result = run("parquet", tmp_path / "faces.parquet", tmp_path / "out")
    assert isinstance(result.exception, StoppedError)
    with pytest.raises(FileNotFoundError):
        load_face_set(tmp_path / "out")


@pytest.mark.parametrize("column", ["image", "identity", "split", "source"])
def test_a_file_without_a_needed_column_is_refused_before_anything_is_changed(column: str, tmp_path: Path) -> None:
    table = {"image": [encoded(make_chips([0])[0])], **{name: ["x"] for name in ("identity", "split", "source")}}
    pq.write_table(pa.table(table), tmp_path / "whole.parquet")
    assert run("parquet", tmp_path / "whole.parquet", tmp_path / "out").exit_code == 0
    del table[column]
    pq.write_table(pa.table(table), tmp_path / "faces.parquet")
    result = run("parquet", tmp_path / "faces.parquet", tmp_path / "out")
    assert isinstance(result.exception, StoppedError)
    assert str(result.exception) == f"{tmp_path / 'faces.parquet'} lacks the column {column}"
    assert len(load_face_set(tmp_path / "out")) == 1


def test_labels_of_any_type_are_names_and_none_is_no_name(tmp_path: Path) -> None:
    image = [encoded(chip) for chip in make_chips([0, 1, 2])]
    table = {"image": image, "identity": [0, 7, None], "split": ["train"] * 3, "source": ["s"] * 3, "age": [0, 9, None]}
    pq.write_table(pa.table(table), tmp_path / "faces.parquet")
    assert run("parquet", tmp_path / "faces.parquet", tmp_path / "out").exit_code == 0
    faces = load_face_set(tmp_path / "out")
    assert faces.identity.tolist() == [0, 1, UNLABELLED]
    assert faces.age.tolist() == ["0", "9", ""]


@pytest.mark.parametrize(
    ("image", "said"),
    [(b"no picture", "an image cannot be decoded"), ({"bytes": b"", "path": "a.jpg"}, "holds the bytes of picture")],
)
def test_a_picture_that_is_none_is_named_by_file_and_row(image: Any, said: str, tmp_path: Path) -> None:
    table = {name: ["x", "y"] for name in ("identity", "split", "source")}
    pq.write_table(pa.table({"image": [image, image], **table}), tmp_path / "faces.parquet")
    result = run("parquet", tmp_path / "faces.parquet", tmp_path / "out")
    assert isinstance(result.exception, StoppedError)
    assert str(result.exception).startswith(f"row 0 of {tmp_path / 'faces.parquet'}: ")
    assert said in str(result.exception)


def test_a_grey_chip_gets_three_channels() -> None:
    grey = np.arange(112 * 112, dtype=np.uint32).reshape(112, 112).astype(np.uint8)
    np.testing.assert_array_equal(decode_chip(encoded(grey)), np.repeat(grey[..., None], 3, axis=2))


# --- folder

PORTRAIT = skimage.data.astronaut()[:300, 80:380]


def darkened(steps: int) -> npt.NDArray[np.uint8]:
    """The same face in photographs that are not the same."""
    darker: npt.NDArray[np.uint8] = PORTRAIT - np.minimum(PORTRAIT, 8 * steps).astype(np.uint8)
    return darker


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Four people with a photograph each, one with two, one with none that shows a face."""
    folder = tmp_path / "crew"
    for number, name in enumerate(("ann", "bea", "cid", "dan")):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.png").write_bytes(encoded(darkened(number)))
    (folder / "bea" / "2.jpg").write_bytes(encoded(PORTRAIT[:, ::-1], "JPEG", quality=95))
    (folder / "bea" / ".hidden").write_bytes(b"not meant")
    (folder / "nobody").mkdir()
    (folder / "nobody" / "wall.png").write_bytes(encoded(np.full((200, 200, 3), 127, dtype=np.uint8)))
    (folder / "nobody" / "notes.txt").write_bytes(b"no photograph at all")
    (folder / "stray.png").write_bytes(encoded(PORTRAIT))
    return folder


def test_folder_cuts_faces_as_the_service_does(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "faces"
    result = run("folder", photographs, out, "--heldout-share", 0.25, "--small")
    assert result.exit_code == 0, result.output
    faces = load_face_set(out)
    assert faces.identity.tolist() == [0, 1, 1, 2, 3]
    assert faces.family.tolist() == [UNLABELLED] * 5
    assert faces.source.tolist() == ["crew"] * 5
    finder = FaceFinder(YunetDetector())
    for row, name in enumerate(["ann/1.png", "bea/1.png", "bea/2.jpg", "cid/1.png", "dan/1.png"]):
        expected = finder.find((photographs / name).read_bytes(), FacePolicy.LARGEST).faces[0].chip
        np.testing.assert_array_equal(faces.images(np.array([row]))[0], expected)


def test_folder_names_what_it_leaves_out_and_why(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "faces"
    tiny = Image.fromarray(PORTRAIT).resize((60, 60), Image.Resampling.LANCZOS)
    (photographs / "ann" / "tiny.png").write_bytes(encoded(np.asarray(tiny)))
    (photographs / "bea" / "copy.png").write_bytes((photographs / "bea" / "1.png").read_bytes())
    (photographs / "ann" / "whose.png").write_bytes(encoded(darkened(9)))
    (photographs / "dan" / "<b>whose.png").write_bytes(encoded(darkened(9)))
    (photographs / "dan" / "deep").mkdir()
    (photographs / "dan" / "deep" / "1.png").write_bytes(encoded(PORTRAIT))
    result = run("folder", photographs, out, "--small")
    assert "2 files lie in no person's folder" in result.output
    assert "left out 6 of 11 photographs" in result.output
    assert "one photograph under two names: 2" in result.output
    assert "5 faces of 4 identities" in result.output
    listed = left_out(out)
    assert listed.pop("nobody/notes.txt")[0] == "unreadable"
    small = listed.pop("ann/tiny.png")
    assert small[0] == "face too small"
    assert small[1].endswith(" pixels between the eyes, 16 at least")
    assert listed == {
        "nobody/wall.png": ("no face", "No face was found."),
        "bea/copy.png": ("duplicate", "the same as bea/1.png"),
        "ann/whose.png": ("one photograph under two names", "the same as dan/<b>whose.png: whose is it?"),
        "dan/<b>whose.png": ("one photograph under two names", "the same as ann/whose.png: whose is it?"),
    }
    page = (out / "left-out.html").read_text()
    assert page.count("<img") == 5
    assert "dan/&lt;b&gt;whose.png" in page
    # What is left keeps its own pixels and names.
    faces = load_face_set(out)
    assert faces.identity.tolist() == [0, 1, 1, 2, 3]
    brightness = faces.images(np.arange(5)).mean(axis=(1, 2, 3))
    assert brightness[0] > brightness[1] > brightness[3] > brightness[4]
    run("folder", photographs, tmp_path / "all", "--small", "--min-eye-distance", 5)
    assert "ann/tiny.png" not in left_out(tmp_path / "all")


def left_out(out: Path) -> dict[str, tuple[str, str]]:
    with (out / "left-out.csv").open(newline="") as file:
        return {row["photograph"]: (row["reason"], row["detail"]) for row in csv.DictReader(file)}


def test_a_folder_that_is_too_small_is_refused_before_the_work(photographs: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model.data.prepare", "folder", str(photographs), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "7 photographs of 5 people" in result.stdout
    assert "85.57 % on LFW" in result.stdout
    assert "training needs 32 people with two photographs or more, there are" in result.stderr
    assert "calibration needs 40 people" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_share_that_would_do_is_named(tmp_path: Path) -> None:
    for number in range(80):
        (tmp_path / "people" / f"{number:02}").mkdir(parents=True)
        for name in "ab":
            (tmp_path / "people" / f"{number:02}" / name).touch()
    result = run("folder", tmp_path / "people", tmp_path / "out")
    assert isinstance(result.exception, StoppedError)
    assert "there are 8. With so many people, --heldout-share 0.49 leaves enough for both" in str(result.exception)
    enough = run("folder", tmp_path / "people", tmp_path / "out", "--heldout-share", 0.49)
    assert enough.exit_code == 0, enough.output
    assert "too few are left: training needs 32 people" in enough.output


def test_a_share_that_would_do_counts_whom_it_would_choose(tmp_path: Path) -> None:
    names = [f"{number:03}" for number in range(100)] * 2 + [f"single-{number:03}" for number in range(300)]
    share = _share_that_suffices(names, seed=1)
    assert share is not None
    assert not _lacks(names, choose_heldout(names, share, seed=1))
    assert _lacks(names, choose_heldout(names, share - 0.01, seed=1))
    assert _share_that_suffices([f"{number:03}" for number in range(60)] * 2, seed=1) is None


def test_folder_holds_whole_identities_out(photographs: Path, tmp_path: Path) -> None:
    run("folder", photographs, tmp_path / "faces", "--heldout-share", 0.5, "--seed", 3, "--small")
    faces = load_face_set(tmp_path / "faces")
    heldout = set(faces.of_split("heldout").identity.tolist())
    assert len(heldout) == 2
    assert heldout.isdisjoint(faces.of_split("train").identity.tolist())


def test_nobody_guesses_which_of_two_faces_is_meant(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    (folder / "ann").mkdir(parents=True)
    (folder / "ann" / "alone.png").write_bytes(encoded(PORTRAIT))
    (folder / "ann" / "two.png").write_bytes(encoded(np.concatenate([darkened(1), PORTRAIT], axis=1)))
    behind = np.zeros((300, 450, 3), dtype=np.uint8)
    behind[:, :300] = darkened(2)
    behind[:150, 300:] = PORTRAIT[::2, ::2]
    (folder / "ann" / "behind.png").write_bytes(encoded(behind))
    for policy, left in (("largest", set()), ("dominant", {"two"}), ("single", {"two", "behind"})):
        out = tmp_path / policy
        result = run("folder", folder, out, "--small", *(("--policy", policy) if policy != "dominant" else ()))
        assert len(load_face_set(out)) == 3 - len(left), result.output
        assert {name: reason for name, (reason, _) in left_out(out).items()} == {
            f"ann/{name}.png": "several faces" for name in left
        }


def test_a_link_that_leads_nowhere_is_listed(photographs: Path, tmp_path: Path) -> None:
    (photographs / "bea" / "gone.jpg").symlink_to(tmp_path / "gone")
    (photographs / "eve").symlink_to(photographs / "dan")
    result = run("folder", photographs, tmp_path / "out", "--small")
    assert "9 photographs of 6 people" in result.output
    assert left_out(tmp_path / "out")["bea/gone.jpg"] == ("unreadable", "No such file or directory")
    assert left_out(tmp_path / "out")["eve/1.png"][0] == "one photograph under two names"


def test_a_name_that_no_table_can_hold_is_refused_before_the_work(photographs: Path, tmp_path: Path) -> None:
    (photographs / "Zoë 王").mkdir()
    (photographs / "Zoë 王" / "фото.png").write_bytes(encoded(darkened(7)))
    person = Path(os.fsdecode(os.fsencode(photographs) + b"/bad-\xff"))
    try:
        person.mkdir()
    except OSError:
        pytest.skip("this file system takes no such names")
    (person / "1.png").write_bytes(encoded(darkened(8)))
    result = run("folder", photographs, tmp_path / "out", "--small")
    assert isinstance(result.exception, StoppedError)
    assert "'bad-\\udcff' is not UTF-8: rename it" in str(result.exception)
    assert not (tmp_path / "out").exists()
    person.rename(photographs / "renamed")
    assert run("folder", photographs, tmp_path / "out", "--small").exit_code == 0
    assert "Zoë 王" in pq.read_table(tmp_path / "out" / "faces.parquet")["identity"].to_pylist()


def test_folder_refuses_what_makes_no_sense(photographs: Path, tmp_path: Path) -> None:
    every = run("folder", photographs, tmp_path / "out", "--policy", "all")
    empty = run("folder", photographs / "ann", tmp_path / "out")
    share = run("folder", photographs, tmp_path / "out", "--heldout-share", 1.5)
    assert [every.exit_code, empty.exit_code, share.exit_code] == [2, 2, 2]
    assert "one identity" in every.output
    assert "no sub-folders" in empty.output
    assert not (tmp_path / "out").exists()


def test_photographs_are_listed_in_one_order(photographs: Path) -> None:
    names = [str(p.relative_to(photographs)) for p in list_photographs(photographs)]
    assert names == sorted(names)
    assert len(names) == 7
    assert not any("hidden" in n or "stray" in n for n in names)


def test_heldout_identities_are_a_share_chosen_by_name_and_seed() -> None:
    names = [f"person {i}" for i in range(100)]
    chosen = choose_heldout(names * 3, 0.1, seed=1)
    assert len(chosen) == 10
    assert chosen <= set(names)
    assert choose_heldout(reversed(names), 0.1, seed=1) == chosen
    assert choose_heldout(names, 0.1, seed=2) != chosen
    assert chosen < choose_heldout(names, 0.3, seed=1)
    assert len(choose_heldout(names[:3], 0.1, seed=1)) == 1
    assert choose_heldout(names, 0, seed=1) == set()
    assert choose_heldout(names, 1, seed=1) == set(names)


@pytest.mark.parametrize("count", [0, 1, 11])
def test_the_chip_writer_makes_a_plain_npy_file(tmp_path: Path, count: int) -> None:
    chips = make_chips(list(range(count))) if count else np.empty((0, 112, 112, 3), dtype=np.uint8)
    writer = ChipWriter(tmp_path / CHIPS_FILE)
    for chip in chips:
        writer.append(chip)
    writer.close()
    np.testing.assert_array_equal(np.load(tmp_path / CHIPS_FILE), chips)
    if count:
        np.testing.assert_array_equal(np.load(tmp_path / CHIPS_FILE, mmap_mode="r"), chips)
