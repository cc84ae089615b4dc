"""``tessera keys`` and ``tessera audit``, as commands beside a running service."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.security.keys import KEY
from app.security.store import SecurityStore
from tests.app.api.helpers import files, ok, problem
from tests.app.photographs import collins, jpeg
from tests.app.process import PATIENCE, Server, tessera

pytestmark = pytest.mark.slow

SECONDS_TO_FOLLOW = 1.5


def run(*arguments: str, code: int = 0, **variables: str) -> tuple[str, str]:
    done = tessera(*arguments, **variables)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_keys_from_creation_to_revocation(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    image = jpeg(collins())
    with Server(tmp_path / "data") as server, httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        ok(client.get("/subjects"))
        text = run("keys", "create", "desk", "--scopes", "enroll,verify,delete", "--data-dir", data)[0].strip()
        assert KEY.fullmatch(text)
        time.sleep(SECONDS_TO_FOLLOW)
        problem(client.get("/subjects"), 401, "unauthenticated")
        client.headers["Authorization"] = f"Bearer {text}"
        ok(client.post("/enroll", files=files(image), data={"subject_id": "lovelace"}), 201)
        problem(client.get("/subjects/lovelace"), 403, "forbidden")
        listed = run("keys", "list", "--data-dir", data)[0]
        assert "desk" in listed
        assert text.rpartition("_")[2] not in listed
        key_id = text.split("_")[1]
        new = run("keys", "rotate", key_id, "--overlap", "0h", "--data-dir", data)[0].strip()
        time.sleep(SECONDS_TO_FOLLOW)
        problem(client.delete("/subjects/lovelace"), 401, "unauthenticated")
        client.headers["Authorization"] = f"Bearer {new}"
        erased = ok(client.delete("/subjects/lovelace"))
        run("keys", "revoke", new.split("_")[1], "--data-dir", data)
        time.sleep(SECONDS_TO_FOLLOW)
        problem(client.delete("/subjects/lovelace"), 401, "unauthenticated")
        run("audit", "verify", "--receipt", erased["receipt"], "--data-dir", data)
        head = run("audit", "head", "--data-dir", data)[0].strip()
    shown = [json.loads(line) for line in run("audit", "show", "--data-dir", data)[0].splitlines()]
    actions = [(line["action"], line["outcome"]) for line in shown]
    assert [a for a in actions if a[0] != "verify"] == [
        ("create_key", "done"),
        ("enroll", "append"),
        ("GET /subjects/{subject_id}", "forbidden"),
        ("rotate_key", "done"),
        ("delete_subject", "started"),
        ("delete_subject", "done"),
        ("revoke_key", "done"),
    ]
    assert f"{shown[-1]['sequence']}:{shown[-1]['hash']}" == head
    assert "lovelace" not in json.dumps(shown)
    found = run("audit", "show", "--subject", "lovelace", "--data-dir", data)[0].splitlines()
    assert [json.loads(line)["action"] for line in found] == ["enroll", "delete_subject", "delete_subject"]
    with sqlite3.connect(tmp_path / "data" / "security.sqlite3") as connection:
        connection.execute("DELETE FROM trail WHERE sequence = 3")
    assert "missing" in run("audit", "verify", "--data-dir", data, code=1)[1]


def test_beyond_loopback_a_key_is_needed_before_it_listens(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    serve = ("serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", data)
    refused = run(*serve, code=3)[1]
    assert "tessera keys create" in refused
    assert "TESSERA_SECURITY__ALLOW_ANONYMOUS" in refused
    short = tmp_path / "short"
    short.write_text("secret")
    assert "too short" in run(*serve, code=3, TESSERA_SECURITY__ADMIN_KEY_FILE=str(short))[1]
    with Server(tmp_path / "data", "--host", "0.0.0.0", TESSERA_SECURITY__ALLOW_ANONYMOUS="true") as server:
        assert re.search(r"WARNING .* without a key", server.log.read_text())
        ok(httpx.get(f"http://127.0.0.1:{server.port}/subjects", timeout=PATIENCE))
    run("keys", "create", "first", "--data-dir", data)
    with Server(tmp_path / "data", "--host", "0.0.0.0") as server:
        assert "WARNING" not in server.log.read_text()
        problem(httpx.get(f"http://127.0.0.1:{server.port}/subjects", timeout=PATIENCE), 401, "unauthenticated")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--scopes", "everything"),
        ("--scopes", ""),
        ("--collections", ""),
        ("--collections", "a b"),
        ("--expires", "soon"),
        ("--rate", "fast"),
    ],
)
def test_keys_that_cannot_be_are_refused(tmp_path: Path, arguments: tuple[str, str]) -> None:
    run("keys", "create", "x", *arguments, "--data-dir", str(tmp_path / "data"), code=2)
    assert not (tmp_path / "data").exists()


def test_nothing_is_created_to_be_read(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    for command in (("keys", "list"), ("keys", "revoke", "x"), ("audit", "verify"), ("audit", "head")):
        assert "missing" in run(*command, "--data-dir", data, code=3)[1]
    assert not (tmp_path / "data").exists()
    run("keys", "create", "x", "--data-dir", data)
    assert "there is no key y" in run("keys", "revoke", "y", "--data-dir", data, code=3)[1]


@pytest.mark.parametrize(("proxies", "status"), [("127.0.0.1", 200), ("", 429), ("192.0.2.1", 429)])
def test_only_a_trusted_proxy_says_whose_request_it_is(tmp_path: Path, proxies: str, status: int) -> None:
    variables = {
        "TESSERA_SERVER__TRUSTED_PROXIES": proxies,
        "TESSERA_SECURITY__ADDRESS_RATE": "3/hour",
        "TESSERA_SECURITY__ALLOW_ANONYMOUS": "true",
    }
    with Server(tmp_path / "data", **variables) as server, httpx.Client(base_url=server.url) as client:
        for number in range(6):
            answer = client.get("/subjects", headers={"X-Forwarded-For": f"198.51.100.{number}"}, timeout=PATIENCE)
        assert answer.status_code == status


def test_a_prefix_that_a_proxy_removes(tmp_path: Path) -> None:
    variables = {"TESSERA_SERVER__ROOT_PATH": "/faces", "TESSERA_SECURITY__ALLOW_ANONYMOUS": "true"}
    with Server(tmp_path / "data", **variables) as server:
        for path in ("/livez", "/subjects", "/faces/subjects"):
            ok(httpx.get(server.url + path, timeout=PATIENCE))
        document = httpx.get(server.url + "/openapi.json", timeout=PATIENCE).json()
        assert document["servers"] == [{"url": "/faces"}]


@pytest.mark.parametrize(
    ("made", "rotated", "hours"), [("2d", (), 48), ("2d", ("--expires", "12h"), 12), (None, (), None)]
)
def test_a_new_key_lasts_as_long_as_the_old_one_was_made_for(
    tmp_path: Path, made: str | None, rotated: tuple[str, ...], hours: int | None
) -> None:
    def invoke(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["keys", *arguments, "--data-dir", str(tmp_path)])
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    old = invoke("create", "desk", *(() if made is None else ("--expires", made))).split("_")[1]
    new = invoke("rotate", old, *rotated).split("_")[1]
    key = next(key for key in json.loads(invoke("list", "--json")) if key["id"] == new)
    if hours is None:
        assert key["expires_at"] is None
    else:
        lasts = datetime.fromisoformat(key["expires_at"]) - datetime.fromisoformat(key["created_at"])
        assert abs(lasts - timedelta(hours=hours)) < timedelta(minutes=1)


def test_the_head_of_an_empty_trail_is_a_receipt_of_what_follows(tmp_path: Path) -> None:
    SecurityStore(tmp_path).close()
    head = run("audit", "head", "--data-dir", str(tmp_path))[0].strip()
    verify = ("audit", "verify", "--receipt", head, "--data-dir", str(tmp_path))
    assert run(*verify)[0].startswith("0 records")
    run("keys", "create", "desk", "--data-dir", str(tmp_path))
    assert run(*verify)[0].startswith("1 records")
