from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from app.decisions import CalibrationError, load_calibration
from app.decisions.calibration import CALIBRATION_FILE, Calibration
from app.encoding import EncoderInfo, Precision, RuntimeName
from tests.model.support import unit_vectors

pytest.importorskip("pyarrow")

from model.calibrate import TARGETS, calibrate, encode_all, smallest_supported_fmr
from model.data import FaceSet

SHA256 = "ab" * 32


class FakeRuntime:
    """Reads the number of its face from the first two pixels and gives that row of a table."""

    def __init__(self, table: npt.NDArray[np.float32]) -> None:
        self.info = EncoderInfo("fake", "7", SHA256, RuntimeName.OPENVINO, Precision.F32, "none")
        self.batches: list[int] = []
        self._table = table

    def encode(self, chips: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.batches.append(len(chips))
        first = chips[:, 0, 0].astype(np.int64)
        return self._table[first[:, 0] * 256 + first[:, 1]]


def face_set(identity: npt.NDArray[np.int64], family: npt.NDArray[np.int64]) -> FaceSet:
    size = len(identity)
    chips = np.zeros((size, 112, 112, 3), dtype=np.uint8)
    chips[:, 0, 0, 0], chips[:, 0, 0, 1] = np.divmod(np.arange(size), 256)
    names = np.full(size, "heldout")
    return FaceSet(chips, identity, family, names, names, np.arange(size), np.zeros(size, dtype=np.bool_))


def people(subjects: int, images: int, noise: float = 0.06) -> tuple[FakeRuntime, FaceSet]:
    """Subjects scattered on the sphere, photographs around each; the first ten of them are one family, and alike."""
    rng = np.random.default_rng(subjects)
    centres = unit_vectors(subjects, 128)
    centres[:10] = centres[0] + 0.08 * centres[:10]
    vectors = centres.repeat(images, axis=0) + rng.normal(0, noise, (subjects * images, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    identity = np.arange(subjects).repeat(images)
    return FakeRuntime(vectors.astype(np.float32)), face_set(identity, np.where(identity < 10, 0, -1))


@pytest.fixture(scope="module")
def measured() -> tuple[FakeRuntime, FaceSet, Calibration]:
    runtime, faces = people(100, 3)
    return runtime, faces, calibrate(runtime, faces, "made up")


def test_the_points_have_the_rates_that_counting_gives(measured: tuple[FakeRuntime, FaceSet, Calibration]) -> None:
    runtime, faces, table = measured
    vectors = encode_all(runtime, faces.images(np.arange(len(faces))))
    mated, strangers, relatives = [], [], []
    for i in range(len(faces)):
        for j in range(i + 1, len(faces)):
            distance = float(np.square(vectors[i] - vectors[j]).sum())
            if faces.identity[i] == faces.identity[j]:
                mated.append(distance)
            else:
                related = faces.family[i] == faces.family[j] == 0
                (relatives if related else strangers).append(distance)
    non_mated = strangers + relatives
    assert (table.data.mated_pairs, table.data.non_mated_pairs) == (len(mated), len(non_mated))
    # A distance within rounding of a threshold may be counted on either side.
    for point in table.operating_points:
        for rate, distances in (
            (point.false_match_rate, non_mated),
            (point.false_match_rate_without_relatives, strangers),
            (1 - point.false_non_match_rate, mated),
        ):
            counted = np.mean(np.array(distances) <= point.threshold)
            assert rate == pytest.approx(counted, abs=1.5 / len(distances))
    loosest = table.operating_points[0]
    assert loosest.false_match_rate > loosest.false_match_rate_without_relatives
    assert table.operating_points[-1].false_non_match_rate > 0


def test_the_points_are_the_targets_that_the_data_supports(
    measured: tuple[FakeRuntime, FaceSet, Calibration],
) -> None:
    table = measured[2]
    targets = [t for t in TARGETS if t >= table.smallest_supported_fmr]
    assert targets == [1e-2, 3e-3, 1e-3]
    assert len(table.operating_points) == len(targets)
    for point, target in zip(table.operating_points, targets, strict=True):
        assert target - 2 / table.data.non_mated_pairs < point.false_match_rate <= target
    thresholds = [point.threshold for point in table.operating_points]
    assert thresholds == sorted(thresholds, reverse=True)
    refused = [point.false_non_match_rate for point in table.operating_points]
    assert refused == sorted(refused)


def test_the_table_says_what_it_was_measured_on(measured: tuple[FakeRuntime, FaceSet, Calibration]) -> None:
    table = measured[2]
    assert table.encoder_sha256 == SHA256
    assert table.version == "fake-7-abababab"
    assert table.data.description == "made up"
    assert (table.data.subjects, table.data.faces) == (100, 300)
    assert (table.data.runtime, table.data.precision) == ("openvino", "f32")


@pytest.mark.parametrize(
    ("subjects", "floor"), [(3, 1.0), (5, 0.3), (100, 3 / 4950), (728, 3 / 264628), (2, 1), (1, 1)]
)
def test_the_rule_of_three_over_pairs_of_subjects(subjects: int, floor: float) -> None:
    assert smallest_supported_fmr(subjects) == pytest.approx(floor)


@pytest.mark.parametrize(
    # At 200 subjects the floor, 1.5e-4, lies between two targets; at 246 it is just below 1e-4.
    ("subjects", "default"),
    [(26, 1e-2), (100, 1e-3), (200, 3e-4), (245, 3e-4), (246, 1e-4), (300, 1e-4)],
)
def test_the_default_is_one_in_ten_thousand_or_the_strictest_supported(subjects: int, default: float) -> None:
    runtime, faces = people(subjects, 2)
    table = calibrate(runtime, faces, "made up")
    assert table.default_fmr == default
    assert table.default_fmr >= table.smallest_supported_fmr
    assert table.default.false_match_rate <= default
    assert table.default.false_match_rate > default / 3


@pytest.mark.parametrize("subjects", [1, 2, 24])
def test_too_few_subjects_are_refused_by_number(subjects: int) -> None:
    runtime, faces = people(subjects, 12)
    with pytest.raises(ValueError, match=f"{subjects} subjects cannot show"):
        calibrate(runtime, faces, "made up")


def test_one_face_under_many_names_is_refused() -> None:
    runtime, faces = people(50, 2)
    same = FakeRuntime(np.eye(128, dtype=np.float32)[[0]].repeat(len(faces), axis=0))
    assert runtime.info == same.info
    with pytest.raises(ValueError, match="labelled wrongly"):
        calibrate(same, faces, "made up")


def test_the_table_comes_back_from_its_file(measured: tuple[FakeRuntime, FaceSet, Calibration], tmp_path: Path) -> None:
    table = measured[2]
    (tmp_path / CALIBRATION_FILE).write_text(table.model_dump_json(indent=2))
    assert load_calibration(tmp_path, SHA256) == table


def test_the_table_of_another_encoder_is_refused(
    measured: tuple[FakeRuntime, FaceSet, Calibration], tmp_path: Path
) -> None:
    (tmp_path / CALIBRATION_FILE).write_text(measured[2].model_dump_json())
    with pytest.raises(CalibrationError, match="abababababab, but cdcdcdcdcdcd is loaded"):
        load_calibration(tmp_path, "cd" * 32)


@pytest.mark.parametrize("count", [1, 64, 65, 130])
def test_encode_all_works_in_batches(count: int) -> None:
    vectors = unit_vectors(count, 128)
    runtime, faces = FakeRuntime(vectors), face_set(np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64))
    np.testing.assert_array_equal(encode_all(runtime, faces.images(np.arange(count))), vectors)
    assert sum(runtime.batches) == count
    assert max(runtime.batches) <= 64
