from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.crowding import COHORT_FILE, Crowding, NoCrowding, read_cohort
from app.decisions import CalibrationError, Claim, read_calibration
from app.decisions.calibration import CALIBRATION_FILE
from app.encoding import EncoderRuntime, EncoderWeights, create_runtime
from app.encoding.trained_on import record_of
from app.evaluation.calibration import EncoderRun
from app.faces import FaceFinder, FacePolicy
from app.gallery import CollectionNotFound, NewTemplate, SqliteGallery
from app.recognition.site_calibration import SiteCalibrationError, calibrate_folder, calibrate_gallery
from app.settings import EncodingSettings
from tests.app.photographs import blank, collins, hopper, variants
from tests.app.process import Server, tessera

pytestmark = pytest.mark.slow

RUN = EncoderRun("fake", "1", "ab" * 32, "openvino", "f32")


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[SqliteGallery]:
    opened = SqliteGallery(tmp_path / "gallery", encoder_digest=RUN.sha256)
    yield opened
    opened.close()


class MadeUpCrowding:
    digest = "ef" * 32

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        crowding: np.ndarray = (0.3 * np.sin(9 * embeddings[:, 0])).astype(np.float32)
        return crowding


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
    table = calibrate_gallery(gallery, "default", RUN, NoCrowding())
    assert (table.data.subjects, table.data.faces) == (40, 120)
    assert table.encoder_sha256 == RUN.sha256
    assert "collection default" in table.data.description
    assert [curve.templates for curve in table.curves] == [1, 2]
    # 780 pairs of people show no rate below 3 / 780.
    assert table.default_fmr >= 3 / 780
    assert table.default.false_non_match_rate.value == 0
    # Nothing is missed, so that no face is weak.
    assert table.quality.limit == 0


def test_a_table_has_a_version_of_its_own(gallery: SqliteGallery) -> None:
    enrol_people(gallery, 40, 3)
    first, again = (calibrate_gallery(gallery, "default", RUN, NoCrowding()).version for _ in range(2))
    assert re.fullmatch("fake-1-abababab-own-[0-9a-f]{8}", first)
    assert again == first
    gallery.delete_subject("default", "p0")
    assert calibrate_gallery(gallery, "default", RUN, NoCrowding()).version != first


def test_too_few_people_are_refused_and_so_is_an_unknown_collection(gallery: SqliteGallery) -> None:
    with pytest.raises(SiteCalibrationError, match="no face"):
        calibrate_gallery(gallery, "default", RUN, NoCrowding())
    enrol_people(gallery, 5, 2)
    with pytest.raises(SiteCalibrationError, match="5 subjects cannot show"):
        calibrate_gallery(gallery, "default", RUN, NoCrowding())
    with pytest.raises(CollectionNotFound):
        calibrate_gallery(gallery, "none", RUN, NoCrowding())


def test_people_of_one_photograph_each_are_refused(gallery: SqliteGallery) -> None:
    enrol_people(gallery, 40, 1)
    with pytest.raises(SiteCalibrationError, match="no person has two faces"):
        calibrate_gallery(gallery, "default", RUN, NoCrowding())


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
    with pytest.raises(SiteCalibrationError, match="2 subjects cannot show"):
        calibrate_folder(photographs, face_finder, encoder, NoCrowding())
    copies(photographs, photographs, 24, first=1)
    table, skipped = calibrate_folder(photographs, face_finder, encoder, NoCrowding())
    assert len(skipped) == 13
    assert {s.path.name for s in skipped} == {"wall"}
    assert "No face" in skipped[0].reason
    assert (table.data.subjects, table.data.faces) == (26, 26 * 6)
    assert table.encoder_sha256 == encoder.info.sha256


