from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.crowding import NoCrowding
from app.decisions import Calibration
from app.encoding import EncoderRuntime
from app.faces import FaceFinder
from app.gallery import SqliteGallery
from app.gallery.sqlite.vault import Vault
from app.main import create_app
from app.recognition.criteria import Criteria
from app.recognition.service import RecognitionService
from app.settings import GallerySettings, Settings
from tests.app.api.conftest import Enroll
from tests.app.api.helpers import files, invalid_field, ok, problem
from tests.app.gallery.sqlite.test_vault import master_key


def counts(client: TestClient) -> dict[str, tuple[int, int]]:
    found = ok(client.get("/collections"))["collections"]
    return {c["id"]: (c["subjects"], c["templates"]) for c in found}


def test_the_default_collection_always_exists(client: TestClient) -> None:
    assert counts(client) == {"default": (0, 0)}


def test_a_collection_is_created_counted_and_erased(enroll: Enroll, client: TestClient, ada: bytes) -> None:
    created = ok(client.post("/collections", json={"id": "staff"}), 201)
    assert (created["id"], created["subjects"], created["templates"]) == ("staff", 0, 0)
    enroll(ada, ada, subject_id="a", collection="staff")
    enroll(ada, subject_id="b", collection="staff")
    assert counts(client) == {"default": (0, 0), "staff": (2, 3)}
    assert ok(client.delete("/collections/staff?force=true"))["templates"] == 3
    assert counts(client) == {"default": (0, 0)}
    problem(client.get("/subjects/a", params={"collection": "staff"}), 404, "collection_not_found")


def test_a_collection_created_anew_is_empty(enroll: Enroll, client: TestClient, ada: bytes) -> None:
    for _ in range(2):
        ok(client.post("/collections", json={"id": "staff"}), 201)
        assert ok(client.get("/subjects", params={"collection": "staff"}))["subjects"] == []
        enroll(ada, subject_id="a", collection="staff")
        ok(client.delete("/collections/staff?force=true"))


@pytest.mark.parametrize("collection", ["staff", "default"])
def test_a_collection_with_subjects_is_erased_only_by_force(
    enroll: Enroll, client: TestClient, ada: bytes, collection: str
) -> None:
    ok(client.post("/collections", json={"id": "staff"}), 201)
    enroll(ada, subject_id="a", collection=collection)
    for query in ("", "?force=false"):
        answer = problem(client.delete(f"/collections/{collection}{query}"), 409, "collection_not_empty")
        assert "force=true" in answer["detail"]
        assert answer["subjects"] == 1
    assert counts(client)[collection] == (1, 1)
    invalid_field(client.delete(f"/collections/{collection}?force=perhaps"), "force")
    assert ok(client.delete(f"/collections/{collection}?force=true"))["templates"] == 1


def test_an_empty_collection_needs_no_force(client: TestClient) -> None:
    ok(client.post("/collections", json={"id": "staff"}), 201)
    assert ok(client.delete("/collections/staff"))["templates"] == 0


def test_an_id_is_given_once(client: TestClient) -> None:
    ok(client.post("/collections", json={"id": "staff"}), 201)
    problem(client.post("/collections", json={"id": "staff"}), 409, "collection_exists")
    problem(client.post("/collections", json={"id": "default"}), 409, "collection_exists")


def test_an_unknown_collection_cannot_be_erased(client: TestClient) -> None:
    problem(client.delete("/collections/none"), 404, "collection_not_found")


def test_the_default_collection_is_emptied_and_stays(enroll: Enroll, client: TestClient, ada: bytes) -> None:
    enroll(ada, subject_id="a")
    assert ok(client.delete("/collections/default?force=true"))["templates"] == 1
    assert counts(client) == {"default": (0, 0)}
    enroll(ada, subject_id="a")
    assert counts(client) == {"default": (1, 1)}


@pytest.mark.parametrize(
    ("body", "field"), [({}, "id"), ({"id": None}, "id"), ({"id": 1}, "id"), ({"id": "a", "x": 1}, "x"), ("a", "body")]
)
def test_a_bad_body_is_refused(client: TestClient, body: object, field: str) -> None:
    invalid_field(client.post("/collections", json=body), field)


@pytest.mark.parametrize("body", ["", "{", "nope", b"\xff", '{"id": "\\ud800"}'])
def test_a_body_that_is_no_json_is_refused(client: TestClient, body: str | bytes) -> None:
    response = client.post("/collections", content=body, headers={"content-type": "application/json"})
    problem(response, 400, "malformed_body")


def test_only_json_is_taken(client: TestClient) -> None:
    problem(client.post("/collections", data={"id": "staff"}), 415, "unsupported_media_type")
    problem(client.post("/collections"), 415, "unsupported_media_type")


def test_targets_of_a_collection_are_set_and_left_to_the_service_again(client: TestClient) -> None:
    created = ok(client.post("/collections", json={"id": "staff", "target_fpir": 0.05}), 201)
    assert (created["target_fmr"], created["target_fpir"]) == (None, 0.05)
    changed = ok(client.put("/collections/staff", json={"target_fmr": 0.001}))
    assert (changed["target_fmr"], changed["target_fpir"]) == (0.001, None)
    assert ok(client.get("/collections"))["collections"][1] == changed
    claimed = ok(client.put("/collections/staff", json={"claim": "pooled"}))
    assert (claimed["target_fmr"], claimed["claim"]) == (None, "pooled")
    assert ok(client.get("/collections"))["collections"][1]["claim"] == "pooled"
    cleared = ok(client.put("/collections/staff", json={}))
    assert (cleared["target_fmr"], cleared["target_fpir"], cleared["claim"]) == (None, None, None)
    invalid_field(client.put("/collections/staff", json={"claim": "everybody"}), "claim")


