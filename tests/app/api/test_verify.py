from __future__ import annotations

import io
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.decisions import Calibration, Claim, ClaimedThreshold
from app.encoding import EncoderWeights
from tests.app.api.conftest import Enroll
from tests.app.api.helpers import base64_of, files, invalid_field, ok, problem
from tests.app.photographs import blank, collins, two_alike, two_faces, variants

pytestmark = pytest.mark.slow


def bound_of(calibration: Calibration, fmr: float, claim: Claim = Claim.EVERY_GROUP) -> ClaimedThreshold:
    """For one template."""
    found = calibration.bound(claim, fmr, 1)
    assert found is not None
    return found


def criterion(calibration: Calibration, fmr: float, set_by: str, claim: Claim = Claim.EVERY_GROUP) -> dict[str, Any]:
    """What an answer says of a target."""
    group = bound_of(calibration, fmr, claim).group
    return {
        "kind": "target_fmr",
        "value": fmr,
        "set_by": set_by,
        "claim": claim.value,
        "bound_by": group,
        "met": True,
    }


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
    bound = bound_of(calibration, calibration.default_fmr)
    default = calibration.curve(1).at_distance(bound.threshold)
    assert default is not None
    assert answer["threshold"] == pytest.approx(bound.threshold, abs=1e-4)
    assert answer["threshold"] <= answer["operating_point"]["threshold"] == pytest.approx(default.threshold, abs=1e-4)
    rates = default.false_match_rate.model_dump() | {"at_most": False}
    assert answer["operating_point"]["false_match_rate"] == pytest.approx(rates, rel=5e-3)
    rates = default.false_non_match_rate.model_dump()
    assert answer["operating_point"]["false_non_match_rate"] == pytest.approx(rates, rel=5e-3)
    assert answer["criterion"] == criterion(calibration, calibration.default_fmr, "server")
    assert answer["crowding"] == 0
    strictest = calibration.curve(1).operating_points[-1].false_match_rate
    assert answer["false_match_rate"] == pytest.approx(strictest.model_dump() | {"at_most": True}, rel=5e-3)
    assert (answer["reason"], answer["templates"]) == (None, 1)
    assert answer["encoder_version"] == f"{weights.name}-{weights.version}-{weights.sha256[:8]}"
    assert answer["calibration_version"] == calibration.version
    assert answer["distance"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
def test_a_subject_is_verified_and_its_nearest_template_is_named(
    enroll: Enroll, client: TestClient, ada: bytes, prefix: str
) -> None:
    templates = enroll(variants(collins())["mirrored"], ada, subject_id="ada")["templates"]
    body = {"image": prefix + base64_of(ada), "subject_id": "ada"}
    answer = ok(client.post("/verify", json=body))
    assert answer["decision"] == "match"
    assert (answer["subject_id"], answer["templates"]) == ("ada", 2)
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


def test_an_avif_is_the_same_face_as_the_jpeg_of_it(client: TestClient, ada: bytes) -> None:
    out = io.BytesIO()
    collins().save(out, "AVIF", quality=80)
    answer = ok(client.post("/verify", files=files(ada, reference=out.getvalue())))
    assert answer["distance"] < 0.05


def test_a_heic_is_refused_with_the_way_out(client: TestClient, ada: bytes) -> None:
    heic = b"\x00\x00\x00\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    refused = problem(client.post("/verify", files=files(heic, reference=ada)), 415, "unsupported_image_format")
    assert "Most Compatible" in refused["detail"]


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


@pytest.mark.parametrize(
    ("poor", "status", "code"), [(blank(), 422, "no_face"), (b"x", 415, "unsupported_image_format")]
)
def test_an_error_says_which_of_two_photographs_it_is_about(
    enroll: Enroll, client: TestClient, ada: bytes, poor: bytes, status: int, code: str
) -> None:
    for name, sent in (("image", files(poor, reference=ada)), ("reference", files(ada, reference=poor))):
        refused = problem(client.post("/verify", files=sent), status, code)
        assert refused["photograph"] == name
        assert refused["detail"].startswith(f"{name}: ")
    enroll(ada, subject_id="ada")
    alone = problem(client.post("/verify", files=files(poor), data={"subject_id": "ada"}), status, code)
    assert "photograph" not in alone


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


def test_the_wrong_one_of_two_faces_of_like_size_is_inconclusive_and_counts_as_a_failure(
    enroll: Enroll, client: TestClient, ada: bytes, grace: bytes
) -> None:
    enroll(grace, subject_id="grace")
    answer = ok(client.post("/verify", files=files(two_alike(), reference=grace)))
    assert (answer["decision"], answer["reason"]) == ("inconclusive", "ambiguous_face")
    assert ok(client.post("/verify", files=files(two_alike(), reference=ada)))["decision"] == "match"
    problem(
        client.post("/verify", files=files(two_alike(), reference=grace), data={"face_policy": "dominant"}),
        422,
        "multiple_faces",
    )
    for _ in range(5):
        ok(client.post("/verify", files=files(two_alike()), data={"subject_id": "grace"}))
    problem(client.post("/verify", files=files(grace), data={"subject_id": "grace"}), 429, "locked_out")


def test_all_lets_the_closest_face_decide(enroll: Enroll, client: TestClient, ada: bytes, grace: bytes) -> None:
    enroll(grace, subject_id="grace")
    for response in (
        client.post("/verify", files=files(two_faces(), reference=grace), data={"face_policy": "all"}),
        client.post("/verify", files=files(two_faces()), data={"face_policy": "all", "subject_id": "grace"}),
    ):
        answer = ok(response)
        assert answer["decision"] == "match"
        assert answer["probe"]["face"]["box"]["x"] > 500


# --- what a match is


def test_a_stricter_target_gives_a_smaller_threshold(
    client: TestClient, ada: bytes, grace: bytes, calibration: Calibration
) -> None:
    def ask(**fields: str) -> dict[str, Any]:
        return ok(client.post("/verify", files=files(ada, reference=grace), data=fields))

    loose, strict = ask(target_fmr="0.01"), ask(target_fmr="0.00003")
    for answer, target in ((loose, 0.01), (strict, 0.00003)):
        assert answer["threshold"] == pytest.approx(bound_of(calibration, target).threshold, abs=1e-4)
        assert answer["operating_point"]["false_match_rate"]["value"] <= target
        assert answer["criterion"] == criterion(calibration, target, "request")
    assert strict["threshold"] < loose["threshold"]
    assert strict["distance"] == loose["distance"]


def test_a_rate_that_could_not_be_measured_at_the_threshold_is_a_bound(
    client: TestClient, ada: bytes, calibration: Calibration
) -> None:
    target, fields = 0.00001, files(ada, reference=ada)
    answer = ok(client.post("/verify", files=fields, data={"target_fmr": str(target)}))
    assert answer["criterion"]["met"]
    assert answer["threshold"] < calibration.curve(1).strictest.threshold
    # As measured at the next more permissive threshold, it is above the target that is met.
    rate = answer["operating_point"]["false_match_rate"]
    assert (rate["value"] > target, rate["at_most"]) == (True, True)


def test_a_target_that_the_data_cannot_support_is_refused_with_the_smallest(
    client: TestClient, ada: bytes, calibration: Calibration
) -> None:
    body = problem(
        client.post("/verify", files=files(ada, reference=ada), data={"target_fmr": "1e-9"}), 422, "target_unsupported"
    )
    smallest = calibration.smallest_supported(Claim.EVERY_GROUP, 1)
    assert body["smallest_supported"] == smallest
    assert "max_distance" in body["detail"]
    answer = ok(client.post("/verify", files=files(ada, reference=ada), data={"target_fmr": str(smallest)}))
    assert answer["decision"] == "match"


def test_a_distance_or_a_similarity_can_be_the_threshold(client: TestClient, ada: bytes, grace: bytes) -> None:
    known = ok(client.post("/verify", files=files(ada, reference=grace)))["distance"]
    for fields, decision in (
        ({"max_distance": str(known + 0.01)}, "match"),
        ({"max_distance": str(known - 0.01)}, "no_match"),
        ({"min_similarity": str(1 - known / 2 - 0.01)}, "match"),
        ({"min_similarity": str(1 - known / 2 + 0.01)}, "no_match"),
    ):
        answer = ok(client.post("/verify", files=files(ada, reference=grace), data=fields))
        assert answer["decision"] == decision
        assert (answer["criterion"]["kind"], answer["criterion"]["claim"]) == ("max_distance", None)
        assert answer["threshold"] == pytest.approx(answer["criterion"]["value"], abs=1e-4)
    # So far beyond all that was measured, no rate is told.
    assert (
        ok(client.post("/verify", files=files(ada, reference=grace), data={"max_distance": "4"}))["operating_point"]
        is None
    )


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"target_fmr": "0"}, "target_fmr"),
        ({"target_fmr": "1"}, "target_fmr"),
        ({"target_fmr": "nan"}, "target_fmr"),
        ({"max_distance": "4.1"}, "max_distance"),
        ({"max_distance": "-1"}, "max_distance"),
        ({"min_similarity": "1.1"}, "min_similarity"),
        ({"target_fpir": "0.1"}, "target_fpir"),
        ({"claim": "everybody"}, "claim"),
    ],
)
def test_criteria_that_make_no_sense_are_named(
    client: TestClient, ada: bytes, fields: dict[str, str], field: str
) -> None:
    invalid_field(client.post("/verify", files=files(ada, reference=ada), data=fields), field)