def test_a_photograph_counts_once_and_for_one_person(
    photographs: Path, tmp_path: Path, face_finder: FaceFinder, encoder: EncoderRuntime
) -> None:
    folder = tmp_path / "repeated"
    copies(photographs, folder, 28)
    shutil.copy(folder / "p1" / "png", folder / "p1" / "again")
    shutil.copytree(folder / "p2", folder / "p2-anew")
    table, skipped = calibrate_folder(folder, face_finder, encoder, NoCrowding())
    repeated = {(s.person, s.path.name): s for s in skipped if s.code == "duplicate"}
    assert list(repeated) == [("p1", "png")]
    assert str(folder / "p1" / "again") in repeated["p1", "png"].reason
    disputed = {(s.person, s.path.name): s for s in skipped if s.code == "two_names"}
    assert set(disputed) == {(person, path.name) for person in ("p2", "p2-anew") for path in (folder / "p2").iterdir()}
    assert str(folder / "p2-anew" / "smaller") in disputed["p2", "smaller"].reason
    assert (table.data.subjects, table.data.faces) == (27, 27 * 6)


def test_photographs_that_the_encoder_learnt_from_are_refused(
    photographs: Path, weights: EncoderWeights, face_finder: FaceFinder, caplog: pytest.LogCaptureFixture
) -> None:
    path = photographs / "hopper" / "png"
    chip = face_finder.find(path.read_bytes(), FacePolicy.LARGEST).faces[0].chip
    trained = create_runtime(replace(weights, trained_on=record_of(chip[None])))
    with pytest.raises(SiteCalibrationError, match=f"trained on {path}"):
        calibrate_folder(photographs, face_finder, trained, NoCrowding())
    path.unlink()
    with pytest.raises(SiteCalibrationError, match="2 subjects cannot show"):
        calibrate_folder(photographs, face_finder, trained, NoCrowding())
    assert f"do not count here: {weights.name} {weights.version} may have learnt" in caplog.text


def test_a_folder_that_is_none_is_refused(tmp_path: Path, face_finder: FaceFinder, encoder: EncoderRuntime) -> None:
    with pytest.raises(SiteCalibrationError, match="not a folder"):
        calibrate_folder(tmp_path / "none", face_finder, encoder, NoCrowding())
    (tmp_path / "empty").mkdir()
    with pytest.raises(SiteCalibrationError, match="no face"):
        calibrate_folder(tmp_path / "empty", face_finder, encoder, NoCrowding())


def copies(photographs: Path, folder: Path, people: int, first: int = 0) -> None:
    """The same two people under many names, each a little darker: enough to measure, and badly."""
    for number in range(first, first + people):
        person = folder / f"p{number}"
        shutil.copytree(photographs / ("collins", "hopper")[number % 2], person)
        darker = (collins(), hopper())[number % 2].point([max(value - number, 0) for value in range(256)] * 3)
        for name, data in variants(darker).items():
            (person / name).write_bytes(data)


@pytest.mark.parametrize("crowding", [NoCrowding(), MadeUpCrowding()], ids=["plain", "crowded"])
def test_a_folder_of_groups_measures_each_within_itself(
    photographs: Path, tmp_path: Path, face_finder: FaceFinder, encoder: EncoderRuntime, crowding: Crowding
) -> None:
    folder = tmp_path / "grouped"
    copies(photographs, folder / "staff", 14)
    copies(photographs, folder / "guests", 16, first=14)
    (folder / "staff" / ".hidden").mkdir()
    (folder / "notes.txt").write_text("not a group")
    table, skipped = calibrate_folder(folder, face_finder, encoder, crowding)
    # People of one name in two groups are two people.
    assert (table.data.subjects, table.data.faces) == (30, 30 * 6)
    assert [(g.name, g.subjects, g.faces) for g in table.groups] == [("guests", 16, 96), ("staff", 14, 84)]
    assert all(g.claimed and g.part_of is None for g in table.groups)
    assert "staff" in table.groups[1].definition
    # Within a group of 14 there are 14 * 13 / 2 pairs of people with 6 * 6 comparisons each.
    assert table.groups[1].non_mated == 91 * 36
    assert len(skipped) == 15
    assert table.cohort_sha256 == (None if isinstance(crowding, NoCrowding) else crowding.digest)
    assert table.bound(Claim.EVERY_GROUP, table.default_fmr, 1) is not None


