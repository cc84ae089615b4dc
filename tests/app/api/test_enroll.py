from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import GallerySettings, Settings
from tests.app.api.conftest import Enroll
from tests.app.api.helpers import base64_of, files, invalid_field, ok, problem
from tests.app.conftest import MakeService
from tests.app.photographs import blank, blurred, collins, jpeg, two_alike, two_faces, variants

pytestmark = pytest.mark.slow


def test_a_subject_without_an_id_gets_one(client: TestClient, ada: bytes) -> None:
    answer = ok(client.post("/enroll", files=files(ada)), 201)
    assert answer["collection"] == "default"
    assert answer["template_count"] == 1
    assert [t["image"] for t in answer["templates"]] == [0]
    assert answer["failures"] == []
    assert answer["possible_duplicate"] is False
    probe = answer["templates"][0]["probe"]
    assert probe["faces_detected"] == 1
    stored = ok(client.get(f"/subjects/{answer['subject_id']}"))
    assert [t["id"] for t in stored["templates"]] == [answer["templates"][0]["template_id"]]


def test_two_subjects_without_an_id_are_two(client: TestClient, ada: bytes, grace: bytes) -> None:
    ids = {ok(client.post("/enroll", files=files(image)), 201)["subject_id"] for image in (ada, grace)}
    assert len(ids) == 2


def test_id_and_metadata_are_kept(client: TestClient, ada: bytes) -> None:
    metadata = {"name": "Eileen Collins", "flights": [1995, 1997], "nested": {"π": None, "yes": True, "x": 1.5}}
    form = {"subject_id": "ada.l+1@example:x~_-", "metadata": json.dumps(metadata)}
    answer = ok(client.post("/enroll", files=files(ada), data=form), 201)
    assert answer["subject_id"] == form["subject_id"]
    assert ok(client.get(f"/subjects/{form['subject_id']}"))["metadata"] == metadata


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
def test_json_takes_one_image_or_several(client: TestClient, ada: bytes, prefix: str) -> None:
    image = prefix + base64_of(ada)
    one = ok(client.post("/enroll", json={"image": image, "subject_id": "one", "metadata": {"a": 1}}), 201)
    assert one["template_count"] == 1
    assert ok(client.get("/subjects/one"))["metadata"] == {"a": 1}
    two = ok(client.post("/enroll", json={"image": [image, image], "subject_id": "two"}), 201)
    assert [t["image"] for t in two["templates"]] == [0, 1]


def test_the_usable_photographs_are_enrolled_and_the_others_named(client: TestClient, ada: bytes) -> None:
    answer = ok(client.post("/enroll", files=files(blank(), ada, b"GIF89a", two_alike())), 201)
    assert [t["image"] for t in answer["templates"]] == [1]
    assert answer["template_count"] == 1
    reasons = [(f["image"], f["code"]) for f in answer["failures"]]
    assert reasons == [(0, "no_face"), (2, "unsupported_image_format"), (3, "multiple_faces")]
    assert all(f["detail"] for f in answer["failures"])


def test_nothing_is_stored_when_no_photograph_is_usable(client: TestClient) -> None:
    response = client.post("/enroll", files=files(blank(), b""), data={"subject_id": "ada"})
    failures = problem(response, 422, "no_usable_image")["failures"]
    assert [(f["image"], f["code"]) for f in failures] == [(0, "no_face"), (1, "empty_image")]
    problem(client.get("/subjects/ada"), 404, "subject_not_found")


@pytest.mark.parametrize(
    ("image", "status", "code"),
    [
        (blank, 422, "no_face"),
        (two_alike, 422, "multiple_faces"),
        (blurred, 422, "low_quality"),
        (bytes, 422, "empty_image"),
        (lambda: b"hello", 415, "unsupported_image_format"),
        (lambda: jpeg(collins())[:5000], 422, "truncated_image"),
        (lambda: jpeg(collins().resize((8, 8))), 422, "image_too_small"),
        (lambda: jpeg(collins().resize((1, 1))), 422, "image_too_small"),
    ],
    ids=["no_face", "multiple_faces", "low_quality", "empty", "no_image", "truncated", "too_small", "one_pixel"],
)
def test_the_reason_of_a_single_unusable_photograph(client: TestClient, image, status: int, code: str) -> None:  # type: ignore[no-untyped-def]
    response = client.post("/enroll", files=files(image()), data={"subject_id": "ada"})
    answer = problem(response, status, code)
    if code == "low_quality":
        assert "blurred" in answer["issues"]
    if code == "multiple_faces":
        assert answer["count"] == len(answer["boxes"]) == 2
    problem(client.get("/subjects/ada"), 404, "subject_not_found")