def test_targets_that_cannot_be_kept_are_refused_and_nothing_is_changed(client: TestClient) -> None:
    problem(client.post("/collections", json={"id": "staff", "target_fmr": 1e-9}), 422, "target_unsupported")
    assert counts(client).keys() == {"default"}
    ok(client.put("/collections/default", json={"target_fmr": 0.01}))
    problem(client.put("/collections/default", json={"target_fmr": 1e-9}), 422, "target_unsupported")
    assert ok(client.get("/collections"))["collections"][0]["target_fmr"] == 0.01
    problem(client.put("/collections/none", json={}), 404, "collection_not_found")
    invalid_field(client.put("/collections/default", json={"target_fpir": 2}), "target_fpir")


@pytest.mark.parametrize("claim", ["every_group", "pooled"])
def test_a_target_that_a_refusal_advises_is_taken(client: TestClient, enroll: Enroll, ada: bytes, claim: str) -> None:
    def advised(path: str, **request: Any) -> str:
        detail = problem(client.post(path, **request), 422, "target_unsupported")["detail"]
        return str(detail.partition("supports is ")[2].partition(". Ask")[0])

    asked = {"id": "staff", "target_fmr": 1e-9, "claim": claim}
    ok(client.post("/collections", json=asked | {"target_fmr": float(advised("/collections", json=asked))}), 201)
    enroll(ada, subject_id="ada")
    for path, target, more in (("/verify", "target_fmr", {"subject_id": "ada"}), ("/identify", "target_fpir", {})):
        fields = {target: "1e-9", "claim": claim} | more
        followed = fields | {target: advised(path, files=files(ada), data=fields)}
        assert ok(client.post(path, files=files(ada), data=followed))["criterion"]["met"]


def test_two_photographs_are_compared_by_the_targets_of_the_collection(client: TestClient, ada: bytes) -> None:
    ok(client.post("/collections", json={"id": "staff", "target_fmr": 0.01, "claim": "pooled"}), 201)

    def criterion(**fields: str) -> dict[str, Any]:
        found = ok(client.post("/verify", files=files(ada, reference=ada), data=fields))["criterion"]
        return {name: found[name] for name in ("value", "claim", "set_by")}

    assert criterion(collection="staff") == {"value": 0.01, "claim": "pooled", "set_by": "collection"}
    assert criterion(collection="staff", target_fmr="0.02")["set_by"] == "request"
    assert criterion()["set_by"] == "server"
    response = client.post("/verify", files=files(ada, reference=ada), data={"collection": "stuff"})
    problem(response, 404, "collection_not_found")


def test_chips_are_kept_only_where_templates_are_encrypted(enroll: Enroll, client: TestClient, ada: bytes) -> None:
    refused = problem(
        client.post("/collections", json={"id": "staff", "keep_chips": True}), 422, "chips_need_encryption"
    )
    assert "MASTER_KEY_FILE" in refused["detail"]
    assert counts(client).keys() == {"default"}
    problem(client.put("/collections/default", json={"keep_chips": True}), 422, "chips_need_encryption")
    invalid_field(client.put("/collections/default", json={"keep_chips": "perhaps"}), "keep_chips")
    enroll(ada, subject_id="ada")
    found = ok(client.get("/collections/default"))
    assert (found["keep_chips"], found["templates"], found["chips"]) == (False, 1, 0)
    assert ok(client.put("/collections/default", json={"keep_chips": False}))["chips"] == 0
    problem(client.get("/collections/none"), 404, "collection_not_found")


def test_a_collection_keeps_chips_until_it_is_told_not_to(
    tmp_path: Path, face_finder: FaceFinder, encoder: EncoderRuntime, calibration: Calibration, ada: bytes
) -> None:
    data = tmp_path / "data"
    gallery = SqliteGallery(
        data, encoder_digest=encoder.info.sha256, keys=Vault(data, master_key(tmp_path / "master.key"))
    )
    service = RecognitionService(face_finder, encoder, gallery, Criteria(calibration), crowding=NoCrowding())
    settings = Settings(gallery=GallerySettings(data_dir=data))
    with TestClient(create_app(settings, service)) as client:
        created = ok(client.post("/collections", json={"id": "staff", "keep_chips": True}), 201)
        assert (created["keep_chips"], created["chips"]) == (True, 0)
        for collection in ("staff", "default"):
            fields = {"subject_id": "ada", "collection": collection}
            ok(client.post("/enroll", files=files(ada), data=fields), 201)
        assert ok(client.get("/collections/staff")) == created | {"subjects": 1, "templates": 1, "chips": 1}
        assert ok(client.get("/collections/default"))["chips"] == 0
        kept = ok(client.get("/subjects/ada", params={"collection": "staff"}))["templates"]
        assert [template["chip"] for template in kept] == [True]
        assert ok(client.put("/collections/staff", json={"target_fmr": 0.01}))["chips"] == 1
        opted_out = ok(client.put("/collections/staff", json={"keep_chips": False}))
        assert (opted_out["keep_chips"], opted_out["chips"], opted_out["templates"]) == (False, 0, 1)
        service.gallery.check()
        entries = [r.content for r in client.app.state.components.trail.records()]  # type: ignore[attr-defined]
    changes = [(e["action"], e["outcome"], e.get("details")) for e in entries if "collection" in e["action"]]
    assert changes == [
        ("create_collection", "done", {"keep_chips": True}),
        ("update_collection", "done", {"keep_chips": True}),
        ("update_collection", "started", None),
        ("update_collection", "done", {"keep_chips": False}),
    ]
