"""Merging two subjects, without HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from app.crowding import NoCrowding
from app.decisions import Calibration
from app.embeddings import MOST_FUSED, fused_template, squared_distance
from app.gallery import SqliteGallery
from app.recognition.results import Idempotency, Merger, Replay
from app.recognition.service import IdempotencyMismatch
from app.recognition.subjects import SubjectService, SubjectsNotAlike
from tests.app.gallery.contract import MadeUpCrowding, axis, ids, template, unit
from tests.app.gallery.sqlite.support import DIGEST


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[SqliteGallery]:
    with closing(SqliteGallery(tmp_path / "data", encoder_digest=DIGEST, crowding=NoCrowding())) as opened:
        yield opened


def key(fingerprint: str = "f") -> Idempotency[Merger]:
    return Idempotency("key", fingerprint, lambda merger: ",".join(ids(merger.subject)))


def test_how_alike_two_subjects_are_is_told_as_an_audit_measures_it(tmp_path: Path, calibration: Calibration) -> None:
    crowding = MadeUpCrowding(0.05)
    one, other = axis(0), axis(0, 1, 0.3)
    with closing(SqliteGallery(tmp_path / "data", encoder_digest=DIGEST, crowding=crowding)) as gallery:
        gallery.enroll("default", "ada", [template(one, "a")])
        gallery.enroll("default", "ada-2", [template(other, "b"), template(other, "c")])
        merger = SubjectService(gallery, calibration, crowding).merge("default", "ada", "ada-2")
    assert isinstance(merger, Merger)
    assert merger.template_ids == ("b", "c")
    assert merger.distance == pytest.approx(squared_distance(one, other), abs=1e-6)
    # The one template is the probe, and the subject has two.
    limit = calibration.default_point(2).threshold - crowding.of(one) - crowding.of(other)
    assert merger.threshold == pytest.approx(limit, abs=1e-6)


def test_means_of_many_templates_are_not_what_is_compared(gallery: SqliteGallery, calibration: Calibration) -> None:
    """Two people whose means are near each other, as means are, though no template is near the other's mean."""
    limit = calibration.default_point(MOST_FUSED).threshold
    for name, middle in (("ada", axis(0)), ("bob", axis(0, 1, 0.9))):
        many = [template(unit(middle + np.float32(0.9) * axis(10 + n)), f"{name}{n}") for n in range(MOST_FUSED)]
        gallery.enroll("default", name, many)
    means = [fused_template(v.embeddings) for v in gallery.subject_vectors("default", after=None, limit=2)]
    assert squared_distance(*means) < calibration.default.threshold
    with pytest.raises(SubjectsNotAlike) as refused:
        SubjectService(gallery, calibration, NoCrowding()).merge("default", "ada", "bob")
    assert refused.value.details["distance"] > limit


def test_the_line_is_where_the_threshold_is(gallery: SqliteGallery, calibration: Calibration) -> None:
    # A turn by t towards another axis is 2 - 2 / sqrt(1 + t^2) away.
    threshold = calibration.default.threshold
    service = SubjectService(gallery, calibration, NoCrowding())
    for number, share in enumerate((0.99, 1.01)):
        turn = ((2 / (2 - share * threshold)) ** 2 - 1) ** 0.5
        gallery.enroll("default", f"one{number}", [template(axis(0))])
        gallery.enroll("default", f"other{number}", [template(axis(0, 1, turn))])
    service.merge("default", "one0", "other0")
    with pytest.raises(SubjectsNotAlike) as refused:
        service.merge("default", "one1", "other1")
    assert refused.value.details["distance"] == pytest.approx(1.01 * threshold, abs=1e-3)
    assert isinstance(service.merge("default", "one1", "other1", force=True), Merger)


def test_the_same_request_sent_several_times_at_once_merges_once(
    gallery: SqliteGallery, calibration: Calibration
) -> None:
    gallery.enroll("default", "ada", [template(axis(0), "a")])
    gallery.enroll("default", "ada-2", [template(axis(0), "b")])
    service, barrier = SubjectService(gallery, calibration, NoCrowding()), threading.Barrier(4)

    def attempt(_: int) -> str:
        barrier.wait()
        result = service.merge("default", "ada", "ada-2", idempotency=key())
        return f"replay {result.body}" if isinstance(result, Replay) else ",".join(ids(result.subject))

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(attempt, range(4))) == ["a,b", *["replay a,b"] * 3]
    with pytest.raises(IdempotencyMismatch):
        service.merge("default", "ada", "ada-2", idempotency=key("other"))
