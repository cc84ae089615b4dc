from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.faces import Box
from benchmarks.tight_crops import cropped, differing, first_folds, main, read_crops, true_accepts
from model.evaluation.protocols import LfwPairs
from tests.app.photographs import collins, hopper, jpeg, png


def circle(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], dtype=np.float32)


def test_true_accepts_by_hand() -> None:
    # Mated pairs 10 and 50 degrees apart; the nearest others are 30 degrees apart (10 to 40), then 40.
    embeddings = {"a1": circle(0), "a2": circle(10), "b1": circle(40), "b2": circle(90)}
    subject = {name: name[0] for name in embeddings}
    assert true_accepts(embeddings, subject, (0.1, 0.25, 0.99)) == (0.5, 0.5, 1.0)
    # A photograph without a face makes a pair that is never accepted, and others that never match.
    assert true_accepts(embeddings, {**subject, "c1": "c", "c2": "c"}, (0.99,)) == (2 / 3,)


def test_a_crop_is_what_the_box_shows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    data = png(Image.fromarray(pixels))
    with Image.open(io.BytesIO(cropped(data, Box(10.5, 20.5, 20, 30)))) as inside:
        np.testing.assert_array_equal(np.asarray(inside), pixels[20:51, 10:31])
    with Image.open(io.BytesIO(cropped(data, Box(-5, -3, 100, 100)))) as whole:
        np.testing.assert_array_equal(np.asarray(whole), pixels)


def test_chips_that_differ_are_counted() -> None:
    one, other = np.zeros((2, 2, 3), dtype=np.uint8), np.ones((2, 2, 3), dtype=np.uint8)
    assert differing({"a": one, "b": one, "c": one}, {"a": one, "b": other, "d": one}) == 3


def test_the_first_folds_and_their_photographs() -> None:
    photographs = dict.fromkeys(("a_1", "a_2", "b_1", "b_2"), b"")
    pairs = [("a_1", "a_2"), ("a_1", "b_1"), ("b_1", "b_2")]
    subject = {name: name[0] for name in photographs}
    lfw = LfwPairs(pairs, np.array([True, False, True]), np.array([0, 0, 1]), subject, photographs)
    first = first_folds(lfw, 1)
    assert (first.names, set(first.photographs)) == (pairs[:2], {"a_1", "a_2", "b_1"})


def test_a_table_of_crops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = {"collins": collins().crop((150, 20, 300, 200)), "hopper": hopper().crop((130, 60, 390, 400))}
    archive = tmp_path / "crops.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        for name, image in people.items():
            for quality in (60, 95):
                bundle.writestr(f"crops/{name}/{quality}.jpg", jpeg(image, quality))
        bundle.writestr("crops/hopper/blank.png", png(Image.new("RGB", (50, 50))))
    assert len(read_crops(archive)) == 5
    main(archive)
    # Two of the four mated pairs have no face.
    assert "| crops | 4 of 5 | 50.00 | 50.00 | 50.00 |" in capsys.readouterr().out
