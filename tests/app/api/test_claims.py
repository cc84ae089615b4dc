"""For whom a rate is promised, and how crowded faces are, as requests and answers have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from fastapi.testclient import TestClient

from app.decisions import Calibration, Claim
from app.encoding import EncoderRuntime
from app.faces import FaceFinder, FacePolicy
from app.gallery import SqliteGallery
from app.main import create_app
from app.recognition.criteria import Criteria
from app.recognition.service import RecognitionService
from app.settings import Settings
from tests.app.api.helpers import files, invalid_field, ok, problem
from tests.app.decisions.support import curve, group, point, sized, table
from tests.app.photographs import collins, variants
from tests.app.process import Server

pytestmark = pytest.mark.slow

Ask = Callable[..., httpx.Response]

WOMEN = group("women", [point(1.2, 0.01), point(0.9, 0.001), point(0.8, 0.0001)])
MEN = group("men", [point(1.25, 0.01), point(0.95, 0.001), point(0.7, 0.0005)])
TOLD = group("children", [point(0.3, 0.01)], claimed=False)
CLOSE = 0.001
"""Between embeddings that were computed at another precision, and what is derived from them."""


class MadeUpCrowding:
    """Decided by the embedding alone, and different for the people of these tests."""

    digest = "made up"

    def __call__(self, embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        crowding: npt.NDArray[np.float32] = (0.15 * np.sin(3 * embeddings[:, 112:].sum(axis=1)) + 0.05).astype(
            np.float32
        )
        return crowding


@pytest.fixture(scope="module")
def grouped(encoder: EncoderRuntime) -> Calibration:
    """All pairs have 0.001 at 1.1, the women at 0.9, the men at 0.95, whatever the number of templates."""
    curves = [curve(templates) for templates in range(1, 9)]
    return Calibration.model_validate(
        table(
            encoder_sha256=encoder.info.sha256,
            curves=curves,
            groups=[WOMEN, MEN, TOLD],
            identification=[sized(100), sized(100, group="women")],
            default_fpir=0.002,
            cohort_sha256="cd" * 32,
        )
    )


Make = Callable[..., RecognitionService]


@pytest.fixture
def make(face_finder: FaceFinder, encoder: EncoderRuntime, grouped: Calibration, tmp_path: Path) -> Make:
    """A service over one data directory, with settings of its own."""

    def service(claim: Claim = Claim.EVERY_GROUP) -> RecognitionService:
        crowding = MadeUpCrowding()
        gallery = SqliteGallery(tmp_path / "crowded", encoder_digest=encoder.info.sha256, crowding=crowding)
        return RecognitionService(face_finder, encoder, gallery, Criteria(grouped, claim=claim), crowding=crowding)

    return service


@pytest.fixture
def crowded(settings: Settings, make: Make) -> Iterator[TestClient]:
    with TestClient(create_app(settings, make())) as running:
        yield running


@pytest.fixture
def pooled(settings: Settings, make: Make) -> Iterator[TestClient]:
    """A service that promises rates over all pairs."""
    with TestClient(create_app(settings, make(Claim.POOLED))) as running:
        yield running


@pytest.fixture(scope="module")
def crowding_of(face_finder: FaceFinder, encoder: EncoderRuntime) -> Callable[..., float]:
    """Of the mean direction of the faces of some photographs."""

    def crowding(*images: bytes) -> float:
        chips = np.stack([face_finder.find(image, FacePolicy.LARGEST).faces[0].chip for image in images])
        mean = encoder.encode(chips).embeddings.sum(axis=0)
        return float(MadeUpCrowding()((mean / np.linalg.norm(mean))[None])[0])

    return crowding


def enrol(client: TestClient, *images: bytes, **fields: str) -> dict[str, Any]:
    return ok(client.post("/enroll", files=files(*images), data=fields), 201)


# --- crowding


def test_the_threshold_of_two_photographs_is_less_by_the_crowding_of_both(
    crowded: TestClient, ada: bytes, grace: bytes, crowding_of: Callable[..., float]
) -> None:
    assert abs(crowding_of(ada) - crowding_of(grace)) > 0.02
    for reference in (ada, grace):
        answer = ok(crowded.post("/verify", files=files(ada, reference=reference)))
        assert answer["crowding"] == pytest.approx(crowding_of(ada) + crowding_of(reference), abs=CLOSE)
        assert answer["threshold"] == pytest.approx(0.9 - answer["crowding"], abs=CLOSE)
        # The rates at the threshold are those for faces that are as crowded as is usual.
        assert answer["operating_point"]["threshold"] == 1.0
        assert answer["operating_point"]["worst_group"] == {
            "group": "women",
            "value": 0.001,
            "low": 0.0005,
            "high": 0.001,
            "at_most": False,
        }
        assert answer["criterion"]["bound_by"] == "women"


def test_rates_at_a_distance_are_those_of_the_distance_with_its_crowding(
    crowded: TestClient, ada: bytes, grace: bytes, grouped: Calibration
) -> None:
    other = ok(crowded.post("/verify", files=files(ada, reference=grace)))
    assert other["distance"] + other["crowding"] > 1.3
    assert other["false_match_rate"] is other["worst_group"] is None
    same = ok(crowded.post("/verify", files=files(ada, reference=variants(collins())["compressed"])))
    assert same["distance"] + same["crowding"] < 0.7
    assert same["false_match_rate"] == {"value": 0.0006, "low": 0.0003, "high": 0.0006, "at_most": True}
    # The men show no less than 0.0005.
    assert same["worst_group"] == {"group": "men", "value": 0.0005, "low": 0.00025, "high": 0.0005, "at_most": True}


def test_a_distance_given_outright_takes_no_notice_of_crowding(crowded: TestClient, ada: bytes, grace: bytes) -> None:
    known = ok(crowded.post("/verify", files=files(ada, reference=grace)))["distance"]
    for change, decision in ((0.01, "match"), (-0.01, "no_match")):
        fields = {"max_distance": str(known + change)}
        answer = ok(crowded.post("/verify", files=files(ada, reference=grace), data=fields))
        assert (answer["decision"], answer["threshold"]) == (decision, pytest.approx(known + change, abs=1e-4))
        assert answer["crowding"] != 0
        assert (answer["criterion"]["claim"], answer["criterion"]["bound_by"]) == (None, None)


def test_the_crowding_of_a_subject_is_that_of_its_templates_together(
    crowded: TestClient, ada: bytes, grace: bytes, crowding_of: Callable[..., float]
) -> None:
    mirrored = variants(collins())["mirrored"]
    enrol(crowded, ada, mirrored, subject_id="ada")
    verified = ok(crowded.post("/verify", files=files(grace), data={"subject_id": "ada"}))
    assert verified["templates"] == 2
    assert verified["crowding"] == pytest.approx(crowding_of(grace) + crowding_of(ada, mirrored), abs=CLOSE)
    assert verified["threshold"] == pytest.approx(0.9 - verified["crowding"], abs=CLOSE)
    enrol(crowded, grace, subject_id="ada", on_conflict="replace")
    again = ok(crowded.post("/verify", files=files(grace), data={"subject_id": "ada"}))
    assert again["crowding"] == pytest.approx(2 * crowding_of(grace), abs=CLOSE)


def test_every_candidate_of_a_search_has_a_threshold_of_its_own(
    crowded: TestClient, ada: bytes, grace: bytes, people: dict[str, tuple[bytes, ...]]
) -> None:
    for name, photographs in people.items():
        enrol(crowded, photographs[0], subject_id=name, face_policy="largest")
    answer = ok(crowded.post("/identify", files=files(ada), data={"target_fpir": "0.5", "top_k": "20"}))
    bound = answer["candidates"][0]["threshold"] + answer["candidates"][0]["crowding"]
    assert answer["criterion"]["bound_by"] == "women"
    for candidate in answer["candidates"]:
        assert candidate["threshold"] == pytest.approx(bound - candidate["crowding"], abs=3e-4)
        assert candidate["decision"] == ("match" if candidate["distance"] <= candidate["threshold"] else "no_match")
    adjusted = [c["distance"] + c["crowding"] for c in answer["candidates"]]
    assert adjusted == sorted(adjusted)
    assert answer["margin"] == pytest.approx(adjusted[1] - adjusted[0], abs=3e-4)
    assert answer["threshold"] == answer["candidates"][0]["threshold"]


def test_possible_duplicates_are_those_within_a_threshold_of_their_own(
    crowded: TestClient, ada: bytes, crowding_of: Callable[..., float]
) -> None:
    enrol(crowded, ada, subject_id="ada")
    [found] = enrol(crowded, ada, subject_id="eileen")["possible_duplicates"]
    assert found["crowding"] == pytest.approx(2 * crowding_of(ada), abs=CLOSE)
    assert found["threshold"] == pytest.approx(0.9 - found["crowding"], abs=CLOSE)
    assert found["distance"] <= found["threshold"]


# --- claims


def criterion(client: TestClient, path: str, image: bytes, **fields: str) -> dict[str, Any]:
    """What decided, with the bound that the threshold comes from."""
    form = fields if path == "/identify" else fields | {"subject_id": "ada"}
    answer = ok(client.post(path, files=files(image), data=form))
    crowding = answer["candidates"][0]["crowding"] if path == "/identify" else answer["crowding"]
    return answer["criterion"] | {"bound": round(answer["threshold"] + crowding, 2)}


# Of one subject, a search has the rate of a comparison: 0.002 is 0.001 at the points that were measured.
EVERY, ALL = ("every_group", "women", 0.9), ("pooled", None, 1.1)


@pytest.mark.parametrize("path", ["/verify", "/identify"])
@pytest.mark.parametrize(
    ("served", "collection", "asked", "expected"),
    [
        ("every_group", None, None, EVERY),
        ("pooled", None, None, ALL),
        ("every_group", "pooled", None, ALL),
        ("pooled", "every_group", None, EVERY),
        ("every_group", None, "pooled", ALL),
        ("pooled", None, "every_group", EVERY),
        ("pooled", "pooled", "every_group", EVERY),
        ("every_group", "every_group", "pooled", ALL),
    ],
)
def test_the_request_goes_before_the_collection_and_that_before_the_service(
    request: pytest.FixtureRequest,
    ada: bytes,
    path: str,
    served: str,
    collection: str | None,
    asked: str | None,
    expected: tuple[str, str | None, float],
) -> None:
    client: TestClient = request.getfixturevalue("crowded" if served == "every_group" else "pooled")
    enrol(client, ada, subject_id="ada")
    if collection is not None:
        ok(client.put("/collections/default", json={"claim": collection}))
    for target in ({}, {"target_fmr" if path == "/verify" else "target_fpir": "0.0015"}):
        found = criterion(client, path, ada, **target, **({} if asked is None else {"claim": asked}))
        assert (found["claim"], found["bound_by"], found["bound"]) == expected
        assert found["set_by"] == ("request" if target else "server")
    # Two photographs are compared by the same rule, in the collection that the request names.
    fields = {} if asked is None else {"claim": asked}
    two = ok(client.post("/verify", files=files(ada, reference=ada), data=fields))
    assert two["criterion"]["claim"] == (asked or collection or served)


def test_a_collection_may_have_a_target_and_leave_the_claim_to_the_service(pooled: TestClient, ada: bytes) -> None:
    enrol(pooled, ada, subject_id="ada")
    ok(pooled.put("/collections/default", json={"target_fmr": 0.01}))
    found = criterion(pooled, "/verify", ada)
    assert (found["set_by"], found["claim"], found["value"], found["bound"]) == ("collection", "pooled", 0.01, 1.3)
    ok(pooled.put("/collections/default", json={"target_fmr": 0.01, "claim": "every_group"}))
    found = criterion(pooled, "/verify", ada)
    assert (found["set_by"], found["claim"], found["bound_by"], found["bound"]) == (
        "collection",
        "every_group",
        "women",
        1.2,
    )


def test_enrolment_looks_for_duplicates_as_the_collection_claims(crowded: TestClient, ada: bytes) -> None:
    enrol(crowded, ada, subject_id="ada")
    bounds = []
    for number, claim in enumerate(("every_group", "pooled")):
        ok(crowded.put("/collections/default", json={"claim": claim}))
        found = enrol(crowded, ada, subject_id=f"again-{number}")["possible_duplicates"]
        bounds.append({round(c["threshold"] + c["crowding"], 2) for c in found})
        ok(crowded.delete(f"/subjects/again-{number}"))
    assert bounds == [{0.9}, {1.1}]


@pytest.mark.parametrize("outright", ["max_distance", "min_similarity"])
def test_a_claim_without_a_rate_is_refused_by_every_operation(crowded: TestClient, ada: bytes, outright: str) -> None:
    fields = {outright: "0.5", "claim": "every_group"}
    for path, more in (("/identify", {}), ("/verify", {"subject_id": "ada"})):
        response = crowded.post(path, files=files(ada), data=fields | more)
        assert "a claim is about a rate" in invalid_field(response, "body")


def test_what_cannot_be_shown_depends_on_the_claim(crowded: TestClient, ada: bytes) -> None:
    def ask(target: float, claim: str) -> httpx.Response:
        fields = {"target_fmr": str(target), "claim": claim}
        return crowded.post("/verify", files=files(ada, reference=ada), data=fields)

    ok(ask(0.0005, "every_group"))
    refused = problem(ask(0.0005, "pooled"), 422, "target_unsupported")
    assert (refused["claim"], refused["smallest_supported"]) == ("pooled", 0.0006)
    assert "over all pairs" in refused["detail"]
    refused = problem(ask(0.0004, "every_group"), 422, "target_unsupported")
    assert (refused["claim"], refused["smallest_supported"]) == ("every_group", 0.0005)
    assert "in every measured group" in refused["detail"]
    targets = {"id": "staff", "target_fmr": 0.0005}
    problem(crowded.post("/collections", json=targets | {"claim": "pooled"}), 422, "target_unsupported")
    ok(crowded.post("/collections", json=targets), 201)
    problem(
        crowded.put("/collections/staff", json={"target_fmr": 0.0005, "claim": "pooled"}), 422, "target_unsupported"
    )
    assert ok(crowded.get("/collections"))["collections"][1]["claim"] is None


def test_the_model_lists_the_groups_and_what_is_claimed(crowded: TestClient, grouped: Calibration) -> None:
    answer = ok(crowded.get("/model"))
    assert (answer["claim"], answer["cohort_sha256"], answer["smallest_supported_fmr"]) == (
        "every_group",
        "cd" * 32,
        0.0005,
    )
    assert [(g["name"], g["claimed"]) for g in answer["groups"]] == [
        ("women", True),
        ("men", True),
        ("children", False),
    ]
    assert [p["threshold"] for p in answer["groups"][0]["operating_points"]] == [1.2, 0.9, 0.8]
    assert answer["operating_point"]["worst_group"]["group"] == "women"


def test_the_model_of_a_service_that_claims_for_all_pairs(pooled: TestClient) -> None:
    answer = ok(pooled.get("/model"))
    assert (answer["claim"], answer["smallest_supported_fmr"]) == ("pooled", 0.0006)
    assert answer["operating_point"]["threshold"] == 1.1
    # At the threshold of all pairs the women have far more.
    assert (answer["operating_point"]["worst_group"]["group"], answer["operating_point"]["worst_group"]["value"]) == (
        "women",
        0.01,
    )


def test_the_claim_and_the_crowding_of_what_is_stored_survive_a_restart(
    settings: Settings, make: Make, ada: bytes, grace: bytes
) -> None:
    with TestClient(create_app(settings, make())) as client:
        ok(client.post("/collections", json={"id": "staff", "target_fpir": 0.01, "claim": "pooled"}), 201)
        enrol(client, ada, subject_id="ada", collection="staff")
        before = ok(client.post("/identify", files=files(grace), data={"collection": "staff"}))
    with TestClient(create_app(settings, make())) as client:
        [_, staff] = ok(client.get("/collections"))["collections"]
        assert (staff["target_fmr"], staff["target_fpir"], staff["claim"]) == (None, 0.01, "pooled")
        after = ok(client.post("/identify", files=files(grace), data={"collection": "staff"}))
        assert (after["criterion"]["claim"], after["criterion"]["set_by"]) == ("pooled", "collection")
        assert after["candidates"][0]["crowding"] == pytest.approx(before["candidates"][0]["crowding"], abs=CLOSE)


def test_the_claim_of_the_service_is_a_setting(tmp_path: Path) -> None:
    with Server(tmp_path / "data", TESSERA_DECISIONS__CLAIM="pooled") as server:
        answer = ok(httpx.get(f"{server.url}/model"))
    assert answer["claim"] == "pooled"
    assert answer["target_fmr"] >= answer["smallest_supported_fmr"]
