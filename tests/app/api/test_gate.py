"""Who is let in: hosts, origins, keys, scopes and collections, on every route."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app.api.gate import REFRESH_SECONDS, host_name
from app.composition import open_security
from app.gallery import GalleryUnavailable
from app.main import create_app
from app.recognition.service import RecognitionService
from app.security.keys import KeyStore, Scope
from app.settings import GallerySettings, SecuritySettings, ServerSettings, Settings
from tests.app.api.conftest import Enroll
from tests.app.api.helpers import files, invalid_field, ok, problem
from tests.app.postgres import postgres, url

__all__ = ["postgres", "url"]

MakeService = Callable[[Path], RecognitionService]


@pytest.fixture
def keys(settings: Settings) -> Iterator[KeyStore]:
    store = open_security(settings)
    yield KeyStore(store)
    store.close()


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def operations() -> set[tuple[str, str]]:
    """Every operation of the service, as its own document lists them."""
    document = create_app(Settings()).openapi()
    return {(method.upper(), path) for path, item in document["paths"].items() for method in item}


def requests(image: bytes, collection: str) -> dict[tuple[str, str], dict[str, Any]]:
    """A request to each operation that concerns a collection, and which scopes allow it."""
    photograph = {"files": files(image), "data": {"collection": collection, "subject_id": "ada"}}
    query = {"params": {"collection": collection}}
    return {
        ("POST", "/enroll"): photograph,
        ("POST", "/verify"): photograph,
        ("POST", "/identify"): {"files": files(image), "data": {"collection": collection}},
        ("GET", "/subjects"): query,
        ("GET", "/subjects/{subject_id}"): query,
        ("PATCH", "/subjects/{subject_id}"): query | {"json": {"metadata": {"a": 1}}},
        ("POST", "/subjects/{subject_id}/merge"): query | {"json": {"duplicate": "grace"}},
        ("DELETE", "/subjects/{subject_id}/templates/{template_id}"): query,
        ("DELETE", "/subjects/{subject_id}"): query,
        ("POST", "/collections"): {"json": {"id": collection}},
        ("GET", "/collections/{collection}"): {},
        ("PUT", "/collections/{collection}"): {"json": {}},
        ("POST", "/collections/{collection}/audit"): {},
        ("GET", "/collections/{collection}/audit"): {},
        ("GET", "/collections/{collection}/audit/page"): {},
        ("DELETE", "/collections/{collection}"): {"params": {"force": "true"}},
    }


SCOPES: dict[tuple[str, str], set[Scope]] = {
    ("POST", "/enroll"): {Scope.ENROLL},
    ("POST", "/verify"): {Scope.VERIFY},
    ("POST", "/identify"): {Scope.IDENTIFY},
    ("POST", "/detect"): {Scope.ENROLL, Scope.VERIFY, Scope.IDENTIFY},
    ("GET", "/subjects"): {Scope.READ},
    ("GET", "/subjects/{subject_id}"): {Scope.READ},
    ("PATCH", "/subjects/{subject_id}"): {Scope.ENROLL},
    # Both delete and enroll: no scope alone allows it.
    ("POST", "/subjects/{subject_id}/merge"): set(),
    ("DELETE", "/subjects/{subject_id}/templates/{template_id}"): {Scope.DELETE},
    ("DELETE", "/subjects/{subject_id}"): {Scope.DELETE},
    ("GET", "/collections"): {Scope.READ},
    ("POST", "/collections"): set(),
    ("GET", "/collections/{collection}"): {Scope.READ},
    ("PUT", "/collections/{collection}"): set(),
    ("POST", "/collections/{collection}/audit"): set(),
    ("GET", "/collections/{collection}/audit"): {Scope.READ},
    ("GET", "/collections/{collection}/audit/page"): {Scope.READ},
    ("DELETE", "/collections/{collection}"): set(),
    ("GET", "/model"): set(Scope),
    ("GET", "/metrics"): {Scope.READ},
}
"""Which scopes allow an operation, besides admin."""
OPEN = {("GET", "/livez"), ("GET", "/readyz")}


def send(
    client: TestClient, operation: tuple[str, str], collection: str, request: dict[str, Any], key: str
) -> httpx.Response:
    method, path = operation
    filled = path.format(collection=collection, subject_id="ada", template_id="t1")
    response: httpx.Response = client.request(method, filled, **request, headers=bearer(key))
    return response


def test_every_operation_is_listed_here(ada: bytes) -> None:
    assert SCOPES.keys() | OPEN == operations()
    whole_service = {("POST", "/detect"), ("GET", "/collections"), ("GET", "/model"), ("GET", "/metrics")}
    assert requests(ada, "a").keys() == SCOPES.keys() - whole_service


def test_without_a_key_every_operation_but_health_is_refused_unread(client: TestClient, keys: KeyStore) -> None:
    keys.create("somebody", [Scope.ADMIN])
    time.sleep(REFRESH_SECONDS * 1.1)
    for method, path in SCOPES:
        response = client.request(method, path, content=b"{" * 100_000)
        problem(response, 401, "unauthenticated")
        assert response.headers["www-authenticate"] == "Bearer"
        problem(client.request(method, path, headers=bearer("tessera_x")), 401, "unauthenticated")
        problem(client.request(method, path, headers={"Authorization": "Basic YTpi"}), 401, "unauthenticated")
    for _, path in OPEN:
        ok(client.get(path))
    for path in ("/openapi.json", "/docs", "/docs/openapi.json", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"):
        assert client.get(path).status_code == 200, path


@pytest.mark.parametrize("prefix", ["", "/faces"])
def test_nothing_is_sent_elsewhere_for_a_slash_too_many(make_service: MakeService, tmp_path: Path, prefix: str) -> None:
    server, security = ServerSettings(root_path=prefix), SecuritySettings(allow_anonymous=True)
    with running(make_service, tmp_path, server=server, security=security) as client:
        for method, path in sorted(operations()):
            filled = path.format(collection="default", subject_id="ada", template_id="t1")
            for received in {filled, prefix + filled}:
                answer = client.request(method, f"{received}/", content=b"{", follow_redirects=False)
                assert "without the slash" in problem(answer, 404, "not_found")["detail"]
                assert "location" not in answer.headers
        for path in ("/nothing/", "/enroll/x/", "/page/x/", f"{prefix}/nothing/"):
            assert "slash" not in problem(client.get(path), 404, "not_found")["detail"]


@pytest.mark.slow
@pytest.mark.parametrize("scope", Scope)
def test_a_scope_allows_what_it_says_and_nothing_else(
    client: TestClient, keys: KeyStore, ada: bytes, scope: Scope
) -> None:
    _, text = keys.create("one", [scope])
    time.sleep(REFRESH_SECONDS * 1.1)
    others: dict[tuple[str, str], dict[str, Any]] = {
        ("POST", "/detect"): {"files": files(ada)},
        ("GET", "/collections"): {},
        ("GET", "/model"): {},
        ("GET", "/metrics"): {},
    }
    for operation, request in (requests(ada, "default") | others).items():
        response = send(client, operation, "default", request, text)
        if scope in SCOPES[operation] | {Scope.ADMIN}:
            assert response.status_code not in (401, 403), (operation, response.text)
        else:
            problem(response, 403, "forbidden")


@pytest.mark.slow
def test_two_keys_do_not_reach_each_others_collections_by_any_route(
    client: TestClient, keys: KeyStore, ada: bytes, grace: bytes
) -> None:
    _, staff = keys.create("staff", [Scope.ADMIN], collections=["staff"])
    _, guests = keys.create("guests", [Scope.ADMIN], collections=["guests"])
    time.sleep(REFRESH_SECONDS * 1.1)
    ok(client.post("/collections", json={"id": "staff"}, headers=bearer(staff)), 201)
    data = {"collection": "staff", "subject_id": "ada"}
    stored = ok(client.post("/enroll", files=files(ada), data=data, headers=bearer(staff)), 201)
    for collection in ("staff", "default", "nowhere"):
        for operation, request in requests(ada, collection).items():
            answer = problem(send(client, operation, collection, request, guests), 403, "forbidden")
            assert set(answer) == {"type", "title", "status", "detail", "code", "request_id"}
    # Neither lists nor errors nor idempotency keys tell of the other.
    assert ok(client.get("/collections", headers=bearer(guests)))["collections"] == []
    assert [c["id"] for c in ok(client.get("/collections", headers=bearer(staff)))["collections"]] == ["staff"]
    problem(client.get("/metrics", headers=bearer(guests)), 403, "forbidden")
    ok(client.post("/collections", json={"id": "guests"}, headers=bearer(guests)), 201)
    mine = {"Idempotency-Key": "1"} | bearer(staff)
    theirs = {"Idempotency-Key": "1"} | bearer(guests)
    ok(client.post("/enroll", files=files(ada), data=data, headers=mine), 201)
    other = client.post("/enroll", files=files(grace), data={"collection": "guests"}, headers=theirs)
    assert "idempotency-replayed" not in other.headers
    ok(other, 201)
    template = stored["templates"][0]["template_id"]
    path = f"/subjects/ada/templates/{template}"
    problem(client.delete(path, params={"collection": "guests"}, headers=bearer(guests)), 404, "subject_not_found")
    assert len(ok(client.get("/subjects/ada", params={"collection": "staff"}, headers=bearer(staff)))["templates"]) == 2


def test_replacing_needs_the_right_to_erase(client: TestClient, keys: KeyStore, ada: bytes) -> None:
    _, text = keys.create("enrols", [Scope.ENROLL])
    time.sleep(REFRESH_SECONDS * 1.1)
    data = {"subject_id": "ada", "on_conflict": "replace"}
    problem(client.post("/enroll", files=files(ada), data=data, headers=bearer(text)), 403, "forbidden")


def test_who_may_not_read_learns_nothing_of_those_who_do_not_match(
    client: TestClient, keys: KeyStore, ada: bytes, grace: bytes
) -> None:
    ok(client.post("/enroll", files=files(ada), data={"subject_id": "ada", "metadata": '{"a": 1}'}), 201)
    ok(client.post("/enroll", files=files(grace), data={"subject_id": "grace", "metadata": '{"g": 1}'}), 201)
    _, searches = keys.create("searches", [Scope.IDENTIFY])
    _, reads = keys.create("reads", [Scope.IDENTIFY, Scope.READ])
    time.sleep(REFRESH_SECONDS * 1.1)
    answer = client.post("/identify", files=files(ada), data={"top_k": "5"}, headers=bearer(searches))
    first, second = ok(answer)["candidates"]
    assert (first["subject_id"], first["decision"], first["metadata"]) == ("ada", "match", {"a": 1})
    assert (second["subject_id"], second["template_id"], second["metadata"]) == (None, None, None)
    assert "grace" not in answer.text
    first, second = ok(client.post("/identify", files=files(ada), headers=bearer(reads)))["candidates"]
    assert (second["subject_id"], second["metadata"]) == ("grace", {"g": 1})


def test_a_revoked_key_ends_while_the_service_runs(client: TestClient, keys: KeyStore) -> None:
    ok(client.get("/subjects"))
    key, text = keys.create("short-lived", [Scope.READ])
    time.sleep(REFRESH_SECONDS * 1.1)
    ok(client.get("/subjects", headers=bearer(text)))
    keys.revoke(key.id)
    time.sleep(REFRESH_SECONDS * 1.1)
    problem(client.get("/subjects", headers=bearer(text)), 401, "unauthenticated")
    problem(client.get("/subjects"), 401, "unauthenticated")


def test_keys_that_cannot_be_read_are_a_failure_of_the_service(
    client: TestClient, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(settings.gallery.data_dir / "security.sqlite3")) as other:
        other.execute("ALTER TABLE keys RENAME TO gone")
    time.sleep(REFRESH_SECONDS * 1.1)
    answer = problem(client.get("/subjects"), 503, "security_store_unavailable")
    [line] = [record for record in caplog.records if answer["request_id"] in record.getMessage()]
    assert line.levelname == "WARNING"
    assert answer["detail"] in line.getMessage()


@contextmanager
def running(make_service: MakeService, data_dir: Path, **sections: Any) -> Iterator[TestClient]:
    settings = Settings(gallery=GallerySettings(data_dir=data_dir), **sections)
    with TestClient(create_app(settings, make_service(data_dir))) as client:
        yield client


def test_beyond_loopback_nobody_is_let_in_without_a_key(make_service: MakeService, tmp_path: Path) -> None:
    with running(make_service, tmp_path, server=ServerSettings(host="0.0.0.0")) as client:
        problem(client.get("/subjects"), 401, "unauthenticated")
    security = SecuritySettings(allow_anonymous=True)
    with running(make_service, tmp_path, server=ServerSettings(host="0.0.0.0"), security=security) as client:
        ok(client.get("/subjects"))


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
def test_what_came_through_a_proxy_is_not_from_this_machine(client: TestClient, header: str) -> None:
    problem(client.get("/subjects", headers={header: "198.51.100.7"}), 401, "unauthenticated")
    ok(client.get("/subjects"))


@pytest.mark.parametrize(
    "setting", [{"trusted_proxies": "127.0.0.1"}, {"root_path": "/faces"}, {"allowed_hosts": "a.b"}]
)
def test_settings_of_a_proxy_say_that_others_reach_the_service(setting: dict[str, str]) -> None:
    assert ServerSettings(**setting).beyond_loopback
    assert not ServerSettings().beyond_loopback


def test_a_loose_threshold_names_nobody(client: TestClient, keys: KeyStore, ada: bytes, grace: bytes) -> None:
    ok(client.post("/enroll", files=files(grace), data={"subject_id": "grace"}), 201)
    _, text = keys.create("searches", [Scope.IDENTIFY])
    time.sleep(REFRESH_SECONDS * 1.1)
    for loose in ({"max_distance": "4"}, {"min_similarity": "-1"}):
        answer = client.post("/identify", files=files(ada), data=loose, headers=bearer(text))
        assert ok(answer)["decision"] == "match"
        assert "grace" not in answer.text


def test_who_may_only_enrol_learns_nobody_and_displaces_nobody(
    client: TestClient, keys: KeyStore, ada: bytes, grace: bytes
) -> None:
    ok(client.post("/enroll", files=files(ada), data={"subject_id": "ada", "metadata": '{"a": 1}'}), 201)
    _, text = keys.create("enrols", [Scope.ENROLL])
    time.sleep(REFRESH_SECONDS * 1.1)
    answer = client.post("/enroll", files=files(ada), data={"subject_id": "twin"}, headers=bearer(text))
    assert (ok(answer, 201)["possible_duplicate"], answer.json()["possible_duplicates"]) == (True, [])
    for _ in range(2):
        ok(client.post("/enroll", files=files(*[grace] * 3), data={"subject_id": "ada"}, headers=bearer(text)), 201)
    more = client.post("/enroll", files=files(*[grace] * 3), data={"subject_id": "ada"}, headers=bearer(text))
    problem(more, 409, "too_many_templates")


def test_strangers_are_told_which_part_fails_and_no_more(
    client: TestClient, keys: KeyStore, service: RecognitionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise GalleryUnavailable("subject 'ada' is damaged")

    _, reads = keys.create("reads", [Scope.READ])
    time.sleep(REFRESH_SECONDS * 1.1)
    problem(client.get("/subjects"), 401, "unauthenticated")
    monkeypatch.setattr(service.gallery, "check", fail)
    answer = client.get("/readyz")
    assert problem(answer, 503, "not_ready")["checks"]["gallery"] == "failed"
    assert "ada" not in answer.text
    assert "ada" in problem(client.get("/readyz", headers=bearer(reads)), 503, "not_ready")["checks"]["gallery"]


@pytest.fixture
def damaged(client: TestClient, service: RecognitionService, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """A service with a damaged subject, of which only readiness is asked."""

    def fail() -> None:
        raise GalleryUnavailable("subject 'ada' is damaged")

    monkeypatch.setattr(service.gallery, "check", fail)
    return client


def told(client: TestClient, headers: dict[str, str]) -> bool:
    """Whether readiness is explained."""
    answer = client.get("/readyz", headers=headers)
    return "ada" in problem(answer, 503, "not_ready")["checks"]["gallery"]


def test_a_page_that_made_the_service_its_own_learns_nothing_of_its_parts(damaged: TestClient) -> None:
    assert told(damaged, {})
    assert told(damaged, {"Host": "localhost"})
    assert not told(damaged, {"Host": "evil.example"})


def test_readiness_alone_tells_new_and_revoked_keys_apart(damaged: TestClient, keys: KeyStore) -> None:
    key, text = keys.create("reads", [Scope.READ])
    time.sleep(REFRESH_SECONDS * 1.1)
    assert not told(damaged, {})
    assert told(damaged, bearer(text))
    keys.revoke(key.id)
    time.sleep(REFRESH_SECONDS * 1.1)
    assert not told(damaged, bearer(text))


def test_readiness_is_explained_where_keys_cannot_be_read(
    damaged: TestClient, keys: KeyStore, settings: Settings
) -> None:
    _, text = keys.create("reads", [Scope.READ])
    time.sleep(REFRESH_SECONDS * 1.1)
    assert told(damaged, bearer(text))
    with closing(sqlite3.connect(settings.gallery.data_dir / "security.sqlite3")) as other:
        other.execute("ALTER TABLE keys RENAME TO gone")
    time.sleep(REFRESH_SECONDS * 1.1)
    assert told(damaged, bearer(text))
    assert not told(damaged, {})


def test_an_admin_key_from_a_file(make_service: MakeService, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k" * 32 + "\n")
    with running(make_service, tmp_path, security=SecuritySettings(admin_key_file=tmp_path / "key")) as client:
        problem(client.get("/subjects"), 401, "unauthenticated")
        ok(client.get("/subjects", headers=bearer("k" * 32)))


def test_rates_of_keys_addresses_and_wrong_keys(make_service: MakeService, tmp_path: Path) -> None:
    security = SecuritySettings(key_rate="3/hour", address_rate="20/hour", failed_key_rate="4/hour")
    settings = Settings(gallery=GallerySettings(data_dir=tmp_path), security=security)
    store = open_security(settings)
    _, slow = KeyStore(store).create("slow", [Scope.READ])
    _, fast = KeyStore(store).create("fast", [Scope.READ], rate="100/hour")
    store.close()
    with running(make_service, tmp_path, security=security) as client:
        for _ in range(3):
            ok(client.get("/subjects", headers=bearer(slow)))
        refused = client.get("/subjects", headers=bearer(slow))
        assert int(refused.headers["retry-after"]) == problem(refused, 429, "rate_limited")["retry_after"] > 0
        for _ in range(4):
            ok(client.get("/subjects", headers=bearer(fast)))
        for _ in range(4):
            problem(client.get("/subjects", headers=bearer("wrong")), 401, "unauthenticated")
        problem(client.get("/subjects", headers=bearer("wrong")), 429, "rate_limited")
        # Who guesses does not shut out who knows.
        ok(client.get("/subjects", headers=bearer(fast)))
        for _ in range(30):
            last = client.get("/subjects")
        problem(last, 429, "rate_limited")
        ok(client.get("/livez"))


@pytest.mark.slow
def test_replicas_on_one_database_let_one_rate_through(make_service: MakeService, tmp_path: Path, url: str) -> None:
    security = SecuritySettings(key_rate="6/day", failed_key_rate="4/day", secret_file=tmp_path / "secret.key")
    shared = [
        Settings(gallery=GallerySettings(data_dir=tmp_path / name, url=SecretStr(url)), security=security)
        for name in ("one", "two")
    ]
    store = open_security(shared[0])
    _, key = KeyStore(store).create("door", [Scope.READ])
    store.close()
    with ExitStack() as stop:
        one, two = (
            stop.enter_context(TestClient(create_app(each, make_service(each.gallery.data_dir)))) for each in shared
        )
        for client in (one, two) * 3:
            ok(client.get("/subjects", headers=bearer(key)))
        for client in (one, two):
            problem(client.get("/subjects", headers=bearer(key)), 429, "rate_limited")
        for client in (one, two) * 2:
            problem(client.get("/subjects", headers=bearer("wrong")), 401, "unauthenticated")
        for client in (one, two):
            problem(client.get("/subjects", headers=bearer("wrong")), 429, "rate_limited")
        ok(one.get("/livez", headers=bearer("wrong")))


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "192.0.2.1", "tessera:8000", "a.localhost"]
)
def test_hosts_that_are_nobody_elses(client: TestClient, host: str) -> None:
    ok(client.get("/subjects", headers={"Host": host}))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "1.2.3.4.nip.io", ""])
def test_hosts_that_a_page_could_have_made_its_own(client: TestClient, host: str) -> None:
    problem(client.get("/subjects", headers={"Host": host}), 421, "unknown_host")
    ok(client.get("/livez", headers={"Host": host}))


def test_hosts_can_be_named(make_service: MakeService, tmp_path: Path) -> None:
    named = ServerSettings(allowed_hosts="Faces.example, b.example")
    anybody = SecuritySettings(allow_anonymous=True)
    with running(make_service, tmp_path, server=named, security=anybody) as client:
        ok(client.get("/subjects", headers={"Host": "Faces.Example:443"}))
        problem(client.get("/subjects", headers={"Host": "c.example"}), 421, "unknown_host")
    with running(make_service, tmp_path, server=ServerSettings(allowed_hosts="*"), security=anybody) as client:
        ok(client.get("/subjects", headers={"Host": "c.example"}))


@pytest.mark.parametrize("name", ["Authorization", "Content-Type", "Host", "Idempotency-Key", "Origin"])
def test_a_header_of_one_value_is_given_once(client: TestClient, enroll: Enroll, ada: bytes, name: str) -> None:
    enroll(ada, subject_id="ada")
    for values in (("testserver", "testserver"), ("testserver", "other")):
        answer = client.delete("/subjects/ada", headers=[(name, value) for value in values])
        assert invalid_field(answer, name) == "given more than once"
    ok(client.get("/subjects/ada", headers=[("Accept", "text/html"), ("Accept", "*/*")]))


@pytest.mark.parametrize(
    ("host", "name"),
    [("A.Example.:80", "a.example"), ("[::1]", "::1"), ("a:b:c", ""), ("a:80x", ""), ("", ""), ("[", "")],
)
def test_the_name_in_a_host_header(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://testserver.evil.example"},
        {"Origin": "http://testserver:8001"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
    ],
)
def test_pages_of_other_origins_change_nothing(client: TestClient, ada: bytes, headers: dict[str, str]) -> None:
    data = {"subject_id": "ada", "on_conflict": "replace"}
    problem(client.post("/enroll", files=files(ada), data=data, headers=headers), 403, "cross_origin")
    problem(client.delete("/subjects/ada", headers=headers), 403, "cross_origin")
    ok(client.get("/subjects", headers=headers))
    assert not any(name.startswith("access-control") for name in client.get("/subjects", headers=headers).headers)


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "http://testserver"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}],
)
def test_pages_of_its_own_and_clients_that_are_no_browsers(client: TestClient, headers: dict[str, str]) -> None:
    problem(client.delete("/subjects/nobody", headers=headers), 404, "subject_not_found")


def test_origins_can_be_named(make_service: MakeService, tmp_path: Path) -> None:
    with running(make_service, tmp_path, server=ServerSettings(cors_origins="https://Desk.example:443")) as client:
        own = {"Origin": "https://desk.example"}
        response = client.delete("/subjects/nobody", headers=own)
        problem(response, 404, "subject_not_found")
        assert response.headers["access-control-allow-origin"] == "https://desk.example"
        asked = own | {"Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "authorization"}
        assert client.options("/subjects/nobody", headers=asked).status_code == 200
        other = {"Origin": "https://evil.example"}
        problem(client.delete("/subjects/nobody", headers=other), 403, "cross_origin")


def test_answers_carry_security_headers(client: TestClient) -> None:
    for path in ("/livez", "/subjects", "/nothing", "/docs"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "set-cookie" not in headers
    assert "default-src 'none'" in client.get("/subjects").headers["content-security-policy"]
