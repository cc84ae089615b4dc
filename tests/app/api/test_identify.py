from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from app.decisions import Calibration, Claim
from tests.app.api.conftest import Enroll
from tests.app.api.helpers import base64_of, files, invalid_field, ok, problem
from tests.app.api.test_security import records, trail_of
from tests.app.photographs import blank, collins, jpeg, tiled, two_faces, variants

pytestmark = pytest.mark.slow


def test_an_empty_gallery_says_so(client: TestClient, ada: bytes) -> None:
    answer = ok(client.post("/identify", files=files(ada)))
    assert answer["decision"] == "no_match"
    assert answer["reason"] == "empty_gallery"
    assert answer["candidates"] == []
    assert answer["subject_id"] is answer["distance"] is answer["similarity"] is None
    assert answer["probe"]["faces_detected"] == 1


def test_no_face_in_an_empty_gallery_is_still_no_face(client: TestClient) -> None:
    problem(client.post("/identify", files=files(blank())), 422, "no_face")


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
def test_the_enrolled_person_is_found(
    enroll: Enroll, client: TestClient, ada: bytes, grace: bytes, prefix: str
) -> None:
    enroll(ada, subject_id="ada", metadata='{"name": "Eileen"}')
    enroll(grace, subject_id="grace")
    answer = ok(client.post("/identify", json={"image": prefix + base64_of(variants(collins())["mirrored"])}))
    assert answer["decision"] == "match"
    assert answer["subject_id"] == "ada"
    assert answer["reason"] is None
    first, second = answer["candidates"]
    assert (first["subject_id"], first["decision"], first["metadata"]) == ("ada", "match", {"name": "Eileen"})
    assert (second["subject_id"], second["decision"]) == ("grace", "no_match")
    assert first["distance"] == answer["distance"] < second["distance"]
    assert answer["similarity"] == pytest.approx(1 - answer["distance"] / 2)


def test_somebody_else_is_no_match_but_has_candidates(
    enroll: Enroll, client: TestClient, ada: bytes, grace: bytes
) -> None:
    enroll(ada, subject_id="ada")
    answer = ok(client.post("/identify", files=files(grace)))
    assert answer["decision"] == "no_match"
    assert answer["subject_id"] is None
    assert [c["subject_id"] for c in answer["candidates"]] == ["ada"]


def test_a_subject_with_many_templates_is_one_candidate(
    enroll: Enroll, client: TestClient, ada: bytes, grace: bytes
) -> None:
    enroll(*list(variants(collins()).values())[:4], subject_id="ada")
    enroll(grace, subject_id="grace")
    answer = ok(client.post("/identify", files=files(ada), data={"top_k": "2"}))
    assert [c["subject_id"] for c in answer["candidates"]] == ["ada", "grace"]


def test_top_k_limits_the_candidates(enroll: Enroll, client: TestClient, ada: bytes, grace: bytes) -> None:
    pictures = {f"s{i}": image for i, image in enumerate((*variants(collins()).values(), grace))}
    for subject_id, image in pictures.items():
        enroll(image, subject_id=subject_id)
    for top_k in (1, 3, 100):
        candidates = ok(client.post("/identify", files=files(ada), data={"top_k": str(top_k)}))["candidates"]
        distances = [c["distance"] for c in candidates]
        assert len({c["subject_id"] for c in candidates}) == len(candidates) == min(top_k, len(pictures))
        assert distances == sorted(distances)
    assert candidates[-1]["subject_id"] == "s6"
    assert len(ok(client.post("/identify", files=files(ada)))["candidates"]) == 5


@pytest.mark.parametrize("top_k", ["0", "101", "-1", "many", "1.5"])
def test_top_k_outside_its_range_is_refused(client: TestClient, ada: bytes, top_k: str) -> None:
    invalid_field(client.post("/identify", files=files(ada), data={"top_k": top_k}), "top_k")


