from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from app.gallery import SqliteGallery, Targets
from app.gallery.sqlite.database import DATABASE_NAME
from app.gallery.sqlite.vault import FileKeyWrapper, Vault
from app.security.store import SecurityStore
from app.security.trail import AuditTrail
from app.settings import DEFAULT_WEIGHTS
from tests.app.api.helpers import files, ok
from tests.app.gallery.sqlite.support import enrol, opened, people
from tests.app.process import PATIENCE, Server, tessera

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


def test_encrypted_backups_are_restored_with_a_copy_of_the_keys(tmp_path: Path) -> None:
    data, tried, key = tmp_path / "data", tmp_path / "tried", tmp_path / "master.key"
    key.write_text("5a" * 32)
    variables = {"TESSERA_GALLERY__MASTER_KEY_FILE": str(key)}

    def said(*arguments: str, code: int = 0) -> str:
        result = tessera("gallery", *arguments, **variables)
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout + result.stderr

    vault = Vault(data, FileKeyWrapper(key))
    with closing(SqliteGallery(data, encoder_digest="sha256:" + "a" * 64, keys=vault)) as gallery:
        enrol(gallery, people(3))
        backup, keys = str(tmp_path / "backup"), str(tmp_path / "keys")
        said("backup", backup, "--data-dir", str(data))
        assert "3 keys of templates and chips" in said("backup-keys", keys, "--data-dir", str(data))
        assert "nothing is overwritten" in said("backup-keys", keys, "--data-dir", str(data), code=3)
        gallery.delete_subject("default", "person-01")
        assert "2 keys of templates and chips" in said("rotate-key", "--data-dir", str(data))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["backup", "data", "keys", "master.key"]
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600
    assert "none of the keys" in said("restore", backup, "--data-dir", str(tried), code=3)
    shutil.copy(keys, tried / "template-keys.sqlite3")
    said("restore", backup, "--data-dir", str(tried))
    assert "3 subjects, 3 templates" in said("check", "--data-dir", str(tried))
    restored = said("restore", backup, "--replace", "--data-dir", str(data))
    assert "1 templates are left out" in restored
    with closing(SecurityStore(data, None)) as store:
        recorded = {r.content["action"]: r.content["details"] for r in AuditTrail(store).records()}
    assert recorded["backup_keys"] == {"keys": 3}
    assert recorded["rotate_key"] == {"keys": 2}
    assert recorded["restore"] == {"replaced": True, "left_out": 1}


def test_what_could_not_be_recorded_is_not_done(tmp_path: Path) -> None:
    data, backup, file = tmp_path / "data", tmp_path / "backup", tmp_path / "file"
    with closing(SqliteGallery(data, encoder_digest="sha256:" + "a" * 64)) as gallery:
        enrol(gallery, people(3))
    run("backup", str(backup), "--data-dir", str(data))
    (tmp_path / "another.key").write_text("ab" * 32)
    variables = {"TESSERA_SECURITY__SECRET_FILE": str(tmp_path / "another.key")}
    for command in (("backup", str(file)), ("export", str(file)), ("restore", str(backup), "--replace")):
        result = tessera("gallery", *command, "--data-dir", str(data), **variables)
        assert (result.returncode, "TESSERA_SECURITY__SECRET_FILE" in result.stderr) == (3, True), result.stderr
    assert not file.exists()
    assert list(data.glob("replaced-*")) == []


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
    table = tessera("gallery", "reenroll", str(old), "--data-dir", str(new), "--format", "csv").stdout
    [row] = csv.DictReader(table.splitlines())
    assert {**row, "metadata": json.loads(row["metadata"])} == left


