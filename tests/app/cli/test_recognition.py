"""What the service does, without one: verify, identify, enroll, subjects, gallery info and doctor."""

from __future__ import annotations

import csv
import json
import os
import pty
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from app.cli import cli
from app.cli.recognition import REASONS
from app.decisions import Reason
from app.gallery.sqlite.database import DATABASE_NAME
from tests.app.api.helpers import files, ok
from tests.app.photographs import blank, blurred, collins, two_alike, variants
from tests.app.process import PATIENCE, Server, environment, tessera, wait_until
from tests.shared_data import ROOT

pytestmark = pytest.mark.slow


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


def test_every_reason_has_words() -> None:
    assert REASONS.keys() == {*Reason, "empty_gallery"}


def test_a_face_among_two_of_like_size_is_said_to_be_ambiguous(tmp_path: Path, grace: bytes) -> None:
    (tmp_path / "both.jpg").write_bytes(two_alike())
    (tmp_path / "grace.jpg").write_bytes(grace)
    said = run("verify", tmp_path / "both.jpg", tmp_path / "grace.jpg", code=1)
    assert "inconclusive" in said.output
    assert "another face of like size" in said.output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def people(tmp_path: Path, ada: bytes, grace: bytes) -> Path:
    """Two people, four photographs that give no template, and a file that is nobody's."""
    folder = tmp_path / "people"
    found = {
        "ada/1.jpg": ada,
        "ada/2.jpg": variants(collins())["mirrored"],
        "ada/blurred.jpg": blurred(),
        "ada/both.jpg": two_alike(),
        "grace/1.jpg": grace,
        "grace/wall.jpg": blank(),
        "grace/.hidden": b"",
        "no body/1.jpg": ada,
        "notes.txt": b"nobody",
    }
    for name, image in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image)
    return folder


@pytest.fixture
def enrolled(people: Path, tmp_path: Path) -> Path:
    """A data directory with both of them."""
    run("enroll", people, "--data-dir", tmp_path / "data", code=1)
    return tmp_path / "data"


def test_two_photographs_are_compared_as_the_api_compares_them(tmp_path: Path, ada: bytes, grace: bytes) -> None:
    one, same, other = (tmp_path / name for name in ("one.jpg", "same.jpg", "other.jpg"))
    for path, image in ((one, ada), (same, variants(collins())["compressed"]), (other, grace)):
        path.write_bytes(image)
    assert run("verify", one, same).stdout.startswith("match\ndistance")
    assert run("verify", one, other, code=1).stdout.startswith("no match\ndistance")
    answer = json.loads(run("verify", one, other, "--json", code=1).stdout)
    with Server(tmp_path / "data") as server:
        parts = {"image": ("a.jpg", one.read_bytes()), "reference": ("b.jpg", other.read_bytes())}
        expected = ok(httpx.post(f"{server.url}/verify", files=parts, timeout=PATIENCE))
    assert answer.keys() == expected.keys()
    assert (answer["decision"], answer["criterion"]) == (expected["decision"], expected["criterion"])
    for name in ("distance", "threshold", "crowding"):
        assert answer[name] == pytest.approx(expected[name], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("one.jpg", "none.jpg"), 3, "none.jpg cannot be used"),
        (("one.jpg", "wall.jpg"), 3, "/wall.jpg: No face was found"),
        (("wall.jpg", "one.jpg"), 3, "/wall.jpg: No face was found"),
        (("one.jpg", "one.jpg", "--target-fmr", "2"), 2, "--target-fmr"),
        (("one.jpg", "one.jpg", "--target-fmr", "0.1", "--max-distance", "1"), 2, "not several"),
        (("one.jpg", "one.jpg", "--target-fmr", "1e-9"), 3, "smallest"),
        (("one.jpg",), 2, "Missing argument"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    tmp_path: Path, ada: bytes, arguments: tuple[str, ...], code: int, says: str
) -> None:
    (tmp_path / "one.jpg").write_bytes(ada)
    (tmp_path / "wall.jpg").write_bytes(blank())
    named = [str(tmp_path / word) if word.endswith("jpg") else word for word in arguments]
    result = run("verify", *named, code=code)
    assert result.stdout == ""
    assert says in result.stderr
    assert code == 2 or len(result.stderr.splitlines()) == 1