def test_all_faces_are_searched(enroll: Enroll, client: TestClient, ada: bytes, grace: bytes) -> None:
    enroll(ada, subject_id="ada")
    enroll(grace, subject_id="grace")
    answer = ok(client.post("/identify", files=files(two_faces()), data={"face_policy": "all"}))
    assert answer["probe"]["faces_detected"] == 2
    assert {f["candidates"][0]["subject_id"] for f in answer["faces"]} == {"ada", "grace"}
    assert [f["decision"] for f in answer["faces"]] == ["match", "match"]
    nearest = [f["candidates"][0]["distance"] for f in answer["faces"]]
    assert nearest == sorted(nearest)
    assert answer["distance"] == nearest[0]
    assert answer["candidates"] == answer["faces"][0]["candidates"]


def test_a_subject_who_is_in_the_photograph_twice_is_one_candidate_of_each_face(
    enroll: Enroll, client: TestClient, ada: bytes, grace: bytes
) -> None:
    enroll(ada, ada, subject_id="ada")
    enroll(grace, subject_id="grace")
    twice = jpeg(tiled(2, 1, 240), 95)
    answer = ok(client.post("/identify", files=files(twice), data={"face_policy": "all"}))
    assert [face["decision"] for face in answer["faces"]] == ["match", "match"]
    for candidates in (answer["candidates"], *(face["candidates"] for face in answer["faces"])):
        assert [candidate["subject_id"] for candidate in candidates] == ["ada", "grace"]
    # The trail names her once.
    *_, record = records(client, 3)
    assert record.content["action"] == "identify"
    assert "also" not in record.content["details"]


def test_everybody_whom_a_search_found_is_found_in_the_trail(
    enroll: Enroll, client: TestClient, ada: bytes, grace: bytes
) -> None:
    enroll(ada, subject_id="ada")
    enroll(grace, subject_id="grace")
    ok(client.post("/identify", files=files(two_faces()), data={"face_policy": "all"}))
    search, trail = records(client, 3)[2], trail_of(client)
    name = {subject_id: trail.name_of("default", subject_id) for subject_id in ("ada", "grace", "eve")}
    assert {search.content["subject"], search.content["details"]["also"]} == {name["ada"], name["grace"]}
    for subject_id in ("ada", "grace"):
        assert search in list(trail.records(subject=name[subject_id]))
    assert list(trail.records(subject=name["eve"])) == []


def test_the_trail_has_the_outcome_that_goes_with_its_subject(
    enroll: Enroll, client: TestClient, ada: bytes, grace: bytes
) -> None:
    enroll(ada, subject_id="ada")
    enroll(variants(collins())["compressed"], subject_id="eileen")
    enroll(grace, subject_id="grace")
    answer = ok(client.post("/identify", files=files(two_faces()), data={"face_policy": "all"}))
    assert sorted(face["decision"] for face in answer["faces"]) == ["inconclusive", "match"]
    search = records(client, 4)[3].content
    assert (search["outcome"], search["subject"]) == ("match", trail_of(client).name_of("default", "grace"))


def test_all_faces_of_an_empty_gallery(client: TestClient) -> None:
    answer = ok(client.post("/identify", files=files(two_faces()), data={"face_policy": "all"}))
    assert answer["reason"] == "empty_gallery"
    assert [f["candidates"] for f in answer["faces"]] == [[], []]


def test_largest_is_the_default_and_single_refuses_several(enroll: Enroll, client: TestClient, ada: bytes) -> None:
    enroll(ada, subject_id="ada")
    answer = ok(client.post("/identify", files=files(two_faces())))
    assert (answer["subject_id"], answer["probe"]["faces_detected"], len(answer["faces"])) == ("ada", 2, 1)
    response = client.post("/identify", files=files(two_faces()), data={"face_policy": "single"})
    problem(response, 422, "multiple_faces")


def test_collections_are_isolated(enroll: Enroll, client: TestClient, ada: bytes) -> None:
    ok(client.post("/collections", json={"id": "staff"}), 201)
    enroll(ada, subject_id="ada", collection="staff")
    assert ok(client.post("/identify", files=files(ada)))["reason"] == "empty_gallery"
    found = ok(client.post("/identify", files=files(ada), data={"collection": "staff"}))
    assert found["subject_id"] == "ada"
    problem(client.post("/identify", files=files(ada), data={"collection": "none"}), 404, "collection_not_found")