def test_a_folder_of_people_has_no_groups(
    photographs: Path, tmp_path: Path, face_finder: FaceFinder, encoder: EncoderRuntime
) -> None:
    copies(photographs, tmp_path / "flat", 26)
    table, _ = calibrate_folder(tmp_path / "flat", face_finder, encoder, NoCrowding())
    assert table.groups == ()
    assert table.data.subjects == 26


def test_photographs_beside_folders_of_people_are_refused(
    photographs: Path, tmp_path: Path, face_finder: FaceFinder, encoder: EncoderRuntime
) -> None:
    folder = tmp_path / "mixed"
    copies(photographs, folder / "staff", 14)
    shutil.copytree(photographs / "collins", folder / "ada")
    with pytest.raises(SiteCalibrationError, match="within a group, or nobody") as refused:
        calibrate_folder(folder, face_finder, encoder, NoCrowding())
    assert f"{folder / 'ada'} holds photographs" in str(refused.value)
    # Where all but one are people, the one is to be found.
    assert f"{folder / 'staff' / 'p0'} is a folder in another" in str(refused.value)
    # Likewise where one folder holds both.
    shutil.rmtree(folder / "ada")
    shutil.copy(photographs / "collins" / "compressed", folder / "staff" / "photograph")
    with pytest.raises(SiteCalibrationError, match="staff holds photographs"):
        calibrate_folder(folder, face_finder, encoder, NoCrowding())


@pytest.mark.parametrize("people", [1, 2])
def test_a_group_of_too_few_people_is_refused_by_name(
    photographs: Path, tmp_path: Path, face_finder: FaceFinder, encoder: EncoderRuntime, people: int
) -> None:
    folder = tmp_path / "grouped"
    copies(photographs, folder / "staff", 26)
    copies(photographs, folder / "guests", people, first=26)
    with pytest.raises(SiteCalibrationError, match=f"{people} people of the group 'guests'"):
        calibrate_folder(folder, face_finder, encoder, NoCrowding())


def test_what_is_enrolled_is_measured_with_its_crowding(tmp_path: Path) -> None:
    crowding = MadeUpCrowding()
    gallery = SqliteGallery(tmp_path / "crowded", encoder_digest=RUN.sha256, crowding=crowding)
    enrol_people(gallery, 40, 3)
    crowded, plain = (calibrate_gallery(gallery, "default", RUN, c) for c in (crowding, NoCrowding()))
    gallery.close()
    assert (crowded.cohort_sha256, plain.cohort_sha256) == (crowding.digest, None)
    assert crowded.default.threshold != pytest.approx(plain.default.threshold, abs=1e-3)


def test_the_command_refuses_in_one_line_and_writes_nothing(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.json"
    result = tessera("calibrate", str(out), "--photographs", str(photographs))
    assert result.returncode == 3
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
    assert "1 template: threshold" in result.stdout
    table = read_calibration(out, encoder.info.sha256)
    assert table.data.subjects == 40
    # With the cohort that lies beside the encoder, which the service then asks for.
    shipped = read_cohort(EncodingSettings().directory / COHORT_FILE)
    shipped_table = EncodingSettings().directory / CALIBRATION_FILE
    assert table.cohort_sha256 == shipped.digest
    audit = tessera("gallery", "audit", "--data-dir", str(data), TESSERA_DECISIONS__CALIBRATION=str(out))
    assert audit.returncode == 0, audit.stderr
    missing = tessera("serve", "--data-dir", str(data), TESSERA_DECISIONS__CALIBRATION=str(tmp_path / "none.json"))
    assert missing.returncode == 3
    assert "none.json" in missing.stderr
    with pytest.raises(CalibrationError):
        read_calibration(out, "cd" * 32)
    assert re.fullmatch(rf"{read_calibration(shipped_table, encoder.info.sha256).version}-own-\w{{8}}", table.version)
    with Server(data, TESSERA_DECISIONS__CALIBRATION=str(out)) as server:
        assert f"calibration {table.version}\n" in server.log.read_text()
        assert httpx.get(f"{server.url}/model").json()["calibration_version"] == table.version
