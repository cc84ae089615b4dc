from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.gallery.sqlite.database import DATABASE_NAME
from tests.app.api.helpers import files, ok
from tests.app.gallery.sqlite.support import enrol, opened, people
from tests.app.process import Server, tessera

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path, ada: bytes, grace: bytes) -> Iterator[Server]:
    with Server(tmp_path / "data") as running:
        for name, image in (("ada", ada), ("grace", grace)):
            ok(httpx.post(f"{running.url}/enroll", files=files(image), data={"subject_id": name}), 201)
        yield running


def identified(server: Server, image: bytes) -> dict[str, object]:
    answer = ok(httpx.post(f"{server.url}/identify", files=files(image)))
    # Not the crowding: computed for several subjects at once, it differs in the last digit.
    names = ("subject_id", "template_id", "distance", "decision", "metadata")
    candidates = [{name: candidate[name] for name in names} for candidate in answer["candidates"]]
    return {"decision": answer["decision"], "subjects": answer["gallery_subjects"], "candidates": candidates}


def run(*arguments: str, code: int = 0) -> str:
    result = tessera("gallery", *arguments)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_what_was_backed_up_or_exported_while_the_service_runs_answers_the_same(
    server: Server, tmp_path: Path, ada: bytes
) -> None:
    data, passphrase = str(tmp_path / "data"), tmp_path / "passphrase"
    passphrase.write_text("a passphrase for tests\n")
    expected = identified(server, ada)
    assert "2 subjects, 2 templates" in run("backup", str(tmp_path / "backup"), "--data-dir", data)
    secret = ("--passphrase-file", str(passphrase))
    assert "2 subjects, 2 templates" in run("export", str(tmp_path / "e.jsonl.gz"), "--data-dir", data, *secret)
    assert "2 subjects, 2 templates" in run("check", "--data-dir", data)
    assert all((tmp_path / name).stat().st_mode & 0o777 == 0o600 for name in ("backup", "e.jsonl.gz"))
    assert "nothing is overwritten" in run("backup", str(tmp_path / "backup"), "--data-dir", data, code=3)
    assert "nothing is overwritten" in run("export", str(tmp_path / "backup"), "--data-dir", data, code=3)
    for command in ("restore", "import"):
        assert str(server.process.pid) in run(command, str(tmp_path / "backup"), "--data-dir", data, code=3)
    # The service does not mind that others read its database.
    assert identified(server, ada) == expected
    assert httpx.get(f"{server.url}/readyz").status_code == 200

    run("restore", str(tmp_path / "backup"), "--data-dir", str(tmp_path / "restored"))
    run("import", str(tmp_path / "e.jsonl.gz"), "--data-dir", str(tmp_path / "imported"), *secret)
    for name in ("restored", "imported"):
        with Server(tmp_path / name) as other:
            assert identified(other, ada) == expected


def test_a_check_says_what_is_wrong_and_loss_can_be_accepted(server: Server, tmp_path: Path, ada: bytes) -> None:
    data = str(tmp_path / "data")
    run("backup", str(tmp_path / "backup"), "--data-dir", data)
    ok(httpx.post(f"{server.url}/enroll", files=files(ada), data={"subject_id": "late"}), 201)
    assert str(server.process.pid) in run("check", "--accept-loss", "--data-dir", data, code=3)
    server.kill()
    for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm"):
        (tmp_path / "data" / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "backup", tmp_path / "data" / DATABASE_NAME)
    assert "lacks the last 1 acknowledged" in run("check", "--data-dir", data, code=1)
    refused = tessera("serve", "--port", "0", "--data-dir", data)
    assert refused.returncode == 3
    assert "lacks the last 1 acknowledged" in refused.stderr
    run("check", "--accept-loss", "--data-dir", data)
    run("check", "--data-dir", data)
    with Server(tmp_path / "data") as again:
        assert httpx.get(f"{again.url}/readyz").status_code == 200


def test_a_data_directory_that_vanishes_is_noticed(server: Server, tmp_path: Path, ada: bytes) -> None:
    (tmp_path / "data").rename(tmp_path / "away")
    response = httpx.post(f"{server.url}/enroll", files=files(ada), data={"subject_id": "late"})
    assert response.status_code == 503
    assert "while the service runs" in response.json()["detail"]
    assert httpx.get(f"{server.url}/readyz").status_code == 503
    assert "while the service runs" in server.log.read_text()


def test_who_has_to_be_enrolled_again(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    with opened(old) as gallery:
        enrol(gallery, people(3))
    empty = tessera("gallery", "reenroll", str(tmp_path / "nowhere"), "--data-dir", str(new))
    assert empty.returncode == 3
    listed = tessera("gallery", "reenroll", str(old), "--data-dir", str(new))
    assert [json.loads(line)["id"] for line in listed.stdout.splitlines()] == ["person-00", "person-01", "person-02"]
    with opened(new, "sha256:" + "b" * 64) as gallery:
        enrol(gallery, dict(list(people(3).items())[:2]))
    [line] = tessera("gallery", "reenroll", str(old), "--data-dir", str(new)).stdout.splitlines()
    left = json.loads(line)
    assert (left["collection"], left["id"], left["metadata"]) == ("default", "person-02", {"name": "name of person-02"})
    assert "templates" not in left
