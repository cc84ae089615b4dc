from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.app.api.helpers import base64_of, files, invalid_field, ok, problem
from tests.app.photographs import blank, blurred, collins, jpeg, two_faces


@pytest.mark.parametrize("as_json", [False, True])
def test_a_face_is_described_in_pixels_of_the_photograph(client: TestClient, ada: bytes, as_json: bool) -> None:
    sent = {"json": {"image": base64_of(ada)}} if as_json else {"files": files(ada)}
    answer = ok(client.post("/detect", **sent))
    assert (answer["width"], answer["height"]) == (512, 512)
    [face] = answer["faces"]
    box, marks = face["box"], face["landmarks"]
    assert 0.5 < face["confidence"] <= 1
    for x, y in marks.values():
        assert box["x"] < x < box["x"] + box["width"]
        assert box["y"] < y < box["y"] + box["height"]
    assert marks["left_eye"][0] < marks["nose"][0] < marks["right_eye"][0]
    assert marks["left_eye"][1] < marks["nose"][1] < marks["left_mouth"][1]
    assert face["quality"]["issues"] == []
    assert face["quality"]["eye_distance"] == pytest.approx(marks["right_eye"][0] - marks["left_eye"][0], rel=0.05)


def test_several_faces_come_largest_first(client: TestClient) -> None:
    faces = ok(client.post("/detect", files=files(two_faces())))["faces"]
    areas = [f["box"]["width"] * f["box"]["height"] for f in faces]
    assert len(areas) == 2
    assert areas == sorted(areas, reverse=True)


def test_no_face_is_an_empty_list(client: TestClient) -> None:
    answer = ok(client.post("/detect", files=files(blank())))
    assert (answer["width"], answer["height"], answer["faces"]) == (320, 240, [])


def test_poor_quality_is_named(client: TestClient) -> None:
    [face] = ok(client.post("/detect", files=files(blurred())))["faces"]
    assert "blurred" in face["quality"]["issues"]


def test_nothing_is_stored(client: TestClient, ada: bytes) -> None:
    client.post("/detect", files=files(ada))
    assert ok(client.get("/subjects"))["subjects"] == []


def test_bytes_that_are_no_image(client: TestClient) -> None:
    problem(client.post("/detect", files=files(b"%PDF-1.7")), 415, "unsupported_image_format")
    problem(client.post("/detect", json={"image": ""}), 422, "empty_image")


def test_other_fields_are_refused(client: TestClient, ada: bytes) -> None:
    invalid_field(client.post("/detect", files=files(ada), data={"collection": "default"}), "collection")
    problem(client.post("/detect"), 415, "unsupported_media_type")


def test_a_photograph_that_lies_on_its_side_is_turned_and_says_so(client: TestClient, ada: bytes) -> None:
    upright = ok(client.post("/detect", files=files(ada)))["faces"][0]
    assert upright["turned"] == 0
    answer = ok(client.post("/detect", files=files(jpeg(collins().transpose(Image.Transpose.ROTATE_90), 95))))
    (face,) = answer["faces"]
    assert face["turned"] == 90
    x, y = upright["landmarks"]["nose"]
    assert face["landmarks"]["nose"] == [pytest.approx(y, abs=2), pytest.approx(511 - x, abs=2)]
    assert face["quality"]["roll"] == pytest.approx(upright["quality"]["roll"] - 90, abs=2)
