from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.decisions import CalibrationError, read_calibration
from app.encoding import EncoderInfo, EncoderRuntime, Precision, RuntimeName
from app.faces import FaceFinder
from app.gallery import CollectionNotFound, SqliteGallery
from app.own_calibration import CannotCalibrate, calibrate_folder, calibrate_gallery
from app.types import Encodings, NewTemplate
from tests.app.photographs import blank, collins, hopper, variants
from tests.app.process import tessera

INFO = EncoderInfo("fake", "1", "ab" * 32, RuntimeName.OPENVINO, Precision.F32, "none")


class Fake:
    """Only says which encoder it is."""

    info = INFO

    def encode(self, chips: object) -> Encodings:
        raise AssertionError("a gallery holds embeddings already")


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[SqliteGallery]:
    opened = SqliteGallery(tmp_path / "gallery", encoder_digest=INFO.sha256)
    yield opened
    opened.close()


def enrol_people(gallery: SqliteGallery, count: int, templates: int) -> None:
    rng = np.random.default_rng(0)
    for person in range(count):
        centre = rng.normal(size=128)
        for number in range(templates):
            vector = centre + 0.5 * rng.normal(size=128)
            embedding = (vector / np.linalg.norm(vector)).astype(np.float32)
            new = NewTemplate(f"{person}-{number}", embedding, 10.0 + number)
            gallery.enroll("default", f"p{person}", [new])


def test_what_is_enrolled_gives_a_table(gallery: SqliteGallery) -> None:
    enrol_people(gallery, 40, 3)
    table = calibrate_gallery(gallery, "default", Fake())
    assert (table.data.subjects, table.data.faces) == (40, 120)
    assert (table.encoder_sha256, table.version) == (INFO.sha256, "fake-1-abababab")
    assert "collection default" in table.data.description
    assert [curve.templates for curve in table.curves] == [1, 2]
    # 780 pairs of people show no rate below 3 / 780.
    assert table.default_fmr >= 3 / 780
    assert table.default.false_non_match_rate.value == 0


def test_too_few_people_are_refused_and_so_is_an_unknown_collection(gallery: SqliteGallery) -> None:
    with pytest.raises(CannotCalibrate, match="no face"):
        calibrate_gallery(gallery, "default", Fake())
    enrol_people(gallery, 5, 2)
    with pytest.raises(CannotCalibrate, match="5 subjects cannot show"):
        calibrate_gallery(gallery, "default", Fake())
    with pytest.raises(CollectionNotFound):
        calibrate_gallery(gallery, "none", Fake())


def test_people_of_one_photograph_each_are_refused(gallery: SqliteGallery) -> None:
    enrol_people(gallery, 40, 1)
    with pytest.raises(CannotCalibrate, match="no person has two faces"):
        calibrate_gallery(gallery, "default", Fake())


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two people in twelve photographs, and a wall."""
    folder = tmp_path / "people"
    for name, image in (("collins", collins()), ("hopper", hopper())):
        (folder / name).mkdir(parents=True)
        for variant, data in variants(image).items():
            (folder / name / variant).write_bytes(data)
    (folder / "hopper" / "wall").write_bytes(blank())
    (folder / "hopper" / ".hidden").write_bytes(b"")
    (folder / "notes.txt").write_text("not a person")
    return folder


def test_photographs_without_a_face_are_skipped_by_name(
    photographs: Path, face_finder: FaceFinder, encoder: EncoderRuntime
) -> None:
    with pytest.raises(CannotCalibrate, match="2 subjects cannot show"):
        calibrate_folder(photographs, face_finder, encoder)
    # The same two people under many names: enough to measure, and badly.
    for number in range(12):
        for person in ("collins", "hopper"):
            shutil.copytree(photographs / person, photographs / f"{person}-{number}")
    table, skipped = calibrate_folder(photographs, face_finder, encoder)
    assert len(skipped) == 13
    assert {s.path.name for s in skipped} == {"wall"}
    assert "No face" in skipped[0].reason
    assert (table.data.subjects, table.data.faces) == (26, 26 * 6)
    assert table.encoder_sha256 == encoder.info.sha256


def test_a_folder_that_is_none_is_refused(tmp_path: Path, face_finder: FaceFinder, encoder: EncoderRuntime) -> None:
    with pytest.raises(CannotCalibrate, match="not a folder"):
        calibrate_folder(tmp_path / "none", face_finder, encoder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CannotCalibrate, match="no face"):
        calibrate_folder(tmp_path / "empty", face_finder, encoder)


def test_the_command_refuses_in_one_line_and_writes_nothing(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.json"
    result = tessera("calibrate", str(out), "--photographs", str(photographs))
    assert result.returncode == 1
    assert "2 subjects cannot show" in result.stderr
    assert "skipped" not in result.stdout
    assert not out.exists()
    assert tessera("calibrate", str(out)).returncode == 2


def test_the_command_writes_what_the_service_takes(tmp_path: Path, encoder: EncoderRuntime) -> None:
    data, out = tmp_path / "data", tmp_path / "own.json"
    gallery = SqliteGallery(data, encoder_digest=encoder.info.sha256)
    enrol_people(gallery, 40, 3)
    gallery.close()
    result = tessera("calibrate", str(out), "--collection", "default", "--data-dir", str(data))
    assert result.returncode == 0, result.stderr
    assert "1 templates: threshold" in result.stdout
    table = read_calibration(out, encoder.info.sha256)
    assert table.data.subjects == 40
    audit = tessera("gallery", "audit", "--data-dir", str(data), TESSERA_DECISIONS__CALIBRATION=str(out))
    assert audit.returncode == 0, audit.stderr
    missing = tessera("serve", "--data-dir", str(data), TESSERA_DECISIONS__CALIBRATION=str(tmp_path / "none.json"))
    assert missing.returncode == 1
    assert "none.json" in missing.stderr
    with pytest.raises(CalibrationError):
        read_calibration(out, "cd" * 32)
