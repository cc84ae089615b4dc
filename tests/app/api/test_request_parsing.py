"""Bodies that are too large, too many, or no bodies at all: each a clear refusal, never a failure."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.types import Message

from app.api.request_parsing import RECORD_BODY
from app.encoding import EncoderInfo, Precision, RuntimeName
from app.faces import NoFaceError
from app.main import create_app
from app.recognition.service import RecognitionService
from app.settings import FacesSettings, GallerySettings, ServerSettings, Settings
from tests.app.api.helpers import base64_of, files, invalid_field, ok, problem
from tests.app.photographs import blank, collins, jpeg

pytestmark = pytest.mark.slow

LIMIT = 64 * 1024
CHUNK = 4096
BOUNDARY = b"----b"


@pytest.fixture
def small(settings: Settings, service: RecognitionService) -> Iterator[TestClient]:
    """An application that takes 64 KiB."""
    limited = settings.model_copy(
        update={"server": ServerSettings(max_body_bytes=LIMIT, max_images=4, max_metadata_bytes=1024)}
    )
    with TestClient(create_app(limited, service)) as running:
        yield running


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"' if filename is not None else ""
    head = f'Content-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return b"--" + BOUNDARY + b"\r\n" + head.encode() + value + b"\r\n"


def form(*components: bytes) -> dict[str, Any]:
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}
    return {"content": b"".join(components) + b"--" + BOUNDARY + b"--\r\n", "headers": headers}


def call(
    client: TestClient, path: str, headers: dict[str, str], chunks: int, first: bytes = b""
) -> tuple[int, dict[str, Any], int]:
    """Sends up to ``chunks`` chunks straight to the ASGI application: status, body, how many it asked for."""
    taken = 0
    sent: list[Message] = []

    async def receive() -> Message:
        nonlocal taken
        taken += 1
        body = first.ljust(CHUNK, b"x") if taken == 1 else b"x" * CHUNK
        return {"type": "http.request", "body": body, "more_body": taken < chunks}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in ({"host": "test"} | headers).items()],
        "client": ("test", 1),
        "server": ("test", 80),
    }
    asyncio.run(client.app(scope, receive, send))  # type: ignore[arg-type]
    body = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
    return sent[0]["status"], json.loads(body), taken


@pytest.mark.parametrize("path", ["/enroll", "/verify", "/identify", "/detect", "/collections", "/nothing"])
def test_a_body_announced_too_large_is_refused_unread(small: TestClient, path: str) -> None:
    headers = {"content-type": "application/json", "content-length": str(LIMIT + 1)}
    status, body, taken = call(small, path, headers, 100)
    assert (status, body["code"], body["max_body_bytes"], taken) == (413, "body_too_large", LIMIT, 0)


@pytest.mark.parametrize("path", ["/enroll", "/verify", "/identify", "/detect"])
@pytest.mark.parametrize("as_form", [False, True])
def test_a_body_without_a_length_is_read_up_to_the_limit(small: TestClient, path: str, as_form: bool) -> None:
    headers = form()["headers"] if as_form else {"content-type": "application/json"}
    first = part("image", b"", "a.jpg").removesuffix(b"\r\n") if as_form else b""
    status, body, taken = call(small, path, headers, 10 * LIMIT // CHUNK, first)
    assert (status, body["code"]) == (413, "body_too_large")
    assert LIMIT < taken * CHUNK <= LIMIT + CHUNK


@pytest.mark.parametrize(("method", "path"), [("POST", "/collections"), ("PATCH", "/subjects/a")])
def test_records_have_a_smaller_limit(small: TestClient, method: str, path: str) -> None:
    def stream() -> Iterator[bytes]:
        for _ in range(LIMIT // CHUNK):
            yield b" " * CHUNK

    response = small.request(method, path, content=stream(), headers={"content-type": "application/json"})
    answer = problem(response, 413, "body_too_large")
    assert answer["max_body_bytes"] == RECORD_BODY + 6 * 1024
    assert "TESSERA_SERVER__MAX_METADATA_BYTES" in answer["detail"]


def test_a_body_of_exactly_the_limit_is_taken(small: TestClient) -> None:
    body = b'{"id": "staff"}'
    padded = body + b" " * (RECORD_BODY + 6 * 1024 - len(body))
    headers = {"content-type": "application/json"}
    problem(small.post("/collections", content=padded + b" ", headers=headers), 413, "body_too_large")
    ok(small.post("/collections", content=padded, headers=headers), 201)


def test_a_length_that_lies_does_not_help(small: TestClient) -> None:
    status, body, taken = call(small, "/enroll", {"content-type": "application/json", "content-length": "10"}, 100)
    assert (status, body["code"]) == (413, "body_too_large")
    assert taken * CHUNK <= LIMIT + CHUNK


def test_as_many_images_as_allowed_and_no_more(client: TestClient, ada: bytes) -> None:
    ok(client.post("/enroll", files=files(*[ada] * 4)), 201)
    for count in (5, 6, 7, 40):
        assert problem(client.post("/enroll", files=files(*[ada] * count)), 413, "too_many_images")["max_images"] == 4
    response = client.post("/enroll", json={"image": [base64_of(ada)] * 5})
    problem(response, 413, "too_many_images")


def test_verify_takes_two_files_where_one_image_is_allowed(
    settings: Settings, service: RecognitionService, ada: bytes
) -> None:
    one = settings.model_copy(update={"server": ServerSettings(max_images=1)})
    with TestClient(create_app(one, service)) as client:
        ok(client.post("/verify", files=files(ada, reference=ada)))


def test_too_large_an_image(tmp_path: Any, ada: bytes) -> None:
    faces = FacesSettings(max_image_bytes=len(ada), max_image_pixels=512 * 512)
    with TestClient(create_app(Settings(faces=faces, gallery=GallerySettings(data_dir=tmp_path)))) as client:
        ok(client.post("/detect", files=files(ada)))
        problem(client.post("/detect", files=files(ada + b"\0")), 413, "image_too_large")
        wide = jpeg(collins().resize((513, 512)), 10)
        assert len(wide) < len(ada)
        problem(client.post("/detect", files=files(wide)), 413, "image_too_large")


@pytest.mark.parametrize("path", ["/enroll", "/verify", "/identify", "/detect"])
@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "image/jpeg", "application/x-www-form-urlencoded", ";"]
)
def test_other_media_types_are_refused(client: TestClient, path: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    problem(client.post(path, content=b"image=1", headers=headers), 415, "unsupported_media_type")


@pytest.mark.parametrize("content_type", ["APPLICATION/JSON", "application/json; charset=utf-8"])
def test_media_types_are_read_as_they_may_be_written(client: TestClient, content_type: str) -> None:
    content = json.dumps({"image": base64_of(blank())})
    ok(client.post("/detect", content=content, headers={"content-type": content_type}))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"image": NaN}',
        b'{"image": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"image": ' + b"1" * 10_000 + b"}",
        b'{"image": "a"} trailing',
    ],
)
def test_json_that_is_none(client: TestClient, body: bytes) -> None:
    response = client.post("/enroll", content=body, headers={"content-type": "application/json"})
    assert "JSON" in problem(response, 400, "malformed_body")["detail"]


@pytest.mark.parametrize(
    "body",
    [
        '{"collection": "staff", "image": "", "collection": "default"}',
        '{"image": "", "\\u0069mage": ""}',
        '{"image": "", "metadata": {"a": {"b": 1, "b": 2}}}',
    ],
)
def test_a_name_is_given_once_in_json(client: TestClient, body: str) -> None:
    response = client.post("/enroll", content=body, headers={"content-type": "application/json"})
    assert "uplicate" in problem(response, 400, "malformed_body")["detail"]


def test_a_name_is_given_once_in_the_metadata_of_a_form(client: TestClient, ada: bytes) -> None:
    sent = form(part("image", ada, "a.jpg"), part("metadata", b'{"badge": 1, "badge": 2}'))
    assert "uplicate" in invalid_field(client.post("/enroll", **sent), "metadata")


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_a_compressed_body_is_refused_by_its_header(client: TestClient, ada: bytes, encoding: str) -> None:
    body = json.dumps({"image": base64_of(ada)}).encode()
    content = gzip.compress(body) if encoding == "gzip" else body
    headers = {"content-type": "application/json", "content-encoding": encoding}
    response = client.post("/detect", content=content, headers=headers)
    if encoding == "identity":
        ok(response)
    else:
        assert "Content-Encoding" in problem(response, 415, "unsupported_media_type")["detail"]


def test_nobody_is_replaced_without_being_named(client: TestClient, ada: bytes) -> None:
    for sent in ({}, {"subject_id": ""}):
        response = client.post("/enroll", files=files(ada), data={"on_conflict": "replace"} | sent)
        assert "subject_id" in invalid_field(response, "body")
    assert ok(client.get("/subjects"))["subjects"] == []


@pytest.mark.parametrize("field", ["top_k", "max_distance", "min_similarity", "target_fpir"])
@pytest.mark.parametrize("value", [True, False])
def test_a_truth_value_is_no_number(client: TestClient, ada: bytes, field: str, value: bool) -> None:
    invalid_field(client.post("/identify", json={"image": base64_of(ada), field: value}), field)


@pytest.mark.parametrize("body", [[], "text", 1, None, True])
def test_json_that_is_no_object(client: TestClient, body: object) -> None:
    response = client.post("/enroll", content=json.dumps(body), headers={"content-type": "application/json"})
    invalid_field(response, "body")


@pytest.mark.parametrize("image", ["*", "äöü", "aGVsbG8", "data:image/jpeg;base64", 5, {"a": 1}, True])
def test_an_image_in_json_is_base64(client: TestClient, image: object) -> None:
    invalid_field(client.post("/detect", json={"image": image}), "image")
    invalid_field(client.post("/enroll", json={"image": [image]}), "image.0")


def test_at_least_one_image(client: TestClient) -> None:
    invalid_field(client.post("/enroll", json={"image": []}), "image")
    invalid_field(client.post("/enroll", json={}), "image")
    invalid_field(client.post("/identify", **form(part("top_k", b"1"))), "image")


def test_verify_and_identify_take_one_image(client: TestClient, ada: bytes) -> None:
    invalid_field(client.post("/identify", files=files(ada, ada)), "image")
    invalid_field(client.post("/identify", json={"image": [base64_of(ada)]}), "image")


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="',
        "multipart/form-data;=",
    ],
)
def test_a_form_without_a_boundary(client: TestClient, content_type: str) -> None:
    response = client.post("/enroll", content=b"--b\r\n", headers={"content-type": content_type})
    problem(response, 400, "malformed_body")


@pytest.mark.parametrize(
    "content",
    [
        b"garbage",
        b"--other\r\n\r\n",
        b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data\r\n\r\nx\r\n--" + BOUNDARY + b"--\r\n",
        b"--" + BOUNDARY + b"\r\n\r\nx\r\n--" + BOUNDARY + b"--\r\n",
        b"--" + BOUNDARY + b"\r\nno colon\r\n\r\nx\r\n--" + BOUNDARY + b"--\r\n",
    ],
)
def test_a_form_that_is_garbage(client: TestClient, content: bytes) -> None:
    problem(client.post("/enroll", **(form() | {"content": content})), 400, "malformed_body")


@pytest.mark.parametrize("cut", [1, 10, 2000])
def test_a_form_that_ends_early_stores_nothing(client: TestClient, ada: bytes, cut: int) -> None:
    whole = form(part("image", ada, "a.jpg"), part("subject_id", b"ada"), part("image", ada, "b.jpg"))
    response = client.post("/enroll", **(whole | {"content": whole["content"][: -cut - len(BOUNDARY) - 6]}))
    problem(response, 400, "malformed_body")
    assert ok(client.get("/subjects"))["subjects"] == []


def test_an_empty_form(client: TestClient) -> None:
    response = client.post("/enroll", **(form() | {"content": b""}))
    problem(response, 400, "malformed_body")


def test_too_many_fields(client: TestClient) -> None:
    problem(client.post("/enroll", **form(*[part(f"f{i}", b"") for i in range(50)])), 400, "malformed_body")


@pytest.mark.parametrize("field", ["image", "reference"])
def test_an_image_must_be_a_file(client: TestClient, ada: bytes, field: str) -> None:
    sent = [part("image", ada, "a.jpg")] if field != "image" else []
    response = client.post("/verify", **form(*sent, part(field, ada[:100])))
    assert "file" in invalid_field(response, field)


def test_a_text_field_must_not_be_a_file(client: TestClient, ada: bytes) -> None:
    response = client.post("/enroll", **form(part("image", ada, "a.jpg"), part("subject_id", b"ada", "id.txt")))
    assert "text" in invalid_field(response, "subject_id")


def test_a_text_field_is_given_once(client: TestClient, ada: bytes) -> None:
    response = client.post("/enroll", **form(part("image", ada, "a"), *[part("subject_id", b"ada")] * 2))
    assert "more than once" in invalid_field(response, "subject_id")


def test_an_empty_field_of_a_form_is_absent(client: TestClient, ada: bytes) -> None:
    empty = [part(name, b"") for name in ("subject_id", "metadata", "on_conflict", "face_policy", "collection")]
    enrolled = ok(client.post("/enroll", **form(part("image", ada, "a.jpg"), part("image", b"", ""), *empty)), 201)
    assert enrolled["collection"] == "default"
    assert len(enrolled["templates"]) == 1
    criteria = [part(name, b"") for name in ("reference", "max_distance", "min_similarity", "claim", "target_fmr")]
    named = part("subject_id", enrolled["subject_id"].encode())
    assert ok(client.post("/verify", **form(part("image", ada, "a.jpg"), named, *criteria)))["decision"] == "match"
    assert "missing" in invalid_field(client.post("/detect", **form(part("image", b"", ""))), "image")
    unknown = form(part("image", ada, "a.jpg"), part("imagee", b""))
    assert "no such field" in invalid_field(client.post("/detect", **unknown), "imagee")


def test_a_file_that_is_chosen_and_empty_is_no_absent_field(client: TestClient, ada: bytes) -> None:
    response = client.post("/verify", **form(part("image", ada, "a.jpg"), part("reference", b"", "b.jpg")))
    problem(response, 422, "empty_image")


def test_a_photograph_in_a_wrong_field_learns_the_right_ones(client: TestClient, ada: bytes) -> None:
    for sent in ({"files": files(ada, imag=ada)}, {"json": {"image": base64_of(ada), "imag": "x"}}):
        message = invalid_field(client.post("/verify", **sent), "imag")
        assert "no such field; did you mean `image`?" in message
        assert "The fields of /verify are" in message
        assert {"image", "reference", "subject_id", "target_fmr"} <= set(message.replace(",", "").split())
    assert "did you mean" not in invalid_field(client.post("/verify", files=files(ada, xyz=ada)), "xyz")


def test_everything_that_is_wrong_with_a_form_is_said_at_once(client: TestClient, ada: bytes) -> None:
    sent = files(source_image=ada, target_image=ada)
    errors = problem(client.post("/verify", files=sent, data={"limit": "1"}), 422, "invalid_request")["errors"]
    assert {error["field"] for error in errors} == {"image", "source_image", "target_image", "limit"}
    assert "The fields of /verify are image, reference, subject_id, " in errors[-1]["message"]


def test_a_body_that_is_no_object_is_called_so(client: TestClient, ada: bytes) -> None:
    assert invalid_field(client.post("/verify", json=[]), "body") == "must be a JSON object"
    sent = {"image": base64_of(ada), "metadata": "Ada"}
    assert invalid_field(client.post("/enroll", json=sent), "metadata") == "must be a JSON object"


def test_wrapped_base64_learns_what_is_wrong_with_it(client: TestClient, ada: bytes) -> None:
    wrapped = base64.encodebytes(ada).decode()
    assert "without line breaks" in invalid_field(client.post("/detect", json={"image": wrapped}), "image")


def test_two_photographs_where_one_belongs(client: TestClient, ada: bytes) -> None:
    for sent in ({"files": files(ada, ada)}, {"json": {"image": [base64_of(ada)] * 2}}):
        assert "send the second one as `reference`" in invalid_field(client.post("/verify", **sent), "image")
        message = invalid_field(client.post("/identify", **sent), "image")
        assert "takes one photograph" in message
        assert "reference" not in message


def test_what_an_id_may_look_like_is_said_everywhere(client: TestClient, ada: bytes) -> None:
    for response, field in (
        (client.post("/enroll", files=files(ada), data={"subject_id": "Ada Lovelace"}), "subject_id"),
        (client.post("/collections", json={"id": "a/b"}), "id"),
        (client.get("/subjects/-a"), "subject_id"),
        (client.get("/subjects", params={"collection": "a b"}), "collection"),
    ):
        assert "1 to 128 letters, digits or any of . _ @ : + ~ -" in invalid_field(response, field)


def test_what_is_missing_is_said(client: TestClient, ada: bytes) -> None:
    assert "is missing: send a photograph" in invalid_field(client.post("/detect", json={}), "image")
    assert invalid_field(client.post("/collections", json={}), "id") == "is missing"
    assert invalid_field(client.post("/verify", files=files(ada)), "body") == "give either reference or subject_id"


def test_another_content_type_is_named(client: TestClient) -> None:
    for content_type, said in (("image/jpeg", "`image/jpeg`"), ("<script>/x", "none that can be read")):
        response = client.post("/detect", content=b"x", headers={"content-type": content_type})
        detail = problem(response, 415, "unsupported_media_type")["detail"]
        assert said in detail
        assert "curl -F image=@" in detail


@pytest.mark.parametrize("name", ["subjectid", "Image", "reference", "", "ä"])
def test_unknown_fields_are_named(client: TestClient, ada: bytes, name: str) -> None:
    if name != "reference":
        response = client.post("/enroll", **form(part("image", ada, "a.jpg"), part(name, b"x")))
        assert problem(response, 422, "invalid_request")["errors"][0]["field"] in {name, "body"}
    response = client.post("/enroll", json={"image": base64_of(ada), name: "x"})
    assert problem(response, 422, "invalid_request")["errors"][0]["field"] in {name, "body"}


@pytest.mark.parametrize("charset", ["utf-7", "unicode_escape", "hex", "idna", "undefined", "none", "utf-16"])
def test_a_form_in_an_odd_charset_is_no_failure(client: TestClient, ada: bytes, charset: str) -> None:
    for text in (b"+2AA-", b"\\ud800", b"z z", b"\xff"):
        for odd in (
            part("subject_id", text),
            part("metadata", b'{"a": "' + text + b'"'),
            part("collection", text, "a.txt"),
            part("NAME", b"").replace(b"NAME", text),
        ):
            sent = form(part("image", ada, "a.jpg"), odd)
            sent["headers"]["content-type"] += f"; charset={charset}"
            response = client.post("/enroll", **sent)
            assert 400 <= response.status_code < 500, response.text
            problem(response, response.status_code, response.json()["code"])


@pytest.mark.parametrize(
    "metadata",
    [
        b"nope",
        b"{",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"\\udc00": 1}',
        b'{"a": ' + b"9" * 900 + b"e999}",
        b'{"a":' * 300 + b"1" + b"}" * 300,
        b"[1]",
        b'"text"',
        b"1",
        json.dumps({"a": "x" * 1024}).encode(),
        json.dumps({"a": "ä" * 600}, ensure_ascii=False).encode(),
    ],
)
def test_bad_metadata_is_named(client: TestClient, ada: bytes, metadata: bytes) -> None:
    response = client.post("/enroll", **form(part("image", ada, "a.jpg"), part("metadata", metadata)))
    assert problem(response, 422, "invalid_request")["errors"][0]["field"].startswith("metadata")
    assert ok(client.get("/subjects"))["subjects"] == []


def test_bad_metadata_in_json_is_named(client: TestClient, ada: bytes) -> None:
    headers = {"content-type": "application/json"}
    for metadata in ("[1]", "1", '{"a": 1e999}', json.dumps({"a": "x" * 1024})):
        content = f'{{"image": "{base64_of(ada)}", "metadata": {metadata}}}'
        response = client.post("/enroll", content=content, headers=headers)
        assert problem(response, 422, "invalid_request")["errors"][0]["field"].startswith("metadata")
    for metadata in ('{"a": NaN}', '{"a": "\\ud800"}', '{"a":' * 300 + "1" + "}" * 300):
        content = f'{{"image": "{base64_of(ada)}", "metadata": {metadata}}}'
        problem(client.post("/enroll", content=content, headers=headers), 400, "malformed_body")


@pytest.mark.parametrize("depth", [10, 100, 150, 190, 198])
def test_metadata_that_is_taken_comes_back_however_deep(client: TestClient, ada: bytes, depth: int) -> None:
    metadata = b'{"a": ' + b"[" * (depth - 1) + b"1" + b"]" * (depth - 1) + b"}"
    response = client.post(
        "/enroll", **form(part("image", ada, "a.jpg"), part("subject_id", b"ada"), part("metadata", metadata))
    )
    ok(response, 201)
    assert ok(client.get("/subjects/ada"))["metadata"] == json.loads(metadata)
    assert ok(client.post("/identify", files=files(ada)))["candidates"][0]["metadata"] == json.loads(metadata)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """An application that reads bodies but has no service behind them."""
    settings = Settings(gallery=GallerySettings(data_dir=tmp_path_factory.mktemp("bare")))
    with TestClient(create_app(settings, _NoService())) as running:  # type: ignore[arg-type]
        yield running


class _NoService:
    gallery = crowding = criteria = None
    encoder = EncoderInfo(
        name="none", version="0", sha256="", runtime=RuntimeName.OPENVINO, precision=Precision.F32, device="none"
    )
    calibration = SimpleNamespace(version="none")

    def enroll(self, *_: object) -> None:
        raise NoFaceError("nobody is looked for here")

    def close(self) -> None:
        pass


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=400), cut=st.integers(0, 400), at=st.integers(0, 400))
def test_no_form_is_a_failure(bare: TestClient, content: bytes, cut: int, at: int) -> None:
    whole = form(part("image", b"x", "a.jpg"), part("nonsense", b"1"), part("metadata", b'{"a": 1}'))
    damaged = whole["content"][:at] + content + whole["content"][at + cut :]
    response = bare.post("/enroll", **(whole | {"content": damaged}))
    problem(response, response.status_code, response.json()["code"])
    assert response.status_code in {400, 413, 422}


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=100), st.text(max_size=100).map(str.encode)))
def test_no_json_is_a_failure(bare: TestClient, content: bytes) -> None:
    response = bare.post("/collections", content=b"{" + content, headers={"content-type": "application/json"})
    problem(response, response.status_code, response.json()["code"])
    assert response.status_code in {400, 422}
