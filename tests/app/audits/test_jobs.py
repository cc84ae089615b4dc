from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.audits import jobs
from app.audits.jobs import AuditJob, AuditJobs, AuditNotFound, AuditStatus
from app.audits.report import audit
from app.crowding import NoCrowding
from app.embeddings import Embedding
from app.gallery import GalleryUnavailable, NewTemplate, SqliteGallery
from tests.app.audits.test_report import CALIBRATION, axis


def embedding(index: int, towards: int | None = None, share: float = 0.0) -> Embedding:
    return axis(index, towards, share)


def filled(directory: Path) -> SqliteGallery:
    """Three subjects: two alike, one with an outlier and a weak template."""
    gallery = SqliteGallery(directory, encoder_digest="d")
    gallery.enroll("default", "ada", [NewTemplate("t0", embedding(0), 20)])
    gallery.enroll("default", "ada-2", [NewTemplate("t1", embedding(0, 1, 0.1), 20)])
    gallery.enroll("default", "eve", [NewTemplate("t2", embedding(2), 1e-6), NewTemplate("t3", embedding(3), 20)])
    return gallery


def ended(audits: AuditJobs) -> AuditJob:
    deadline = time.monotonic() + 60
    while (job := audits.get("default")).status in jobs.UNDER_WAY:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return job


def restarted(directory: Path, look: Callable[[AuditJobs], None]) -> None:
    gallery = SqliteGallery(directory, encoder_digest="d")
    audits = AuditJobs(gallery, CALIBRATION, NoCrowding())
    look(audits)
    audits.close()
    gallery.close()


def test_a_report_is_the_same_after_a_restart(tmp_path: Path) -> None:
    gallery = filled(tmp_path)
    expected = audit(gallery, "default", CALIBRATION, NoCrowding(), lambda _: None)
    assert expected.duplicates
    assert expected.outliers
    assert expected.weak
    audits = AuditJobs(gallery, CALIBRATION, NoCrowding())
    audits.start("default")
    job = ended(audits)
    assert job.report is not None
    audits.close()
    gallery.close()

    def look(again: AuditJobs) -> None:
        assert again.get("default") == job
        assert job.report is not None
        for name in ("duplicates", "confusable", "outliers", "weak", "duplicate_count", "rates", "population"):
            assert getattr(job.report, name) == getattr(expected, name)

    restarted(tmp_path, look)


def test_what_is_erased_while_nobody_looks_is_not_named(tmp_path: Path) -> None:
    gallery = filled(tmp_path)
    audits = AuditJobs(gallery, CALIBRATION, NoCrowding())
    audits.start("default")
    before = ended(audits).report
    assert before is not None
    audits.close()
    gallery.delete_subject("default", "ada")
    gallery.close()
    assert b"ada\0" not in (tmp_path / "gallery.sqlite3").read_bytes()

    def look(again: AuditJobs) -> None:
        report = again.get("default").report
        assert report is not None
        assert (report.duplicate_count, report.duplicates) == (before.duplicate_count - 1, ())
        assert all("ada" not in (pair.first, pair.second) for pair in report.confusable)
        assert (report.outliers, report.weak) == (before.outliers, before.weak)

    restarted(tmp_path, look)


def test_an_audit_that_was_interrupted_says_so_and_can_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = filled(tmp_path)
    audits = AuditJobs(gallery, CALIBRATION, NoCrowding())

    def endless(*arguments: object) -> None:
        *_, progress = arguments
        assert callable(progress)
        while True:
            progress(0.5)
            time.sleep(0.01)

    monkeypatch.setattr(jobs, "audit", endless)
    audits.start("default")
    assert audits.start("default").status in jobs.UNDER_WAY
    audits.close()
    gallery.close()
    monkeypatch.undo()

    def look(again: AuditJobs) -> None:
        job = again.get("default")
        assert (job.status, job.report) == (AuditStatus.INTERRUPTED, None)
        assert "start it again" in (job.error or "")
        again.start("default")
        assert ended(again).status is AuditStatus.DONE

    restarted(tmp_path, look)


def test_a_failure_is_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = filled(tmp_path)
    audits = AuditJobs(gallery, CALIBRATION, NoCrowding())
    with pytest.raises(AuditNotFound):
        audits.get("default")

    def fail(*_: object) -> None:
        raise GalleryUnavailable("the disk is gone")

    monkeypatch.setattr(jobs, "audit", fail)
    audits.start("default")
    job = ended(audits)
    assert (job.status, job.error) == (AuditStatus.FAILED, "the disk is gone")
    audits.close()
    gallery.close()

    def look(again: AuditJobs) -> None:
        assert again.get("default") == job

    restarted(tmp_path, look)