def test_people_are_enrolled_refused_with_reasons_and_skipped_the_second_time(people: Path, tmp_path: Path) -> None:
    data, report = tmp_path / "data", tmp_path / "report.csv"
    command = ("enroll", people, "--data-dir", data, "--report", report, "--json")
    first = json.loads(run(*command, code=1).stdout)
    assert (first["enrolled"], first["skipped"], first["refused"], first["left"]) == (3, 0, 5, 0)
    with report.open() as file:
        reasons = {(row["subject_id"], Path(row["path"]).name): row["code"] for row in csv.DictReader(file)}
    assert reasons == {
        ("", "notes.txt"): "no_subject",
        ("no body", "1.jpg"): "invalid_subject_id",
        ("ada", "blurred.jpg"): "low_quality",
        ("ada", "both.jpg"): "multiple_faces",
        ("grace", "wall.jpg"): "no_face",
    }
    second = json.loads(run(*command, code=1).stdout)
    assert (second["enrolled"], second["skipped"], second["refused"]) == (0, 3, 5)
    with sqlite3.connect(data / DATABASE_NAME) as connection:
        assert connection.execute("SELECT COUNT(*), COUNT(DISTINCT subject) FROM templates").fetchone() == (3, 2)
    actions = [json.loads(line) for line in run("audit", "show", "--data-dir", data).stdout.splitlines()]
    assert [entry["action"] for entry in actions] == ["enroll"] * 3
    assert {entry["actor"] for entry in actions} == {"command"}


def test_a_table_names_people_and_what_to_keep_with_them(people: Path, tmp_path: Path) -> None:
    data, table = tmp_path / "data", tmp_path / "people.csv"
    rows = [
        ("subject_id", "path", "metadata"),
        ("ada", "people/ada/1.jpg", '{"desk": 3}'),
        ("grace", "people/grace/1.jpg", ""),
        ("grace", "people/grace/none.jpg", ""),
        ("grace", "people/grace/1.jpg", "[1]"),
        ("", "people/grace/1.jpg", ""),
        ("grace", "people/grace/1.jpg", '{"desk": NaN}'),
        ("grace", "people/grace/1.jpg", '{"desk": 1e999}'),
        ("grace", "people/grace/1.jpg", r'{"desk": "\ud800"}'),
        ("grace", "people/grace/1.jpg", '{"desk": 1, "desk": 2}'),
        ("grace", "people/grace/1.jpg\0", ""),
    ]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    result = run("enroll", table, "--data-dir", data, "--json", code=1)
    assert (json.loads(result.stdout)["enrolled"], json.loads(result.stdout)["refused"]) == (2, 8)
    assert "5 invalid_metadata, 2 invalid_row, 1 unreadable" in result.stderr
    assert json.loads(run("subjects", "show", "ada", "--data-dir", data, "--json").stdout)["metadata"] == {"desk": 3}
    for text in ("id,file\nx,y\n", "\xff"):
        table.write_text(text, encoding="latin-1")
        assert run("enroll", table, "--data-dir", tmp_path / "other", code=2).stdout == ""
    assert not (tmp_path / "other").exists()


def test_a_report_does_not_replace_the_table_it_is_about(tmp_path: Path) -> None:
    table, link = tmp_path / "people.csv", tmp_path / "link.csv"
    table.write_text("subject_id,path\nada,1.jpg\n")
    link.symlink_to(table)
    for report in (table, link):
        said = run("enroll", table, "--report", report, "--data-dir", tmp_path / "data", code=2)
        assert "the report would replace" in said.stderr
    assert table.read_text() == "subject_id,path\nada,1.jpg\n"
    assert not (tmp_path / "data").exists()


def test_a_file_whose_name_is_not_utf_8_is_reported(tmp_path: Path) -> None:
    folder, report = tmp_path / "people" / "ada", tmp_path / "report.csv"
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"wall-\xff.jpg")).write_bytes(blank())
    run("enroll", folder.parent, "--data-dir", tmp_path / "data", "--report", report, code=1)
    assert r"wall-\udcff.jpg,no_face" in report.read_text(encoding="utf-8")