def test_a_tiny_crop_is_compared_but_not_enrolled(client: TestClient, ada: bytes) -> None:
    tiny = jpeg(collins().crop((175, 58, 270, 173)).resize((26, 31)), 95)
    answer = ok(client.post("/verify", files={"image": tiny, "reference": ada}))
    assert answer["probe"]["face"]["quality"]["issues"][0] == "face_too_small"
    assert answer["similarity"] > 0.4
    refused = problem(client.post("/enroll", files=files(tiny), data={"subject_id": "ada"}), 422, "low_quality")
    assert "face_too_small" in refused["issues"]


def test_largest_takes_the_largest_of_several_faces_and_says_how_many(client: TestClient, ada: bytes) -> None:
    response = client.post("/enroll", files=files(two_faces()), data={"subject_id": "ada", "face_policy": "largest"})
    probe = ok(response, 201)["templates"][0]["probe"]
    assert probe["faces_detected"] == 2
    assert probe["face"]["box"]["x"] < 300
    verified = ok(client.post("/verify", files=files(ada), data={"subject_id": "ada"}))
    assert verified["decision"] == "match"


def test_a_face_that_is_clearly_larger_than_the_others_is_enrolled_by_default(client: TestClient, ada: bytes) -> None:
    answer = ok(client.post("/enroll", files=files(two_faces()), data={"subject_id": "ada"}), 201)
    probe = answer["templates"][0]["probe"]
    assert probe["faces_detected"] == 2
    assert probe["face"]["box"]["x"] < 300
    assert ok(client.post("/verify", files=files(ada), data={"subject_id": "ada"}))["decision"] == "match"
    strict = client.post("/enroll", files=files(two_faces()), data={"subject_id": "ada", "face_policy": "single"})
    assert problem(strict, 422, "multiple_faces")["count"] == 2


def test_two_faces_of_like_size_are_not_chosen_between(client: TestClient) -> None:
    refused = problem(
        client.post("/enroll", files=files(two_alike()), data={"subject_id": "ada"}), 422, "multiple_faces"
    )
    assert refused["count"] == len(refused["boxes"]) == 2
    problem(client.get("/subjects/ada"), 404, "subject_not_found")


def test_all_faces_cannot_be_one_subject(client: TestClient, ada: bytes) -> None:
    response = client.post("/enroll", files=files(ada), data={"face_policy": "all"})
    problem(response, 422, "face_policy_not_allowed")


def test_append_is_the_default(enroll: Enroll, client: TestClient, ada: bytes) -> None:
    enroll(ada, subject_id="ada", metadata='{"a": 1}')
    assert enroll(ada, ada, subject_id="ada")["template_count"] == 3
    stored = ok(client.get("/subjects/ada"))
    assert len(stored["templates"]) == 3
    assert stored["metadata"] == {"a": 1}


def test_replace_erases_the_old_templates(enroll: Enroll, client: TestClient, ada: bytes, grace: bytes) -> None:
    enroll(ada, ada, subject_id="x")
    answer = enroll(grace, subject_id="x", on_conflict="replace", metadata='{"b": 2}')
    assert answer["template_count"] == 1
    assert ok(client.get("/subjects/x"))["metadata"] == {"b": 2}
    assert ok(client.post("/verify", files=files(grace), data={"subject_id": "x"}))["decision"] == "match"
    assert ok(client.post("/verify", files=files(ada), data={"subject_id": "x"}))["decision"] == "no_match"


def test_reject_leaves_a_known_subject_as_it_is(enroll: Enroll, client: TestClient, ada: bytes) -> None:
    form = {"subject_id": "ada", "on_conflict": "reject"}
    enroll(ada, **form)
    problem(client.post("/enroll", files=files(ada), data=form), 409, "subject_exists")
    assert len(ok(client.get("/subjects/ada"))["templates"]) == 1


def test_an_unknown_collection_is_refused(client: TestClient, ada: bytes) -> None:
    problem(client.post("/enroll", files=files(ada), data={"collection": "none"}), 404, "collection_not_found")


def test_the_same_face_under_another_subject_is_reported_and_enrolled(
    enroll: Enroll, client: TestClient, ada: bytes, grace: bytes
) -> None:
    enroll(ada, subject_id="first", metadata='{"a": 1}')
    enroll(grace, subject_id="other")
    answer = enroll(variants(collins())["compressed"], subject_id="second")
    assert answer["possible_duplicate"] is True
    duplicates = answer["possible_duplicates"]
    assert isinstance(duplicates, list)
    (duplicate,) = duplicates
    assert duplicate["subject_id"] == "first"
    assert duplicate["decision"] == "match"
    assert duplicate["metadata"] == {"a": 1}
    assert ok(client.get("/subjects/second"))["templates"]


def test_own_templates_are_no_duplicates(enroll: Enroll, ada: bytes) -> None:
    enroll(ada, subject_id="ada")
    assert enroll(ada, subject_id="ada")["possible_duplicate"] is False


