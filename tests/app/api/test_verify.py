from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from app.decisions import Calibration
from app.encoding import EncoderWeights
from tests.app.api.conftest import Enroll
from tests.app.api.helpers import base64_of, files, invalid_field, ok, problem
from tests.app.photographs import blank, collins, two_faces, variants


@pytest.mark.parametrize("variant", variants(collins()))
def test_two_pictures_of_one_person_match(client: TestClient, ada: bytes, variant: str) -> None:
    answer = ok(client.post("/verify", files=files(ada, reference=variants(collins())[variant])))
    assert answer["decision"] == "match"
    assert 0 <= answer["distance"] <= answer["threshold"]
    assert answer["similarity"] == pytest.approx(1 - answer["distance"] / 2)
    assert answer["subject_id"] is None
    assert answer["template_id"] is None
    assert answer["probe"]["faces_detected"] == answer["reference"]["faces_detected"] == 1


def test_two_people_do_not_match(client: TestClient, ada: bytes, grace: bytes) -> None:
    answer = ok(client.post("/verify", json={"image": base64_of(ada), "reference": base64_of(grace)}))
    assert answer["decision"] == "no_match"
    assert answer["distance"] > answer["threshold"]


def test_the_answer_says_what_decided(
    client: TestClient, ada: bytes, calibration: Calibration, weights: EncoderWeights
) -> None:
    answer = ok(client.post("/verify", files=files(ada, reference=ada)))
    assert answer["threshold"] == answer["operating_point"]["threshold"] == calibration.default.threshold
    assert answer["operating_point"]["false_match_rate"] == calibration.default.false_match_rate
    assert answer["encoder_version"] == f"{weights.name}-{weights.version}-{weights.sha256[:8]}"
    assert answer["calibration_version"] == calibration.version
    assert answer["distance"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
def test_a_subject_is_verified_by_its_best_template(
    enroll: Enroll, client: TestClient, ada: bytes, grace: bytes, prefix: str
) -> None:
    templates = enroll(grace, ada, subject_id="both")["templates"]
    body = {"image": prefix + base64_of(variants(collins())["smaller"]), "subject_id": "both"}
    answer = ok(client.post("/verify", json=body))
    assert answer["decision"] == "match"
    assert answer["subject_id"] == "both"
    assert answer["template_id"] == templates[1]["template_id"]  # type: ignore[index]
    assert answer["reference"] is None


def test_another_person_is_not_the_subject(enroll: Enroll, client: TestClient, ada: bytes, grace: bytes) -> None:
    enroll(ada, subject_id="ada")
    answer = ok(client.post("/verify", files=files(grace), data={"subject_id": "ada"}))
    assert answer["decision"] == "no_match"
    assert answer["subject_id"] == "ada"


def test_the_subject_of_another_collection_is_unknown(enroll: Enroll, client: TestClient, ada: bytes) -> None:
    ok(client.post("/collections", json={"id": "staff"}), 201)
    enroll(ada, subject_id="ada", collection="staff")
    problem(client.post("/verify", files=files(ada), data={"subject_id": "ada"}), 404, "subject_not_found")
    form = {"subject_id": "ada", "collection": "staff"}
    assert ok(client.post("/verify", files=files(ada), data=form))["decision"] == "match"


def test_neither_reference_nor_subject(client: TestClient, ada: bytes) -> None:
    assert "either reference or subject_id" in invalid_field(client.post("/verify", files=files(ada)), "body")


def test_both_reference_and_subject(client: TestClient, ada: bytes) -> None:
    response = client.post("/verify", files=files(ada, reference=ada), data={"subject_id": "ada"})
    assert "either reference or subject_id" in invalid_field(response, "body")


def test_unknown_subject(client: TestClient, ada: bytes) -> None:
    response = client.post("/verify", files=files(ada), data={"subject_id": "nobody"})
    assert "nobody" in problem(response, 404, "subject_not_found")["detail"]


def test_unknown_collection(client: TestClient, ada: bytes) -> None:
    response = client.post("/verify", files=files(ada), data={"subject_id": "ada", "collection": "none"})
    problem(response, 404, "collection_not_found")


def test_no_face_on_either_side(client: TestClient, ada: bytes) -> None:
    problem(client.post("/verify", files=files(blank(), reference=ada)), 422, "no_face")
    problem(client.post("/verify", files=files(ada, reference=blank())), 422, "no_face")


def test_an_empty_reference_is_an_empty_image(client: TestClient, ada: bytes) -> None:
    problem(client.post("/verify", files=files(ada, reference=b"")), 422, "empty_image")


def test_single_refuses_several_faces(client: TestClient, ada: bytes) -> None:
    response = client.post("/verify", files=files(ada, reference=two_faces()), data={"face_policy": "single"})
    assert problem(response, 422, "multiple_faces")["count"] == 2


def test_largest_is_the_default_and_says_which_face(client: TestClient, ada: bytes, grace: bytes) -> None:
    answer = ok(client.post("/verify", files=files(two_faces(), reference=ada)))
    assert answer["decision"] == "match"
    assert answer["probe"]["faces_detected"] == 2
    assert answer["probe"]["face"]["box"]["x"] < 300
    assert ok(client.post("/verify", files=files(two_faces(), reference=grace)))["decision"] == "no_match"


def test_all_lets_the_closest_face_decide(enroll: Enroll, client: TestClient, ada: bytes, grace: bytes) -> None:
    enroll(grace, subject_id="grace")
    for response in (
        client.post("/verify", files=files(two_faces(), reference=grace), data={"face_policy": "all"}),
        client.post("/verify", files=files(two_faces()), data={"face_policy": "all", "subject_id": "grace"}),
    ):
        answer = ok(response)
        assert answer["decision"] == "match"
        assert answer["probe"]["face"]["box"]["x"] > 500
