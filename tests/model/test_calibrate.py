from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from app.decisions import CalibrationError, Claim, load_calibration
from app.decisions.calibration import CALIBRATION_FILE, Calibration
from app.encoding import EncoderInfo, EncoderWeights, Encodings, Precision, RuntimeName
from app.encoding.quantisation import LayerInput
from tests.model.support import unit_vectors

pytest.importorskip("pyarrow")

from app.crowding import NoCrowding
from app.evaluation.calibration import TARGETS, rule_of_three_fmr
from model.calibrate import add_precision, calibrate, encode_all, precisions_of
from model.commands import StoppedError
from model.data.face_set import FaceSet

pytestmark = pytest.mark.slow

SHA256 = "ab" * 32


class FakeRuntime:
    """Reads the number of its face from the first two pixels and gives that row of a table."""

    streams = 1

    def __init__(self, table: npt.NDArray[np.float32], precision: Precision = Precision.F32) -> None:
        self.info = EncoderInfo("fake", "7", SHA256, RuntimeName.OPENVINO, precision, "none")
        self.batches: list[int] = []
        self.table = table
        self.norms = np.full(len(table), 10, dtype=np.float32)

    def encode(self, chips: npt.NDArray[np.uint8]) -> Encodings:
        self.batches.append(len(chips))
        first = chips[:, 0, 0].astype(np.int64)
        rows = first[:, 0] * 256 + first[:, 1]
        return Encodings(self.table[rows], self.norms[rows])


def face_set(identity: npt.NDArray[np.int64], family: npt.NDArray[np.int64]) -> FaceSet:
    size = len(identity)
    chips = np.zeros((size, 112, 112, 3), dtype=np.uint8)
    chips[:, 0, 0, 0], chips[:, 0, 0, 1] = np.divmod(np.arange(size), 256)
    names = np.full(size, "heldout")
    sides = np.where(np.arange(size) % 3, 100, 50).astype(np.float32)
    finished = np.zeros(size, dtype=np.bool_)
    unknown = np.full(size, "")
    return FaceSet(chips, identity, family, names, names, unknown, unknown, unknown, sides, np.arange(size), finished)


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
    runtime, faces = people(100, 4)
    return (
        runtime,
        faces,
        calibrate(runtime, faces, "made up", NoCrowding(), others=[FakeRuntime(runtime.table, Precision.BF16)]),
    )


def distances_of(runtime: FakeRuntime, faces: FaceSet) -> tuple[list[float], list[float], list[float]]:
    """Squared distances of mated pairs, of strangers and of relatives, one pair after the other."""
    vectors = encode_all(runtime, faces.images(np.arange(len(faces)))).embeddings
    mated, strangers, relatives = list[float](), list[float](), list[float]()
    for i in range(len(faces)):
        for j in range(i + 1, len(faces)):
            distance = float(np.square(vectors[i] - vectors[j]).sum())
            if faces.identity[i] == faces.identity[j]:
                mated.append(distance)
            else:
                related = faces.family[i] == faces.family[j] == 0
                (relatives if related else strangers).append(distance)
    return mated, strangers, relatives


def test_the_points_have_the_rates_that_counting_gives(measured: tuple[FakeRuntime, FaceSet, Calibration]) -> None:
    runtime, faces, table = measured
    mated, strangers, relatives = distances_of(runtime, faces)
    non_mated = strangers + relatives
    single = table.curve(1)
    assert (single.templates, single.mated, single.non_mated) == (1, len(mated), len(non_mated))
    # A distance within rounding of a threshold may be counted on either side.
    for point in single.operating_points:
        shown = [(1 - point.false_non_match_rate.value, mated)]
        if point.threshold >= single.strictest.threshold:
            shown.append((point.false_match_rate.value, non_mated))
        for rate, distances in shown:
            counted = np.mean(np.array(distances) <= point.threshold)
            assert rate == pytest.approx(counted, abs=1.5 / len(distances))
    assert single.operating_points[-1].false_non_match_rate.value > 0


def test_the_points_are_the_targets_that_the_data_supports(
    measured: tuple[FakeRuntime, FaceSet, Calibration],
) -> None:
    single = measured[2].curve(1)
    assert single.rule_of_three_fmr == pytest.approx(3 / 4950)
    targets = [t for t in TARGETS if t >= single.rule_of_three_fmr]
    measured_points = [p for p in single.operating_points if p.threshold >= single.strictest.threshold]
    assert len(measured_points) == len(targets)
    # Stricter ones are there for what they miss; their rate is at most that of the last that could be measured.
    beyond = single.operating_points[len(targets) :]
    assert beyond
    assert {p.false_match_rate for p in beyond} == {single.strictest.false_match_rate}
    for point, target in zip(measured_points, targets, strict=True):
        assert target - 2 / single.non_mated < point.false_match_rate.value <= target
    refused = [point.false_non_match_rate.value for point in single.operating_points]
    assert refused == sorted(refused)