def test_a_stopped_enrolment_is_whole_and_goes_on(tmp_path: Path, ada: bytes) -> None:
    folder, data = tmp_path / "many", tmp_path / "data"
    total = 400
    for number in range(total):
        (folder / f"p{number}").mkdir(parents=True)
        # The bytes differ, the picture does not.
        (folder / f"p{number}" / "1.jpg").write_bytes(ada + number.to_bytes(2))
    arguments = ["enroll", str(folder), "--data-dir", str(data), "--json"]
    command = [sys.executable, "-m", "app.cli", *arguments]
    variables = environment(TESSERA_GALLERY__REPORT_DUPLICATES="false")
    with subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until(lambda: _templates(data) > 0, "somebody is enrolled")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    stopped = json.loads(out)
    assert process.returncode == 130
    assert 0 < stopped["enrolled"] == _templates(data) < total
    assert stopped["left"] == total - stopped["enrolled"]
    assert "Run the same command to go on" in err
    run("gallery", "check", "--data-dir", data)
    rest = json.loads(tessera(*arguments, TESSERA_GALLERY__REPORT_DUPLICATES="false").stdout)
    assert (rest["skipped"], rest["enrolled"]) == (stopped["enrolled"], stopped["left"])


def _templates(data: Path) -> int:
    if not (data / DATABASE_NAME).exists():
        return 0
    with sqlite3.connect(data / DATABASE_NAME) as connection:
        try:
            return int(connection.execute("SELECT COUNT(*) FROM templates").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def test_a_person_is_found_beside_a_running_service(tmp_path: Path, people: Path, ada: bytes) -> None:
    data, mirrored = tmp_path / "served", people / "ada" / "2.jpg"
    with Server(data) as server:
        ok(httpx.post(f"{server.url}/enroll", files=files(ada), data={"subject_id": "ada"}, timeout=PATIENCE), 201)
        expected = ok(httpx.post(f"{server.url}/identify", files=files(mirrored.read_bytes()), timeout=PATIENCE))
        answer = json.loads(run("identify", mirrored, "--data-dir", data, "--json").stdout)
        assert (answer["decision"], answer["subject_id"]) == ("match", "ada")
        assert answer.keys() == expected.keys()
        assert answer["distance"] == pytest.approx(expected["distance"], rel=1e-3)
        assert str(server.process.pid) in run("enroll", people, "--data-dir", data, code=3).stderr
        assert str(server.process.pid) in run("subjects", "delete", "ada", "--yes", "--data-dir", data, code=3).stderr
        info = json.loads(run("gallery", "info", "--data-dir", data, "--json").stdout)
        assert (info["subjects"], info["templates"]) == (1, 1)
        ok(httpx.get(f"{server.url}/readyz", timeout=PATIENCE))
    assert '"identify"' in run("audit", "show", "--data-dir", data).stdout


def test_who_is_found_is_said_in_words(enrolled: Path, people: Path, tmp_path: Path) -> None:
    said = run("identify", people / "grace" / "1.jpg", "--data-dir", enrolled).stdout
    assert said.startswith("match: grace\n")
    assert "2 subjects searched" in said
    strict = run("identify", people / "ada" / "2.jpg", "--max-distance", 0, "--data-dir", enrolled, code=1)
    assert strict.stdout.startswith("no match\n")


def test_subjects_are_listed_in_pages_shown_and_erased(enrolled: Path) -> None:
    page = json.loads(run("subjects", "list", "--limit", 1, "--data-dir", enrolled, "--json").stdout)
    assert [subject["id"] for subject in page["subjects"]] == ["ada"]
    rest = run("subjects", "list", "--cursor", page["next_cursor"], "--data-dir", enrolled).stdout
    assert [line.split()[0] for line in rest.splitlines()] == ["id", "grace"]
    shown = json.loads(run("subjects", "show", "ada", "--data-dir", enrolled, "--json").stdout)
    assert len(shown["templates"]) == 2
    assert "--yes" in run("subjects", "delete", "ada", "--data-dir", enrolled, code=3).stderr
    erased = json.loads(run("subjects", "delete", "ada", "--yes", "--data-dir", enrolled, "--json").stdout)
    assert erased["templates"] == 2
    run("audit", "verify", "--receipt", erased["receipt"], "--data-dir", enrolled)
    assert "no subject" in run("subjects", "show", "ada", "--data-dir", enrolled, code=3).stderr


WITH_INTERRUPTS = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from app.cli import main; main()"
)
"""The command, also where whoever runs the tests ignores Ctrl-C."""