def test_duplicates_stay_within_their_collection(enroll: Enroll, client: TestClient, ada: bytes) -> None:
    ok(client.post("/collections", json={"id": "staff"}), 201)
    enroll(ada, subject_id="first")
    assert enroll(ada, subject_id="second", collection="staff")["possible_duplicate"] is False


def test_the_search_for_duplicates_can_be_turned_off(enroll: Enroll, ada: bytes) -> None:
    enroll(ada, subject_id="first")
    answer = enroll(ada, subject_id="second", report_duplicates="false")
    assert (answer["possible_duplicate"], answer["possible_duplicates"]) == (False, [])


def test_the_setting_turns_the_search_for_duplicates_off_unless_asked_for(
    make_service: MakeService, tmp_path: Path, ada: bytes
) -> None:
    settings = Settings(gallery=GallerySettings(data_dir=tmp_path, report_duplicates=False))
    with TestClient(create_app(settings, make_service(tmp_path))) as client:
        ok(client.post("/enroll", files=files(ada), data={"subject_id": "first"}), 201)
        silent = ok(client.post("/enroll", files=files(ada), data={"subject_id": "second"}), 201)
        asked = client.post("/enroll", files=files(ada), data={"subject_id": "third", "report_duplicates": "true"})
    assert silent["possible_duplicate"] is False
    assert [d["subject_id"] for d in ok(asked, 201)["possible_duplicates"]] == ["first", "second"]


KEY = {"Idempotency-Key": "7c2f-1"}


class TestIdempotency:
    def test_a_repeated_request_gets_the_first_answer(self, client: TestClient, ada: bytes) -> None:
        first = client.post("/enroll", files=files(ada), data={"metadata": '{"a":1}'}, headers=KEY)
        again = client.post("/enroll", json={"image": base64_of(ada), "metadata": {"a": 1}}, headers=KEY)
        assert ok(first, 201) == ok(again, 201)
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        assert again.headers["x-request-id"] != first.headers["x-request-id"]
        [subject] = ok(client.get("/subjects"))["subjects"]
        assert len(subject["templates"]) == 1

    def test_another_request_with_the_key_is_refused(self, client: TestClient, ada: bytes, grace: bytes) -> None:
        ok(client.post("/enroll", files=files(ada), headers=KEY), 201)
        for other in (
            client.post("/enroll", files=files(grace), headers=KEY),
            client.post("/enroll", files=files(ada), data={"subject_id": "x"}, headers=KEY),
            client.post("/enroll", files=files(ada, ada), headers=KEY),
        ):
            problem(other, 422, "idempotency_key_reused")
        [subject] = ok(client.get("/subjects"))["subjects"]
        assert len(subject["templates"]) == 1

    def test_a_request_that_failed_may_be_tried_again_under_its_key(self, client: TestClient, ada: bytes) -> None:
        problem(client.post("/enroll", files=files(blank()), headers=KEY), 422, "no_face")
        ok(client.post("/enroll", files=files(ada), headers=KEY), 201)

    def test_a_replay_goes_before_reject(self, client: TestClient, ada: bytes) -> None:
        form = {"subject_id": "ada", "on_conflict": "reject"}
        first, again = (client.post("/enroll", files=files(ada), data=form, headers=KEY) for _ in range(2))
        assert ok(first, 201) == ok(again, 201)

    def test_the_answer_survives_a_restart(self, make_service: MakeService, tmp_path: Path, ada: bytes) -> None:
        answers = []
        for _ in range(2):
            settings = Settings(gallery=GallerySettings(data_dir=tmp_path))
            with TestClient(create_app(settings, make_service(tmp_path))) as client:
                answers.append(ok(client.post("/enroll", files=files(ada), headers=KEY), 201))
                assert len(ok(client.get("/subjects"))["subjects"]) == 1
        assert answers[0] == answers[1]

    def test_the_same_request_many_times_at_once_makes_one_template(self, client: TestClient, ada: bytes) -> None:
        with ThreadPoolExecutor(8) as pool:
            sent = [pool.submit(client.post, "/enroll", files=files(ada), headers=KEY) for _ in range(8)]
            answers = [ok(response.result(), 201) for response in sent]
        assert all(answer == answers[0] for answer in answers)
        [subject] = ok(client.get("/subjects"))["subjects"]
        assert len(subject["templates"]) == 1

    @pytest.mark.parametrize("key", ["", "with space", "x" * 256])
    def test_a_key_that_is_none_is_refused(self, client: TestClient, ada: bytes, key: str) -> None:
        response = client.post("/enroll", files=files(ada), headers={"Idempotency-Key": key})
        invalid_field(response, "Idempotency-Key")
