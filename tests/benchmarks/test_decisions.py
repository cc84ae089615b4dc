"""The benchmark behind the claims: what it counts, and when it says that a claim does not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")
pytest.importorskip("onnx")

from app.decisions import Calibration, Claim
from app.evaluation.bootstrap import Interval
from benchmarks.decisions import Faces, Row, all_pairs, by_people, by_person, mean_of, observe, read_rows, wilson
from benchmarks.lfw_service import people, report_identification, share, stranger_to
from tests.app.decisions.test_groups import CALIBRATION
from tests.model.support import unit_vectors


def faces_of(subjects: int, each: int, seed: int = 0) -> Faces:
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(subjects), each)
    own = unit_vectors(subjects, 128, seed)[subject] + rng.normal(0, 0.06, (len(subject), 128)).astype(np.float32)
    embeddings = own / np.linalg.norm(own, axis=1, keepdims=True)
    return Faces(embeddings.astype(np.float32), subject, rng.normal(0, 0.05, len(subject)).astype(np.float32))


def test_rates_are_those_of_counting_every_pair() -> None:
    faces, thresholds = faces_of(12, 3), [1.9, 0.7, 1.2]
    found = observe(faces, thresholds)
    for threshold, (fmr, fnmr) in zip(thresholds, found, strict=True):
        matched: dict[bool, list[bool]] = {True: [], False: []}
        for a in range(36):
            for b in range(a + 1, 36):
                distance = float(np.square(faces.embeddings[a] - faces.embeddings[b]).sum())
                adjusted = distance + float(faces.crowding[a]) + float(faces.crowding[b])
                matched[bool(faces.subject[a] == faces.subject[b])].append(adjusted <= threshold)
        assert fmr.value == pytest.approx(np.mean(matched[False]), abs=2e-3)
        assert fnmr.value == pytest.approx(1 - np.mean(matched[True]), abs=3e-2)
        assert fmr.low <= fmr.value <= fmr.high


@pytest.mark.parametrize(
    ("observed", "holds"),
    [(Interval(0.02, 0.009, 0.04), True), (Interval(0.02, 0.0101, 0.04), False), (Interval(0, 0, 0.001), True)],
)
def test_a_claim_is_refuted_where_all_of_the_interval_is_above_it(observed: Interval, holds: bool) -> None:
    assert Row(0.01, observed).holds is holds


@pytest.mark.parametrize("claim", Claim)
def test_a_row_is_printed_for_every_target_that_can_be_claimed(
    claim: Claim, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration: Calibration = CALIBRATION
    rows = all_pairs(calibration, faces_of(12, 3), claim)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(rows) > 2
    for row, line in zip(rows, lines[2:], strict=True):
        bound = calibration.bound(claim, row.claimed, 1)
        assert bound is not None
        assert f"| {bound.threshold:.3f} | {bound.group or 'all pairs'} |" in line
        assert line.endswith("yes |" if row.holds else "no |")


def test_the_interval_of_a_share_is_wilsons() -> None:
    # Wilson 1927 by hand for 5 of 50, z = 1.959964.
    found = wilson(5, 50)
    assert found.value == 0.1
    assert (found.low, found.high) == (pytest.approx(0.04348, abs=1e-4), pytest.approx(0.21360, abs=1e-4))
    assert wilson(0, 50).low == 0
    assert wilson(0, 50).high == pytest.approx(0.0713, abs=1e-3)


def test_two_who_meet_often_widen_the_interval() -> None:
    names = [(f"p{i}", f"q{i}") for i in range(200)]
    once = by_people(names, np.array([i % 20 == 0 for i in range(200)]))
    again = by_people([(f"p{i % 10}", f"q{i % 10}") for i in range(200)], np.array([i % 10 == 0 for i in range(200)]))
    assert once.value == pytest.approx(0.05)
    assert again.value == pytest.approx(0.1)
    assert again.high - again.low > 2 * (once.high - once.low)
    assert by_people(names, np.zeros(200, dtype=np.bool_)).high == pytest.approx(wilson(0, 200).high)


def test_a_person_who_is_missed_throughout_widens_the_interval() -> None:
    # One comparison in ten is missed: of ten people with twenty each, all of one person, or two of everybody.
    names = [f"p{i % 10}" for i in range(200)]
    one, everybody = (
        by_person(names, np.array(m)) for m in ([i % 10 == 0 for i in range(200)], [i < 20 for i in range(200)])
    )
    assert one.value == everybody.value == pytest.approx(0.1)
    assert (everybody.low, everybody.high) == (pytest.approx(0.1), pytest.approx(0.1))
    independent = wilson(20, 200)
    assert one.high - one.low > 2 * (independent.high - independent.low)
    assert by_person(names, np.zeros(200, dtype=np.bool_)) == wilson(0, 10)


def test_the_mean_of_galleries_has_the_interval_of_students_t() -> None:
    # Deviation 0.01 over four galleries, t(0.975, 3) = 3.1824.
    found = mean_of([0.02, 0.02, 0.04, 0.04])
    half = 3.1824 * np.std([0.02, 0.02, 0.04, 0.04], ddof=1) / 2
    assert (found.value, found.high) == (pytest.approx(0.03), pytest.approx(0.03 + half, rel=1e-4))


def test_rows_are_kept_and_read_again(tmp_path: Path) -> None:
    assert read_rows(None) == read_rows(tmp_path / "absent.json") == {}
    (tmp_path / "rows.json").write_text('{"LFW": [{"claimed": 0.01, "observed": {"value": 0.1, "low": 0, "high": 1}}]}')
    assert read_rows(tmp_path / "rows.json") == {"LFW": [Row(0.01, Interval(0.1, 0, 1))]}


# --- LFW through HTTP


def test_people_have_their_photographs_in_order() -> None:
    found = people({"Ann_Lee_0002": b"2", "Bo_0001": b"b", "Ann_Lee_0001": b"1"})
    assert found == {"Ann_Lee": [b"1", b"2"], "Bo": [b"b"]}


def test_a_stranger_is_somebody_else() -> None:
    import random  # noqa: PLC0415

    chooser = random.Random(0)
    assert {stranger_to("a", ["a", "b", "c"], chooser) for _ in range(50)} == {"b", "c"}


def test_who_is_found_and_who_is_named_are_counted_apart(capsys: pytest.CaptureFixture[str]) -> None:
    probes = [("ada", b""), ("bob", b""), ("eve", b""), ("dan", b"")]
    answers: list[tuple[int, dict[str, Any]]] = [
        (200, {"subject_id": "ada", "candidates": [{"subject_id": "ada"}]}),
        (200, {"subject_id": None, "candidates": [{"subject_id": "bob"}]}),
        (200, {"subject_id": "ada", "candidates": [{"subject_id": "ada"}]}),
        (422, {"code": "no_face"}),
    ]
    report_identification(probes, answers)
    out = capsys.readouterr().out
    assert f"first candidate right {share(2, 4)}" in out
    assert f"right person {share(1, 4)}, with a wrong one {share(1, 4)}" in out