@pytest.mark.parametrize(("reply", "code"), [(b"n\n", 1), (None, 130)], ids=["no", "Ctrl-C"])
def test_nobody_is_erased_by_who_says_no_or_stops(enrolled: Path, reply: bytes | None, code: int) -> None:
    keyboard, terminal = pty.openpty()
    command = [sys.executable, "-c", WITH_INTERRUPTS, "subjects", "delete", "ada", "--data-dir", str(enrolled)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(9) == "Erase ada"
            if reply is None:
                process.send_signal(signal.SIGINT)
            else:
                os.write(keyboard, reply)
            _, error = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            os.close(keyboard)
            os.close(terminal)
    assert process.returncode == code
    assert "nothing was changed" in error
    assert _templates(enrolled) == 3


def test_a_subject_that_was_enrolled_twice_is_merged(enrolled: Path, people: Path, tmp_path: Path) -> None:
    again = tmp_path / "again" / "ada-2"
    again.mkdir(parents=True)
    shutil.copy(people / "ada" / "1.jpg", again)
    run("enroll", again.parent, "--data-dir", enrolled)
    merge = ("subjects", "merge", "ada", "ada-2", "--data-dir", enrolled)
    assert "--yes" in run(*merge, code=3).stderr
    assert "same subject" in run("subjects", "merge", "ada", "ada", "--data-dir", enrolled, code=2).stderr
    far = run("subjects", "merge", "ada", "grace", "--yes", "--data-dir", enrolled, code=3)
    assert "apart" in far.stderr
    merged = json.loads(run(*merge, "--yes", "--json").stdout)
    assert (merged["duplicate"], len(merged["template_ids"]), len(merged["subject"]["templates"])) == ("ada-2", 1, 3)
    assert "no subject" in run("subjects", "show", "ada-2", "--data-dir", enrolled, code=3).stderr
    skipped = json.loads(run("enroll", again.parent, "--data-dir", enrolled, "--json").stdout)
    assert (skipped["skipped"], skipped["enrolled"]) == (1, 0)
    said = run("subjects", "merge", "ada", "grace", "--yes", "--force", "--data-dir", enrolled).stdout
    assert said.startswith("ada has ")
    shown = run("audit", "show", "--subject", "ada-2", "--data-dir", enrolled).stdout
    records = [json.loads(line) for line in shown.splitlines()]
    found = [(r["outcome"], r["details"].get("templates")) for r in records if r["action"] == "merge_subjects"]
    assert found == [("started", None), ("done", 1)]


READING = {
    "identify": ("identify", "PHOTOGRAPH"),
    "subjects list": ("subjects", "list"),
    "subjects show": ("subjects", "show", "ada"),
    "subjects merge": ("subjects", "merge", "ada", "ada-2", "--yes"),
    "subjects delete": ("subjects", "delete", "ada", "--yes"),
    "gallery info": ("gallery", "info"),
    "gallery audit": ("gallery", "audit"),
    "gallery check": ("gallery", "check"),
    "gallery accept": ("gallery", "check", "--accept-loss"),
    "gallery backup": ("gallery", "backup", "OUT"),
    "gallery backup-keys": ("gallery", "backup-keys", "OUT"),
    "gallery export": ("gallery", "export", "OUT"),
    "gallery rotate-key": ("gallery", "rotate-key"),
    "calibrate": ("calibrate", "OUT", "--collection", "default"),
    "keys list": ("keys", "list"),
    "keys revoke": ("keys", "revoke", "x"),
    "keys rotate": ("keys", "rotate", "x"),
    "audit show": ("audit", "show"),
    "audit head": ("audit", "head"),
    "audit verify": ("audit", "verify"),
}


@pytest.mark.parametrize("command", READING.values(), ids=READING)
@pytest.mark.parametrize("exists", [False, True], ids=["missing", "empty"])
def test_no_command_makes_what_it_was_asked_to_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ada: bytes, command: tuple[str, ...], exists: bool
) -> None:
    (tmp_path / "photograph.jpg").write_bytes(ada)
    (tmp_path / "master").write_text("ab" * 32)
    monkeypatch.setenv("TESSERA_GALLERY__MASTER_KEY_FILE", str(tmp_path / "master"))
    data = tmp_path / "data"
    if exists:
        data.mkdir()
    named = {"PHOTOGRAPH": str(tmp_path / "photograph.jpg"), "OUT": str(tmp_path / "out")}
    before = contents(tmp_path)
    run(*(named.get(word, word) for word in command), "--data-dir", data, code=3)
    assert contents(tmp_path) == before
    assert data.exists() == exists


