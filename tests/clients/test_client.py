"""The client of ``clients/python`` against a running service."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from pathlib import Path

import pytest

from tessera_client import (
    AsyncClient,
    Client,
    ConnectionFailedError,
    InvalidRequestError,
    LockedOutError,
    LowQualityError,
    MultipleFacesError,
    NoFaceError,
    NotFoundError,
    Photograph,
    Retries,
    SubjectExistsError,
    SubjectNotFoundError,
    TargetUnsupportedError,
    TesseraError,
    UnauthorizedError,
)
from tests.app.photographs import blank, blurred, two_alike
from tests.app.process import PATIENCE, Server, wait_until

pytestmark = pytest.mark.slow


def test_two_photographs_are_verified_from_paths(client: Client, ada: bytes, grace: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(ada)
    (tmp_path / "b.jpg").write_bytes(grace)
    same = client.verify(tmp_path / "a.jpg", str(tmp_path / "a.jpg"))
    assert (same.matched, same.inconclusive, same.decision) == (True, False, "match")
    assert same.probe.faces_detected == 1
    assert same.criterion.kind == "target_fmr"
    assert client.verify(tmp_path / "a.jpg", tmp_path / "b.jpg").matched is False


def test_a_photograph_is_a_path_bytes_or_a_file(client: Client, ada: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(ada)
    with path.open("rb") as file:
        given: list[Photograph] = [path, str(path), ada, bytearray(ada), memoryview(ada), io.BytesIO(ada), file]
        found = [client.detect(photograph) for photograph in given]
    assert len({repr(one) for one in found}) == 1
    with path.open(encoding="latin-1") as text, pytest.raises(TypeError, match="mode 'rb'"):
        client.detect(text)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        client.detect(tmp_path / "nothing.jpg")


def test_a_person_is_enrolled_found_changed_and_erased(client: Client, ada: bytes, grace: bytes) -> None:
    enrolled = client.enroll([ada, blank()], "ada lovelace".replace(" ", "+"), metadata={"name": "Ada"})
    assert enrolled.template_count == 1
    assert [(failure.image, failure.code) for failure in enrolled.failures] == [(1, "no_face")]
    subject_id = enrolled.subject_id
    assert client.verify(ada, subject_id=subject_id).matched
    assert not client.verify(grace, subject_id=subject_id).matched
    found = client.identify(ada, top_k=1)
    assert (found.matched, found.subject_id, found.candidates[0].metadata) == (True, subject_id, {"name": "Ada"})
    assert client.identify(ada, max_distance=0.5).criterion.value == 0.5
    assert client.update_subject(subject_id, metadata={"name": "Ada King"}).metadata == {"name": "Ada King"}
    twice = client.enroll(ada, subject_id, report_duplicates=False)
    assert twice.template_count == 2
    left = client.delete_template(subject_id, twice.templates[0].template_id)
    assert [template.id for template in left.templates] == [enrolled.templates[0].template_id]
    assert left.created_at.tzinfo is not None
    erased = client.delete_subject(subject_id)
    assert erased.templates == 1
    assert erased.receipt
    with pytest.raises(SubjectNotFoundError):
        client.get_subject(subject_id)


def test_a_subject_that_was_enrolled_twice_is_merged(client: Client, ada: bytes, grace: bytes) -> None:
    client.create_collection("twice")
    client.enroll(ada, "ada", collection="twice")
    second = client.enroll(ada, "ada-2", collection="twice").templates[0].template_id
    client.enroll(grace, "grace", collection="twice")
    with pytest.raises(TesseraError) as refused:
        client.merge_subjects("ada", "grace", collection="twice")
    assert refused.value.code == "subjects_not_alike"
    merger = client.merge_subjects("ada", "ada-2", collection="twice", idempotency_key="m")
    assert (merger.duplicate, merger.template_ids, merger.distance) == ("ada-2", (second,), 0.0)
    assert [template.id for template in merger.subject.templates][1:] == [second]
    assert client.merge_subjects("ada", "ada-2", collection="twice", idempotency_key="m") == merger
    assert len(client.merge_subjects("ada", "grace", collection="twice", force=True).subject.templates) == 3
    client.delete_collection("twice", force=True)


def test_collections_and_audits(client: Client, ada: bytes) -> None:
    assert client.create_collection("staff", target_fmr=0.001).target_fmr == 0.001
    changed = client.update_collection("staff", target_fpir=0.05, claim="pooled")
    assert (changed.target_fmr, changed.target_fpir, changed.claim) == (None, 0.05, "pooled")
    client.enroll(ada, "ada", collection="staff")
    assert {c.id: c.subjects for c in client.list_collections()} == {"default": 0, "staff": 1}
    client.start_audit("staff")
    wait_until(lambda: client.get_audit("staff").status == "done", "the audit is done")
    report = client.get_audit("staff").report
    assert report is not None
    assert report.subjects == 1
    assert "<html" in client.get_audit_page("staff")
    with pytest.raises(TesseraError) as refused:
        client.delete_collection("staff")
    assert refused.value.code == "collection_not_empty"
    assert client.delete_collection("staff", force=True).templates == 1
    with pytest.raises(NotFoundError):
        client.get_audit("staff")


def test_the_state_of_the_service(client: Client) -> None:
    assert client.livez().status == client.readyz().status == "ok"
    model = client.get_model()
    assert model.operating_point.false_match_rate.value <= model.target_fmr
    assert model.groups
    assert "tessera_http_requests_total" in client.get_metrics()


def test_subjects_are_listed_page_by_page(client: Client, server: Server, key: str, ada: bytes) -> None:
    client.create_collection("pages")
    names = [f"s{number}" for number in range(5)]
    for name in names:
        client.enroll(ada, name, collection="pages", report_duplicates=False)
    assert len(client.list_subjects(collection="pages", limit=2).subjects) == 2
    for page in (1, 2, 5, 100):
        assert [subject.id for subject in client.subjects(collection="pages", page=page)] == names

    async def listed() -> list[str]:
        async with AsyncClient(server.url, key) as service:
            return [subject.id async for subject in service.subjects(collection="pages", page=2)]

    assert asyncio.run(listed()) == names


def test_awaited_calls_answer_as_blocking_ones(
    client: Client, server: Server, key: str, ada: bytes, grace: bytes
) -> None:
    async def asked() -> list[object]:
        async with AsyncClient(server.url, key) as service:
            compared = await asyncio.gather(service.verify(ada, ada), service.verify(ada, grace))
            with pytest.raises(NoFaceError):
                await service.verify(blank(), ada)
            return [*compared, await service.get_model()]

    assert asyncio.run(asked()) == [client.verify(ada, ada), client.verify(ada, grace), client.get_model()]


def test_errors_have_a_class_by_their_code(client: Client, server: Server, ada: bytes) -> None:
    client.enroll(ada, "there")
    with pytest.raises(NoFaceError) as none:
        client.verify(blank(), ada)
    assert (none.value.code, none.value.status) == ("no_face", 422)
    assert none.value.request_id
    assert none.value.detail in str(none.value)
    with pytest.raises(MultipleFacesError):
        client.enroll(two_alike())
    with pytest.raises(LowQualityError):
        client.enroll(blurred())
    with pytest.raises(SubjectNotFoundError):
        client.verify(ada, subject_id="nobody")
    with pytest.raises(SubjectExistsError):
        client.enroll(ada, "there", on_conflict="reject")
    with pytest.raises(TargetUnsupportedError):
        client.verify(ada, ada, target_fmr=1e-12)
    with pytest.raises(InvalidRequestError) as invalid:
        client.verify(ada)
    assert invalid.value.details["errors"]
    for wrong in (None, "tessera_wrong"):
        with Client(server.url, wrong) as stranger, pytest.raises(UnauthorizedError):
            stranger.list_collections()


def test_a_lockout_is_not_waited_for(client: Client, ada: bytes, grace: bytes) -> None:
    client.create_collection("locked")
    client.enroll(ada, "ada", collection="locked")
    for _ in range(5):
        assert not client.verify(grace, subject_id="ada", collection="locked").matched
    with pytest.raises(LockedOutError) as refused:
        client.verify(ada, subject_id="ada", collection="locked")
    assert refused.value.retry_after
    assert refused.value.retry_after > 1


def test_an_enrolment_that_is_repeated_with_its_key_happens_once(client: Client, ada: bytes) -> None:
    client.create_collection("once")
    first, again = (client.enroll(ada, "ada", collection="once", idempotency_key="key-1") for _ in range(2))
    assert first == again
    assert len(client.get_subject("ada", collection="once").templates) == 1
    client.enroll(ada, "ada", collection="once")
    assert len(client.get_subject("ada", collection="once").templates) == 2


def test_a_service_that_is_not_there(ada: bytes) -> None:
    nobody = Client("http://127.0.0.1:9", timeout=PATIENCE, retries=Retries(times=1))
    with nobody, pytest.raises(ConnectionFailedError) as failed:
        nobody.verify(ada, ada)
    assert (failed.value.code, failed.value.status) == ("connection_failed", 0)
    with pytest.raises(ValueError, match="no address of a service"):
        Client("faces.example")


def test_a_prefix_of_a_proxy_is_kept(tmp_path: Path, ada: bytes) -> None:
    variables = {"TESSERA_SERVER__ROOT_PATH": "/faces", "TESSERA_SECURITY__ALLOW_ANONYMOUS": "true"}
    with Server(tmp_path / "data", **variables) as server, Client(f"{server.url}/faces/") as client:
        assert client.verify(ada, ada).matched


def test_results_do_not_change(client: Client, ada: bytes) -> None:
    found = client.detect(ada)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.width = 1  # type: ignore[misc]