def test_several_templates_have_curves_of_their_own_as_far_as_there_are_faces(
    measured: tuple[FakeRuntime, FaceSet, Calibration],
) -> None:
    table = measured[2]
    assert [c.templates for c in table.curves] == [1, 2, 3]
    assert [c.subjects for c in table.curves] == [100, 100, 100]
    # Of four faces so many are left as probes, four times.
    assert [c.mated for c in table.curves[1:]] == [100 * 2 * 4, 100 * 1 * 4]
    missed = [c.at_rate(table.default_fmr) for c in table.curves]
    rates = [p.false_non_match_rate.value for p in missed if p is not None]
    assert rates[0] > max(rates[1:])


def test_the_strata_are_parts_of_the_whole(measured: tuple[FakeRuntime, FaceSet, Calibration]) -> None:
    runtime, faces, table = measured
    mated, strangers, relatives = distances_of(runtime, faces)
    rows = {stratum.name: stratum for stratum in table.strata}
    sizes = ["smaller face below 64 pixels", "smaller face 64 to 128 pixels"]
    assert list(rows) == ["relatives", "without relatives", "source heldout", *sizes]
    assert (rows["relatives"].mated, rows["relatives"].non_mated, rows["relatives"].subjects) == (0, len(relatives), 10)
    assert rows["relatives"].false_non_match_rate is None
    assert rows["without relatives"].non_mated == len(strangers)
    assert rows["without relatives"].mated == rows["source heldout"].mated == len(mated)
    for name, distances in (("relatives", relatives), ("without relatives", strangers)):
        rate = rows[name].false_match_rate
        assert rate is not None
        counted = np.mean(np.array(distances) <= table.default.threshold)
        assert rate.value == pytest.approx(counted, abs=1.5 / len(distances))
    # Every third face, the first of them included, is a small one.
    small = [i % 3 == 0 for i in range(len(faces))]
    pairs = [(i, j) for i in range(len(faces)) for j in range(i) if faces.identity[i] == faces.identity[j]]
    for name, wanted in zip(sizes, (True, False), strict=True):
        assert rows[name].mated == sum((small[i] or small[j]) is wanted for i, j in pairs)
    assert sum(rows[name].non_mated for name in sizes) == len(strangers) + len(relatives)
    everybody = rows["source heldout"].false_match_rate
    assert everybody is not None
    assert everybody.value == pytest.approx(table.default.false_match_rate.value)


def test_another_precision_is_measured_at_the_same_threshold(
    measured: tuple[FakeRuntime, FaceSet, Calibration],
) -> None:
    table = measured[2]
    [other] = table.precisions
    assert (other.runtime, other.precision) == ("openvino", "bf16")
    # The stand-in gives the same embeddings in both.
    assert other.false_match_rate == pytest.approx(table.default.false_match_rate.value)
    assert other.false_non_match_rate == pytest.approx(table.default.false_non_match_rate.value)


def test_a_precision_of_another_machine_is_added(measured: tuple[FakeRuntime, FaceSet, Calibration]) -> None:
    runtime, faces, table = measured
    rng = np.random.default_rng(5)
    rough = runtime.table + rng.normal(0, 0.05, runtime.table.shape).astype(np.float32)
    rough /= np.linalg.norm(rough, axis=1, keepdims=True)
    added = add_precision(table, FakeRuntime(rough, Precision.INT8), faces, NoCrowding())
    assert [p.precision for p in added.precisions] == ["bf16", "int8"]
    assert added.model_copy(update={"precisions": table.precisions}) == table
    distances = np.square(rough[:, None] - rough[None]).sum(axis=2)
    mated = faces.identity[:, None] == faces.identity[None]
    np.fill_diagonal(mated, False)
    missed = (distances[mated] > table.default.threshold).mean()
    assert missed > table.default.false_non_match_rate.value
    assert added.precisions[1].false_non_match_rate == pytest.approx(missed, abs=1e-3)
    again = add_precision(added, FakeRuntime(runtime.table, Precision.INT8), faces, NoCrowding())
    assert [p.precision for p in again.precisions] == ["bf16", "int8"]
    assert again.precisions[1].false_non_match_rate < missed


def test_what_the_table_was_measured_with_cannot_be_added(
    measured: tuple[FakeRuntime, FaceSet, Calibration],
) -> None:
    runtime, faces, table = measured
    with pytest.raises(StoppedError, match="measured in f32"):
        add_precision(table, runtime, faces, NoCrowding())
    with pytest.raises(StoppedError, match="400 faces of 100 people"):
        add_precision(table, runtime, faces.where(faces.identity > 0), NoCrowding())