def test_reading_leaves_the_gallery_as_it_is(enrolled: Path, people: Path, tmp_path: Path) -> None:
    before = (enrolled / DATABASE_NAME).read_bytes()
    run("identify", people / "ada" / "1.jpg", "--data-dir", enrolled)
    run("subjects", "list", "--data-dir", enrolled)
    run("gallery", "info", "--data-dir", enrolled)
    run("gallery", "audit", "--data-dir", enrolled)
    run("doctor", "--data-dir", enrolled)
    assert (enrolled / DATABASE_NAME).read_bytes() == before


def test_encrypted_templates_are_searched_and_not_stored_otherwise(
    monkeypatch: pytest.MonkeyPatch, people: Path, tmp_path: Path
) -> None:
    data, photograph = tmp_path / "data", people / "ada" / "2.jpg"
    (tmp_path / "master").write_text("ab" * 32)
    monkeypatch.setenv("TESSERA_GALLERY__MASTER_KEY_FILE", str(tmp_path / "master"))
    run("enroll", people, "--data-dir", data, code=1)
    assert run("identify", photograph, "--data-dir", data).stdout.startswith("match: ada\n")
    assert json.loads(run("gallery", "info", "--data-dir", data, "--json").stdout)["encrypted_templates"] == 3
    monkeypatch.delenv("TESSERA_GALLERY__MASTER_KEY_FILE")
    assert "MASTER_KEY_FILE" in run("identify", photograph, "--data-dir", data, code=3).stderr


def test_the_doctor_finds_nothing_to_mend_and_leaves_nothing_behind(tmp_path: Path) -> None:
    result = json.loads(run("doctor", "--data-dir", tmp_path / "data", "--json").stdout)
    assert result["ok"]
    assert {c["name"] for c in result["checks"]} >= {"processor", "cores", "memory", "encoder", "writing", "free disk"}
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_says_what_to_mend(monkeypatch: pytest.MonkeyPatch, enrolled: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("TESSERA_SERVER__HOST", "0.0.0.0")
    monkeypatch.setenv("TESSERA_ENCODING__ENCODER", "tessera-s")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "cert.pem")
    monkeypatch.setenv("TESSERA_SERVER__TLS_CERTIFICATE", str(tmp_path / "cert.pem"))
    monkeypatch.setenv("TESSERA_SERVER__TLS_KEY", str(tmp_path / "cert.pem"))
    result = json.loads(run("doctor", "--data-dir", enrolled, "--json", code=1).stdout)
    wrong = {check["name"] for check in result["checks"] if check["state"] == "mend"}
    assert wrong == {"gallery", "keys", "certificate"}
    settings = next(check["found"] for check in result["checks"] if check["name"] == "settings")
    assert "server.host=0.0.0.0" in settings
    assert "encoding.encoder=tessera-s" in settings


def test_the_doctor_misses_the_keys_of_encrypted_templates_and_of_the_audit_trail(
    monkeypatch: pytest.MonkeyPatch, people: Path, tmp_path: Path
) -> None:
    data, master = tmp_path / "data", tmp_path / "master"
    master.write_text("ab" * 32)
    monkeypatch.setenv("TESSERA_GALLERY__MASTER_KEY_FILE", str(master))
    run("enroll", people, "--data-dir", data, code=1)
    run("doctor", "--data-dir", data)

    def to_mend() -> dict[str, str]:
        checks = json.loads(run("doctor", "--data-dir", data, "--json", code=1).stdout)["checks"]
        return {check["name"]: check["found"] for check in checks if check["state"] == "mend"}

    master.write_text("cd" * 32)
    assert "which is not the one given" in to_mend()["gallery"]
    master.unlink()
    assert to_mend().keys() == {"gallery", "master key"}
    monkeypatch.delenv("TESSERA_GALLERY__MASTER_KEY_FILE")
    assert "MASTER_KEY_FILE" in to_mend()["gallery"]
    (data / "security.sqlite3").unlink()
    assert "are lost" in to_mend()["keys"]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TESSERA_GALLERY__DATA_DIR", "TESSERA_SERVER__HOST", "TESSERA_ENCODING__ENCODER"):
        monkeypatch.delenv(name, raising=False)
