from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from app.audits.page import audit_page
from app.audits.report import AuditReport, Population, RateCheck, audit, check_rates, compare_population
from app.crowding import NoCrowding
from app.decisions import Calibration, Estimate
from app.gallery import CollectionNotFound, NewTemplate, SqliteGallery
from tests.app.decisions.support import curve, point, table

CALIBRATION = Calibration.model_validate(
    table(curves=[curve(k, [point(1.3, 0.1), point(1.0, 0.01), point(0.8, 0.001)]) for k in (1, 2, 3)])
)


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[SqliteGallery]:
    opened = SqliteGallery(tmp_path, encoder_digest="d")
    yield opened
    opened.close()


def unit(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return (values / np.linalg.norm(values)).astype(np.float32)


def axis(index: int, towards: int | None = None, share: float = 0.0) -> npt.NDArray[np.float32]:
    values = np.zeros(128)
    values[index] = 1
    if towards is not None:
        values[towards] = share
    return unit(values)


def enrol(gallery: SqliteGallery, name: str, *vectors: npt.NDArray[np.float32], norm: float = 12.0) -> None:
    templates = [NewTemplate(f"{name}-{i}", vector, norm) for i, vector in enumerate(vectors)]
    gallery.enroll("default", name, templates)


def looked_over(gallery: SqliteGallery) -> AuditReport:
    return audit(gallery, "default", CALIBRATION, NoCrowding(), lambda share: None)


def test_an_empty_collection_has_nothing_to_report(gallery: SqliteGallery) -> None:
    report = looked_over(gallery)
    assert (report.subjects, report.templates, report.rates) == (0, 0, ())
    assert report.population is Population.TOO_FEW
    assert "fewer than two subjects" in audit_page(report)


def test_an_unknown_collection_is_refused(gallery: SqliteGallery) -> None:
    with pytest.raises(CollectionNotFound):
        audit(gallery, "none", CALIBRATION, NoCrowding(), lambda share: None)


def test_one_person_under_two_names_is_found_once(gallery: SqliteGallery) -> None:
    enrol(gallery, "zoe", axis(0))
    enrol(gallery, "ada", axis(0, 1, 0.3))
    enrol(gallery, "bob", axis(2))
    report = looked_over(gallery)
    [pair] = report.duplicates
    assert (pair.first, pair.second, report.duplicate_count) == ("ada", "zoe", 1)
    assert pair.distance == pytest.approx(2 - 2 / np.sqrt(1.09), abs=1e-6)
    assert pair.false_match_rate == 0.001
    # All pairs are listed by how alike they are, whether or not they match.
    assert [(p.first, p.second) for p in report.confusable] == [("ada", "zoe"), ("ada", "bob"), ("bob", "zoe")]
    assert report.confusable[-1].false_match_rate is None


def test_subjects_of_several_templates_are_compared_as_a_probe_is(gallery: SqliteGallery) -> None:
    curves = [
        curve(1, [point(1.3, 0.1), point(1.0, 0.01), point(0.8, 0.001)]),
        curve(2),
        curve(3, [point(1.2, 0.1), point(0.7, 0.01), point(0.45, 0.001)]),
    ]
    # What the templates of each share is the same; their means are far nearer than a photograph of one is to the other.
    for name, start in (("ada", 10), ("zoe", 20)):
        enrol(gallery, name, *(axis(0, start + i, 0.7) for i in range(3)))
    report = audit(gallery, "default", Calibration.model_validate(table(curves=curves)), NoCrowding(), lambda _: None)
    [pair] = report.confusable
    mean = 3 / np.sqrt(9 + 3 * 0.49)
    assert 2 - 2 * mean**2 < 0.3
    assert pair.distance == pytest.approx(2 - 2 * mean / np.sqrt(1.49), abs=1e-6)
    assert (pair.false_match_rate, report.duplicate_count) == (0.01, 0)


@pytest.mark.parametrize(("one", "several"), [("ada", "zoe"), ("zoe", "ada")])
def test_who_has_fewer_templates_is_compared_with_all_those_of_the_other(
    gallery: SqliteGallery, one: str, several: str
) -> None:
    enrol(gallery, one, axis(0))
    enrol(gallery, several, axis(0, 1, 0.5), axis(0, 2, 0.5))
    [pair] = looked_over(gallery).duplicates
    assert pair.distance == pytest.approx(2 - 2 * 2 / np.sqrt(4.5), abs=1e-6)


def test_a_template_of_somebody_else_stands_out(gallery: SqliteGallery) -> None:
    enrol(gallery, "ada", axis(0), axis(0, 1, 0.2), axis(5))
    enrol(gallery, "bob", axis(2), axis(2, 3, 0.2))
    report = looked_over(gallery)
    [outlier] = report.outliers
    assert (outlier.subject_id, outlier.template_id, report.outlier_count) == ("ada", "ada-2", 1)
    assert outlier.distance == pytest.approx(2.0, abs=1e-6)
    assert outlier.threshold == 0.8


def test_weak_templates_are_named(gallery: SqliteGallery) -> None:
    enrol(gallery, "ada", axis(0), norm=8.5)
    enrol(gallery, "bob", axis(1), norm=9.0)
    [weak] = looked_over(gallery).weak
    assert (weak.subject_id, weak.template_id, weak.norm) == ("ada", "ada-0", 8.5)


def test_the_ceiling_is_what_counting_gives() -> None:
    rng = np.random.default_rng(0)
    vectors = np.stack([unit(rng.normal(size=8)) for _ in range(120)])
    crowding = rng.uniform(-0.3, 0.3, 120).astype(np.float32)
    rows = check_rates(vectors, crowding, CALIBRATION)
    # At 0.001 fewer than ten of 7,140 pairs are to be expected.
    assert [row.threshold for row in rows] == [1.3, 1.0]
    for row in rows:
        near = [
            np.square(vectors[i] - vectors[j]).sum() + crowding[i] + crowding[j] <= row.threshold
            for i in range(120)
            for j in range(i)
        ]
        assert row.observed.value == pytest.approx(np.mean(near), abs=1e-4)
        assert row.observed.low < row.observed.value < row.observed.high
        assert row.pairs == 7140


def test_a_population_is_judged_where_its_rate_was_measured() -> None:
    """Beyond the strictest measured threshold a table repeats its rate, however many pairs there are to show it."""
    points = [point(1.3, 0.1), point(1.0, 0.05), point(0.6, 0.05), point(0.2, 0.05)]
    repeated = Calibration.model_validate(table(default_fmr=0.05, curves=[curve(1, points)]))
    rng = np.random.default_rng(0)
    vectors = np.stack([unit(np.concatenate([rng.normal(size=4), [2.0]])) for _ in range(150)])
    rows = check_rates(vectors, np.zeros(150, dtype=np.float32), repeated)
    assert [row.threshold for row in rows] == [1.3, 1.0]
    # Far more of them are within 1.0 than calibrated, and next to none within 0.2.
    assert rows[-1].observed.low > 0.1
    assert compare_population(rows) is Population.HARDER


class AxisCrowding:
    """What lies along the first axis is crowded, what lies along the third stands alone."""

    digest = "made up"

    def __call__(self, embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        crowding: npt.NDArray[np.float32] = 0.4 * embeddings[:, 0] - 0.2 * embeddings[:, 2]
        return crowding


def test_duplicates_and_look_alikes_are_judged_with_their_crowding(tmp_path: Path) -> None:
    crowding = AxisCrowding()
    gallery = SqliteGallery(tmp_path, encoder_digest="d", crowding=crowding)
    for name, first, share in (("ada", 0, 0.0), ("eve", 0, 0.3), ("bob", 2, 0.0), ("rob", 2, 1.0)):
        enrol(gallery, name, axis(first, first + 1, share))
    report = audit(gallery, "default", CALIBRATION, crowding, lambda share: None)
    gallery.close()
    # 0.08 and a crowding of 0.4 + 0.38; 0.59 and one of -0.2 - 0.14: the latter are less far apart than the usual 0.8.
    near, far = 2 - 2 / np.sqrt(1.09), 2 - 2 / np.sqrt(2)
    assert near + 0.4 + 0.4 / np.sqrt(1.09) > 0.8 > far - 0.2 - 0.2 / np.sqrt(2)
    [pair] = report.duplicates
    assert (pair.first, pair.second, pair.distance) == ("bob", "rob", pytest.approx(far, abs=1e-6))
    assert pair.false_match_rate == 0.001
    assert [(p.first, p.second) for p in report.confusable[:2]] == [("bob", "rob"), ("ada", "eve")]
    assert report.confusable[1].false_match_rate == 0.01


def test_a_template_is_compared_with_as_many_others_as_there_are_rates_of(gallery: SqliteGallery) -> None:
    vectors = [axis(0), axis(1), axis(2), axis(3), axis(4), axis(0, 1, 0.5)]
    enrol(gallery, "ada", *vectors)
    newest = unit(np.sum(vectors[2:5], axis=0))
    found = {outlier.template_id: outlier.distance for outlier in looked_over(gallery).outliers}
    assert CALIBRATION.most_templates == 3
    assert found["ada-5"] == pytest.approx(float(np.square(vectors[5] - newest).sum()), abs=1e-6)


def test_the_threshold_of_an_outlier_is_less_by_the_crowding_of_both_sides(tmp_path: Path) -> None:
    crowding = AxisCrowding()
    gallery = SqliteGallery(tmp_path, encoder_digest="d", crowding=crowding)
    enrol(gallery, "ada", axis(0), axis(0, 1, 0.5))
    enrol(gallery, "bob", axis(2), axis(2, 3, 0.5))
    report = audit(gallery, "default", CALIBRATION, crowding, lambda share: None)
    gallery.close()
    # Templates of both are 0.21 apart.
    assert {outlier.subject_id for outlier in report.outliers} == {"ada"}
    limit = 0.8 - 0.4 - 0.4 / np.sqrt(1.25)
    assert [outlier.threshold for outlier in report.outliers] == pytest.approx([limit, limit], abs=1e-6)


def estimate(low: float, high: float) -> Estimate:
    return Estimate(value=(low + high) / 2, low=low, high=high)


@pytest.mark.parametrize(
    ("observed", "population"),
    [
        (estimate(0.03, 0.05), Population.HARDER),
        (estimate(0.02, 0.05), Population.AS_MEASURED),
        (estimate(0.001, 0.01), Population.AS_MEASURED),
        (estimate(0.001, 0.009), Population.EASIER),
    ],
)
def test_a_population_is_judged_by_whether_the_intervals_are_apart(observed: Estimate, population: Population) -> None:
    loose = RateCheck(1.3, estimate(0.1, 0.2), estimate(0.5, 0.6), 1000)
    assert compare_population((loose, RateCheck(1.0, estimate(0.01, 0.02), observed, 1000))) is population


def test_progress_rises_to_one_and_may_stop_the_work(gallery: SqliteGallery) -> None:
    for number in range(5):
        enrol(gallery, f"s{number}", axis(number))
    shares: list[float] = []
    audit(gallery, "default", CALIBRATION, NoCrowding(), shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) == 6

    def stop(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(gallery, "default", CALIBRATION, NoCrowding(), stop)


def test_the_page_shows_what_was_found_and_escapes_what_clients_chose(gallery: SqliteGallery) -> None:
    rng = np.random.default_rng(0)
    for number in range(150):
        values = np.zeros(128)
        values[:8] = rng.normal(size=8)
        enrol(gallery, f"s{number:03}", unit(values), norm=8.0 if number == 7 else 12.0)
    enrol(gallery, "<script>", axis(100))
    enrol(gallery, "double", axis(100, 101, 0.1))
    report = looked_over(gallery)
    page = audit_page(report)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "s007-0" in page
    assert page.count("<circle") == len(report.rates) > 0
    assert "http://" not in page
    assert "https://" not in page