def test_the_encoder_is_changed_by_the_chips_that_were_kept(tmp_path: Path, ada: bytes, grace: bytes) -> None:
    data, key = tmp_path / "data", tmp_path / "master.key"
    key.write_text("5a" * 32)
    old = {"TESSERA_GALLERY__MASTER_KEY_FILE": str(key), "TESSERA_ENCODING__ENCODER": "tessera-s"}
    new = old | {"TESSERA_ENCODING__ENCODER": "tessera-m"}
    to = ("--to", str(DEFAULT_WEIGHTS / "tessera-m"))

    def reenroll(*arguments: str) -> subprocess.CompletedProcess[str]:
        return tessera("gallery", "reenroll", *arguments, "--data-dir", str(data), **old)

    with Server(data, **old) as server:
        ok(httpx.post(f"{server.url}/enroll", files=files(grace), data={"subject_id": "early"}), 201)
        ok(httpx.put(f"{server.url}/collections/default", json={"keep_chips": True}))
        enrolled = {"subject_id": "ada", "metadata": '{"name": "Ada"}'}
        ok(httpx.post(f"{server.url}/enroll", files=files(ada), data=enrolled), 201)
        before = ok(httpx.get(f"{server.url}/subjects/ada"))
        listed = reenroll("--missing", "--format", "csv")
        assert listed.stdout.splitlines() == ["collection,id,templates,without_chip", "default,early,1,1"]
        in_use = reenroll(*to)
        assert (in_use.returncode, in_use.stdout) == (3, "")
        assert str(server.process.pid) in in_use.stderr
        server.terminate()
        server.process.wait(PATIENCE)

    refused = reenroll(*to)
    assert refused.returncode == 3
    assert [json.loads(line) for line in refused.stdout.splitlines()] == [
        {"collection": "default", "id": "early", "templates": 1, "without_chip": 1}
    ]
    assert "--leave-out-missing" in refused.stderr
    for mistaken in ((), (*to, "--missing"), ("--finish", str(tmp_path / "old"))):
        assert reenroll(*mistaken).returncode == 2
    same = reenroll("--to", str(DEFAULT_WEIGHTS / "tessera-s"), "--leave-out-missing")
    assert "of this encoder already" in same.stderr

    changed = reenroll(*to, "--leave-out-missing")
    assert changed.returncode == 0, changed.stderr
    assert "1 templates are made anew by tessera-m" in changed.stderr
    [aside] = data.glob("replaced-*")
    assert str(aside / DATABASE_NAME) in changed.stderr
    assert "come from encoder" in tessera("serve", "--port", "0", "--data-dir", str(data), **old).stderr
    with Server(data, **new) as server:
        after = ok(httpx.get(f"{server.url}/subjects/ada"))
        # Norms are the encoder's own.
        for template in (*before["templates"], *after["templates"]):
            del template["embedding_norm"]
        assert after == before
        answer = identified(server, ada)
        assert answer["decision"] == "match"
        # Encoded in another batch: the last digits differ.
        assert answer["candidates"][0]["distance"] < 1e-3  # type: ignore[index]
    with closing(SecurityStore(data, None)) as store:
        recorded = [r.content for r in AuditTrail(store).records() if r.content["action"] == "reenroll"]
    assert [(r["outcome"], r["details"]["templates"], r["details"]["left_out"]) for r in recorded][-2:] == [
        ("started", 1, 1),
        ("done", 1, 1),
    ]

    back = tessera("gallery", "restore", str(aside / DATABASE_NAME), "--replace", "--data-dir", str(data), **old)
    assert back.returncode == 0, back.stderr
    with Server(data, **old) as server:
        assert identified(server, grace)["decision"] == "match"
        assert identified(server, ada)["decision"] == "match"
    assert reenroll(*to, "--leave-out-missing").returncode == 0
    finished = reenroll("--finish")
    assert finished.stdout.startswith("1 keys of templates and chips")


def test_targets_that_the_new_encoder_cannot_keep_are_refused_first(tmp_path: Path) -> None:
    data, key = tmp_path / "data", tmp_path / "master.key"
    key.write_text("5a" * 32)
    variables = {"TESSERA_GALLERY__MASTER_KEY_FILE": str(key), "TESSERA_ENCODING__ENCODER": "tessera-s"}
    keys = Vault(data, FileKeyWrapper(key))
    with closing(SqliteGallery(data, encoder_digest="sha256:" + "a" * 64, keys=keys)) as gallery:
        gallery.create_collection("staff", Targets(fmr=1e-9))
    to = str(DEFAULT_WEIGHTS / "tessera-m")
    refused = tessera("gallery", "reenroll", "--to", to, "--data-dir", str(data), **variables)
    assert refused.returncode == 3
    assert "Collection 'staff'" in refused.stderr
    assert "PUT /collections/staff" in refused.stderr