def test_what_was_erased_is_not_found(enroll: Enroll, client: TestClient, ada: bytes, grace: bytes) -> None:
    enroll(ada, subject_id="ada")
    enroll(grace, subject_id="grace")
    ok(client.delete("/subjects/ada"))
    candidates = ok(client.post("/identify", files=files(ada)))["candidates"]
    assert [c["subject_id"] for c in candidates] == ["grace"]


def test_the_right_person_among_a_hundred_comes_first(
    enroll: Enroll, client: TestClient, lfw: dict[str, tuple[bytes, ...]]
) -> None:
    for name, photographs in lfw.items():
        enroll(photographs[0], subject_id=name, face_policy="largest")
    same = second = 0
    for name, photographs in lfw.items():
        for photograph in photographs[:2]:
            answer = ok(client.post("/identify", files=files(photograph), data={"top_k": "1"}))
            right = answer["candidates"][0]["subject_id"] == name
            if photograph is photographs[0]:
                same += right
            else:
                second += right
    assert same == len(lfw)
    assert second >= 0.95 * len(lfw)


# --- what a match is


def test_the_answer_says_for_how_many_subjects_the_threshold_is(
    enroll: Enroll, client: TestClient, ada: bytes, grace: bytes, calibration: Calibration
) -> None:
    enroll(ada, subject_id="ada")
    enroll(grace, subject_id="grace")
    answer = ok(client.post("/identify", files=files(ada), data={"target_fpir": "0.01"}))
    assert answer["gallery_subjects"] == 2
    bound = calibration.bound(Claim.EVERY_GROUP, 1 - 0.99**0.5, 1)
    assert bound is not None
    assert answer["threshold"] == answer["candidates"][0]["threshold"] == pytest.approx(bound.threshold, abs=1e-4)
    worst = answer["operating_point"]["worst_group"]
    assert worst["high"] <= 1 - 0.99**0.5
    rate = max(worst["value"], answer["operating_point"]["false_match_rate"]["value"])
    assert answer["false_positive_identification_rate"] == pytest.approx(1 - (1 - rate) ** 2, rel=1e-2)
    assert answer["false_positive_identification_rate_at_most"] is False
    nearer = ok(client.post("/identify", files=files(ada), data={"max_distance": "0.1"}))
    assert nearer["operating_point"]["false_match_rate"]["at_most"]
    assert nearer["false_positive_identification_rate_at_most"] is True
    assert answer["criterion"] == {
        "kind": "target_fpir",
        "value": 0.01,
        "set_by": "request",
        "claim": "every_group",
        "bound_by": bound.group,
        "met": True,
    }
    first, second = answer["candidates"]
    assert answer["margin"] == pytest.approx(second["distance"] - first["distance"], abs=3e-4)
    assert first["false_match_rate"]["at_most"]
    only = ok(client.post("/identify", files=files(ada), data={"target_fpir": "0.01", "top_k": "1"}))
    assert len(only["candidates"]) == 1
    assert only["margin"] == answer["margin"]


def test_a_target_that_cannot_be_kept_among_so_many_is_refused(
    enroll: Enroll, client: TestClient, ada: bytes, calibration: Calibration
) -> None:
    enroll(ada, subject_id="ada")
    body = problem(client.post("/identify", files=files(ada), data={"target_fpir": "1e-9"}), 422, "target_unsupported")
    assert body["smallest_supported"] == pytest.approx(calibration.smallest_supported(Claim.EVERY_GROUP, 1))
    assert body["subjects"] == 1


def test_two_subjects_of_one_person_cannot_be_told_apart(enroll: Enroll, client: TestClient, ada: bytes) -> None:
    enroll(ada, subject_id="ada")
    enroll(variants(collins())["compressed"], subject_id="eileen")
    answer = ok(client.post("/identify", files=files(ada)))
    assert (answer["decision"], answer["reason"]) == ("inconclusive", "ambiguous_subjects")
    assert answer["subject_id"] is None
    assert [c["decision"] for c in answer["candidates"]] == ["match", "match"]
    assert answer["faces"][0]["reason"] == "ambiguous_subjects"