def test_one_criterion_is_enough(client: TestClient, ada: bytes) -> None:
    fields = {"target_fmr": "0.001", "max_distance": "1"}
    body = problem(client.post("/verify", files=files(ada, reference=ada), data=fields), 422, "invalid_request")
    assert "target_fmr, max_distance" in body["detail"]


@pytest.mark.parametrize("outright", ["max_distance", "min_similarity"])
def test_a_claim_is_of_a_rate_and_not_of_a_distance(client: TestClient, ada: bytes, outright: str) -> None:
    fields = {outright: "0.5", "claim": "pooled"}
    assert "a claim is about a rate" in invalid_field(
        client.post("/verify", files=files(ada, reference=ada), data=fields), "body"
    )


def test_a_collection_has_targets_of_its_own(
    enroll: Enroll, client: TestClient, ada: bytes, calibration: Calibration
) -> None:
    ok(client.post("/collections", json={"id": "staff", "target_fmr": 0.01}), 201)
    enroll(ada, subject_id="ada", collection="staff")
    asked = {"subject_id": "ada", "collection": "staff"}
    answer = ok(client.post("/verify", files=files(ada), data=asked))
    assert answer["criterion"] == criterion(calibration, 0.01, "collection")
    answer = ok(client.post("/verify", files=files(ada), data=asked | {"target_fmr": "0.001"}))
    assert answer["criterion"]["set_by"] == "request"
    ok(client.put("/collections/staff", json={}))
    assert ok(client.post("/verify", files=files(ada), data=asked))["criterion"]["set_by"] == "server"
