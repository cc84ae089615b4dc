from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from app.decisions import Calibration, Claim
from app.embeddings import EMBEDDING_SIZE
from app.encoding import EncoderInfo, EncoderRuntime
from app.gallery import GalleryUnavailable
from app.recognition.service import RecognitionService
from app.version import VERSION
from tests.app.api.conftest import Enroll
from tests.app.api.helpers import files, ok, problem
from tests.app.photographs import blank

PARTS = ("encoder", "gallery", "audit_trail")

Sample = Callable[..., float | None]


@pytest.fixture
def sample(client: TestClient) -> Sample:
    """The value of one metric with these labels, None if it is not shown."""

    def value(name: str, **labels: str) -> float | None:
        response = client.get("/metrics")
        assert response.status_code == 200
        for family in text_string_to_metric_families(response.text):
            for found in family.samples:
                if found.name == name and found.labels == labels:
                    return found.value
        return None

    return value


def raises(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_livez(client: TestClient) -> None:
    assert ok(client.get("/livez"))["status"] == "ok"


def test_readyz_names_every_part(client: TestClient) -> None:
    assert ok(client.get("/readyz")) == {
        "status": "ok",
        "checks": {"encoder": "ok", "gallery": "ok", "audit_trail": "ok"},
    }


def test_a_gallery_that_does_not_answer_is_not_ready_but_alive(
    client: TestClient, service: RecognitionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.gallery, "check", raises(GalleryUnavailable("the disk is gone")))
    answer = problem(client.get("/readyz"), 503, "not_ready")
    assert "gallery" in answer["detail"]
    assert answer["checks"] == {"encoder": "ok", "gallery": "the disk is gone", "audit_trail": "ok"}
    ok(client.get("/livez"))


def test_a_closed_gallery_is_not_ready(client: TestClient, service: RecognitionService) -> None:
    service.gallery.close()
    answer = problem(client.get("/readyz"), 503, "not_ready")
    assert "gallery" in answer["detail"]
    problem(client.get("/collections"), 503, "gallery_unavailable")
    problem(client.get("/subjects/ada"), 503, "gallery_unavailable")


class BrokenEncoder:
    """Fails, or gives numbers that are none."""

    def __init__(self, info: EncoderInfo, error: Exception | None) -> None:
        self.info, self._error = info, error

    def encode(self, chips: object) -> object:
        if self._error is not None:
            raise self._error
        return np.full((1, EMBEDDING_SIZE), np.nan, dtype=np.float32)


@pytest.mark.parametrize("error", [None, RuntimeError("no memory"), OSError("library is gone")])
def test_a_broken_encoder_is_not_ready(
    client: TestClient,
    service: RecognitionService,
    encoder: EncoderRuntime,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None,
) -> None:
    monkeypatch.setattr(service, "_encoder", BrokenEncoder(encoder.info, error))
    answer = problem(client.get("/readyz"), 503, "not_ready")
    assert answer["detail"] == "Not working: encoder."
    assert answer["checks"]["gallery"] == "ok"
    assert answer["checks"]["encoder"] != "ok"


def test_model_says_what_decides(client: TestClient, encoder: EncoderRuntime, calibration: Calibration) -> None:
    answer = ok(client.get("/model"))
    info = encoder.info
    assert answer["encoder"] == {
        "name": info.name,
        "version": info.version,
        "sha256": info.sha256,
        "runtime": "openvino",
        "precision": info.precision.value,
        "device": info.device,
    }
    assert answer["encoder"]["precision"] in {"bf16", "int8", "f32"}
    assert answer["calibration_version"] == calibration.version
    most, point = calibration.most_templates, dict(answer["operating_point"])
    assert answer["claim"] == "every_group"
    smallest = calibration.smallest_supported(Claim.EVERY_GROUP, most)
    # Rounded up, so that it can be asked for.
    assert smallest <= answer["smallest_supported_fmr"] <= smallest * 1.01
    worst, bound = point.pop("worst_group"), calibration.bound(Claim.EVERY_GROUP, calibration.default_fmr, 1)
    assert bound is not None
    assert point in answer["operating_points"]
    assert point["threshold"] >= bound.threshold - 1e-4
    assert worst["high"] <= calibration.default_fmr
    assert answer["cohort_sha256"] == calibration.cohort_sha256
    assert [group["name"] for group in answer["groups"]] == [group.name for group in calibration.groups]
    for shown, group in zip(answer["groups"], calibration.groups, strict=True):
        assert (shown["claimed"], shown["part_of"], shown["subjects"]) == (group.claimed, group.part_of, group.subjects)
        assert shown["definition"] == group.definition
        assert group.smallest_supported <= shown["smallest_supported_fmr"] <= group.smallest_supported * 1.01
        assert len(shown["operating_points"]) == len(group.operating_points)
        first = group.operating_points[0].false_match_rate.model_dump() | {"at_most": False}
        assert shown["operating_points"][0]["false_match_rate"] == pytest.approx(first, rel=5e-3)
        bounds = [p["threshold"] for p in shown["operating_points"] if p["false_match_rate"]["at_most"]]
        beyond = [p.threshold for p in group.operating_points if p.threshold < group.strictest.threshold]
        assert bounds == pytest.approx(beyond, abs=1e-4)
    assert len(answer["operating_points"]) == len(calibration.curve(1).operating_points)
    assert (answer["target_fmr"], answer["target_fpir"]) == (calibration.default_fmr, calibration.default_fpir)
    assert answer["weak_below"] == pytest.approx(calibration.quality.limit, abs=0.01)
    assert answer["ambiguous_below"] == pytest.approx(calibration.margin.limit, abs=1e-4)
    assert answer["most_templates"] == calibration.most_templates


def test_metrics_are_in_the_prometheus_format(client: TestClient) -> None:
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    names = {family.name for family in text_string_to_metric_families(response.text)}
    assert {"tessera_http_requests", "tessera_http_request_duration_seconds", "tessera_gallery_templates"} <= names


def test_requests_are_counted_by_the_template_of_their_route(client: TestClient, sample: Sample) -> None:
    for subject_id in ("a", "b"):
        client.get(f"/subjects/{subject_id}")
    labels = {"method": "GET", "route": "/subjects/{subject_id}"}
    assert sample("tessera_http_requests_total", **labels, status="404") == 2
    assert sample("tessera_http_request_duration_seconds_count", **labels) == 2
    client.get("/subjects/a")
    assert sample("tessera_http_requests_total", **labels, status="404") == 3


def test_the_document_is_counted_under_its_route(client: TestClient, sample: Sample) -> None:
    client.get("/openapi.json")
    assert sample("tessera_http_requests_total", method="GET", route="/openapi.json", status="200") == 1


def test_paths_that_do_not_exist_share_one_label(client: TestClient, sample: Sample) -> None:
    for path in ("/nothing", "/nowhere"):
        client.get(path)
    assert sample("tessera_http_requests_total", method="GET", route="unmatched", status="404") == 2


def test_what_does_not_work_is_told_by_the_metrics(
    client: TestClient, service: RecognitionService, sample: Sample
) -> None:
    assert {part: sample("tessera_ready", part=part) for part in PARTS} == dict.fromkeys(PARTS, 1)
    assert sample("tessera_gallery_subjects", collection="default") == 0
    service.gallery.close()
    assert {part: sample("tessera_ready", part=part) for part in PARTS} == {
        "encoder": 1,
        "gallery": 0,
        "audit_trail": 1,
    }
    assert sample("tessera_gallery_subjects", collection="default") is None
    assert sample("tessera_http_requests_in_progress") == 1


def test_what_runs_and_its_process_are_shown(client: TestClient, sample: Sample, encoder: EncoderRuntime) -> None:
    [build] = [
        found.labels
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for found in family.samples
        if found.name == "tessera_build_info"
    ]
    info = encoder.info
    shown = {"version": VERSION, "encoder": info.name, "encoder_version": info.version, "precision": info.precision}
    assert build.items() >= shown.items()
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
        assert (sample(name) or 0) > 0
    assert (sample("tessera_memory_limit_bytes") or 0) > (sample("process_resident_memory_bytes") or 0)


def test_errors_are_counted_by_their_code(client: TestClient, sample: Sample) -> None:
    client.get("/subjects/nobody")
    client.get("/nothing")
    client.get("/subjects", headers={"Authorization": "Bearer wrong"})
    client.get("/subjects?limit=many")
    for code in ("subject_not_found", "not_found", "unauthenticated", "invalid_request"):
        assert sample("tessera_problems_total", code=code) == 1


def test_photographs_without_a_usable_face_are_counted(client: TestClient, sample: Sample, ada: bytes) -> None:
    client.post("/verify", files=files(blank(), reference=ada))
    client.post("/enroll", files=files(blank()))
    client.post("/enroll", files=files(blank(), b"x"))
    ok(client.post("/enroll", files=files(ada, blank())), 201)
    problem(client.post("/verify", files=files(ada), data={"subject_id": "nobody"}), 404, "subject_not_found")
    name = "tessera_failures_to_acquire_total"
    assert sample(name, operation="verify", code="no_face") == 1
    assert sample(name, operation="enroll", code="no_face") == 3
    assert sample(name, operation="enroll", code="unsupported_image_format") == 1
    assert sample(name, operation="verify", code="subject_not_found") is None
    assert sample("tessera_failures_to_enrol_total", code="no_face") == 1
    assert sample("tessera_failures_to_enrol_total", code="no_usable_image") == 1


def test_distances_are_shown_by_decision(client: TestClient, sample: Sample, ada: bytes, grace: bytes) -> None:
    client.post("/identify", files=files(ada))
    client.post("/verify", files=files(ada, reference=ada))
    client.post("/verify", files=files(ada, reference=grace))
    name = "tessera_decision_distance"
    assert sample(f"{name}_bucket", operation="verify", decision="match", le="0.2") == 1
    assert sample(f"{name}_bucket", operation="verify", decision="no_match", le="0.2") == 0
    assert sample(f"{name}_count", operation="verify", decision="no_match") == 1
    assert sample(f"{name}_count", operation="identify", decision="no_match") is None


def test_storage_is_measured(client: TestClient, enroll: Enroll, sample: Sample, ada: bytes) -> None:
    enroll(ada, subject_id="ada")
    ok(client.delete("/subjects/ada"))
    assert sample("tessera_audit_trail_records") == 3
    assert (sample("tessera_data_file_bytes", file="gallery.sqlite3") or 0) > 4096
    assert (sample("tessera_data_disk_free_bytes") or 0) > 0
    assert sample("tessera_gallery_damaged_subjects") == 0
    # Every erasure empties the log.
    assert (sample("tessera_gallery_checkpoints_total") or 0) >= 1
    assert (sample("tessera_gallery_checkpoint_seconds_total") or 0) > 0


def test_many_collections_share_one_time_series(
    client: TestClient, enroll: Enroll, sample: Sample, ada: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.metrics.MOST_COLLECTIONS", 2)
    for name in ("a", "b", "c"):
        ok(client.post("/collections", json={"id": name}), 201)
        enroll(*[ada] * (2 if name == "b" else 1), subject_id="ada", collection=name)
    assert sample("tessera_gallery_templates", collection="b") == 2
    assert sample("tessera_gallery_templates", collection="a") == 1
    assert sample("tessera_gallery_templates", collection="c") is None
    assert sample("tessera_gallery_templates", collection="*") == 1


def test_failures_are_counted_with_their_status(client: TestClient, sample: Sample) -> None:
    client.post("/verify", files=files(blank(), reference=blank()))
    assert sample("tessera_http_requests_total", method="POST", route="/verify", status="422") == 1
    assert sample("tessera_http_requests_in_progress") == 1


def test_decisions_are_counted(enroll: Enroll, client: TestClient, sample: Sample, ada: bytes, grace: bytes) -> None:
    enroll(ada, subject_id="ada")
    for image in (ada, ada, grace):
        client.post("/verify", files=files(image), data={"subject_id": "ada"})
    client.post("/identify", files=files(grace))
    assert sample("tessera_decisions_total", operation="verify", decision="match", reason="") == 2
    assert sample("tessera_decisions_total", operation="verify", decision="no_match", reason="") == 1
    assert sample("tessera_decisions_total", operation="identify", decision="no_match", reason="") == 1
    assert sample("tessera_decisions_total", operation="identify", decision="match", reason="") is None


def test_the_gallery_is_measured(enroll: Enroll, client: TestClient, sample: Sample, ada: bytes) -> None:
    client.post("/collections", json={"id": "staff"})
    enroll(ada, ada, subject_id="a", collection="staff")
    assert sample("tessera_gallery_templates", collection="staff") == 2
    assert sample("tessera_gallery_subjects", collection="staff") == 1
    assert sample("tessera_gallery_subjects", collection="default") == 0
    client.delete("/collections/staff?force=true")
    assert sample("tessera_gallery_templates", collection="staff") is None


def test_invented_methods_share_one_time_series(client: TestClient) -> None:
    assert client.request("BREW", "/livez").status_code == 405
    shown = client.get("/metrics").text
    assert "BREW" not in shown
    assert 'method="other"' in shown
