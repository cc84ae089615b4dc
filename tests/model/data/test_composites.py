from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tests.model.support import make_chips

pytest.importorskip("torch")
pytest.importorskip("pyarrow")

from model.data.composites import BANDS, FEATHER, blend, main, make_composites, swap_parts
from model.data.face_set import CHIPS_FILE, UNLABELLED, FaceSet, load_face_set, write_table

cli = typer.Typer()
cli.command()(main)

FIRST, SECOND = (make_chips(list(range(40)), seed=seed) for seed in (1, 2))


@pytest.fixture
def faces(tmp_path: Path) -> FaceSet:
    folder = tmp_path / "faces"
    folder.mkdir()
    np.save(folder / CHIPS_FILE, make_chips(list(range(5))))
    names = [str(i) for i in range(5)]
    write_table(folder, {"identity": names, "split": ["train"] * 5, "family": [""] * 5, "source": ["x"] * 5})
    return load_face_set(folder)


def test_a_blend_lies_between_its_two_faces() -> None:
    blended = blend(FIRST, SECOND, np.random.default_rng(0)).astype(int)
    low, high = np.minimum(FIRST, SECOND), np.maximum(FIRST, SECOND)
    assert ((blended >= low) & (blended <= high)).all()
    apart = np.abs(FIRST.astype(int) - SECOND) > 100
    share = ((blended - SECOND) / np.where(apart, FIRST.astype(int) - SECOND, 1))[apart]
    assert 0.29 < share.min() < 0.35
    assert 0.65 < share.max() < 0.71


def test_a_swap_takes_one_band_of_the_second_face_and_the_rest_of_the_first() -> None:
    swapped = swap_parts(FIRST, SECOND, np.random.default_rng(0))
    seen = set()
    for picture, first, second in zip(swapped, FIRST, SECOND, strict=True):
        fits = [
            number
            for number, (top, bottom) in enumerate(BANDS)
            if np.array_equal(picture[: top + 1], first[: top + 1])
            and np.array_equal(picture[bottom:], first[bottom:])
            and np.array_equal(picture[top + FEATHER : bottom - FEATHER], second[top + FEATHER : bottom - FEATHER])
        ]
        assert len(fits) == 1
        seen.update(fits)
    assert seen == set(range(len(BANDS)))


def test_composites_are_unlabelled_pictures_in_the_order_of_their_kinds(faces: FaceSet, tmp_path: Path) -> None:
    make_composites(faces, tmp_path / "v", augmented=7, blends=3, swaps=2, seed=0)
    made = load_face_set(tmp_path / "v")
    assert made.source.tolist() == ["augmented"] * 7 + ["blend"] * 3 + ["swap"] * 2
    assert set(made.split.tolist()) == {"train"}
    assert (made.identity == UNLABELLED).all()
    pictures = made.images(np.arange(12))
    originals = faces.images(np.arange(5))
    assert not any(np.array_equal(p, o) for p in pictures for o in originals)


def test_the_same_seed_gives_the_same_pixels_and_another_gives_others(faces: FaceSet, tmp_path: Path) -> None:
    pixels = []
    for number, seed in enumerate((3, 3, 4)):
        make_composites(faces, tmp_path / str(number), augmented=4, blends=4, swaps=4, seed=seed)
        pixels.append(load_face_set(tmp_path / str(number)).images(np.arange(12)))
    assert np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])


def test_the_faces_themselves_are_not_overwritten(faces: FaceSet, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, [str(tmp_path / "faces"), str(tmp_path / "faces"), "--blends", "2"])
    assert result.exit_code == 2
    assert "a folder of their own" in result.output
    assert len(load_face_set(tmp_path / "faces")) == len(faces)


def test_asking_for_nothing_is_refused(faces: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to make"):
        make_composites(faces, tmp_path / "v", augmented=0, blends=0, swaps=0, seed=0)
    assert not (tmp_path / "v").exists()