@pytest.mark.parametrize(
    ("quantised", "has_bf16", "expected"),
    [
        (True, True, [Precision.BF16, Precision.INT8, Precision.F32]),
        (True, False, [Precision.INT8, Precision.F32]),
        (False, False, [Precision.F32]),
    ],
)
def test_every_precision_that_runs_here_is_checked(quantised: bool, has_bf16: bool, expected: list[Precision]) -> None:
    seen = {"layer": LayerInput(0, 1, np.ones(1, np.float32))} if quantised else {}
    assert precisions_of(EncoderWeights("fake", "1", SHA256, b"", quantisation=seen), has_bf16) == expected


def test_the_table_says_what_it_was_measured_on(measured: tuple[FakeRuntime, FaceSet, Calibration]) -> None:
    table = measured[2]
    assert table.encoder_sha256 == SHA256
    assert table.version == "fake-7-abababab"
    assert table.data.description == "made up"
    assert (table.data.subjects, table.data.faces) == (100, 400)
    assert (table.data.runtime, table.data.precision) == ("openvino", "f32")


@pytest.mark.parametrize(("pairs", "floor"), [(3, 1.0), (10, 0.3), (4950, 3 / 4950), (264628, 3 / 264628), (0, 1)])
def test_the_rule_of_three_over_pairs_of_subjects(pairs: int, floor: float) -> None:
    assert rule_of_three_fmr(pairs) == pytest.approx(floor)


@pytest.mark.parametrize(("subjects", "images", "supported"), [(26, 2, 4e-2), (100, 2, 2e-3), (500, 2, 1e-4)])
def test_the_default_is_one_in_ten_thousand_or_the_strictest_supported(
    subjects: int, images: int, supported: float
) -> None:
    runtime, faces = people(subjects, images)
    table = calibrate(runtime, faces, "made up", NoCrowding())
    assert table.default_fmr == max(1e-4, table.smallest_supported(Claim.POOLED, table.most_templates))
    assert supported / 2 < table.default_fmr <= supported
    assert table.default.claimed_fmr <= table.default_fmr


@pytest.mark.parametrize("subjects", [1, 2, 7])
def test_too_few_subjects_are_refused_by_number(subjects: int) -> None:
    runtime, faces = people(subjects, 12)
    with pytest.raises(ValueError, match=f"{subjects} subjects cannot show"):
        calibrate(runtime, faces, "made up", NoCrowding())


def test_one_face_under_many_names_is_refused() -> None:
    runtime, faces = people(50, 2)
    same = FakeRuntime(np.eye(128, dtype=np.float32)[[0]].repeat(len(faces), axis=0))
    assert runtime.info == same.info
    with pytest.raises(ValueError, match="rightly labelled"):
        calibrate(same, faces, "made up", NoCrowding())


def test_the_weak_are_those_whose_persons_are_missed_far_more_often() -> None:
    """Of every fourth face the embedding is short, and so far off that it misses its person."""
    runtime, faces = people(200, 4)
    rng = np.random.default_rng(3)
    weak = np.arange(len(faces)) % 4 == 0
    runtime.table[weak] += rng.normal(0, 0.11, (int(weak.sum()), 128)).astype(np.float32)
    runtime.table /= np.linalg.norm(runtime.table, axis=1, keepdims=True)
    runtime.norms = np.where(weak, 5.0, 10.0).astype(np.float32) + rng.uniform(0, 1, len(faces)).astype(np.float32)
    quality = calibrate(runtime, faces, "made up", NoCrowding()).quality
    assert 5.5 < quality.limit < 10.1
    bands = quality.bands
    assert bands[0].shortest == pytest.approx(float(runtime.norms.min()))
    assert all(band.longest == after.shortest for band, after in pairwise(bands))
    assert all(b.false_non_match_rate.value >= quality.missed for b in bands if b.longest <= quality.limit)
    pairs = len(faces) * (len(faces) - 1) // 2
    assert sum(band.mated + band.non_mated for band in bands) == pairs
    strong = [band for band in bands if band.shortest >= 10]
    assert max(b.false_non_match_rate.value for b in strong) < quality.missed


def test_where_all_faces_are_alike_none_is_weak(measured: tuple[FakeRuntime, FaceSet, Calibration]) -> None:
    quality = measured[2].quality
    assert (quality.limit, quality.inflation) == (0.0, 1.0)


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
    encodings = encode_all(runtime, faces.images(np.arange(count)))
    np.testing.assert_array_equal(encodings.embeddings, vectors)
    np.testing.assert_array_equal(encodings.norms, runtime.norms)
    assert sum(runtime.batches) == count
    assert max(runtime.batches) <= 64
