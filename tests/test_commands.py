"""Every command in a document is run, or listed with the reason why not."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from tests.app.photographs import collins, hopper, jpeg
from tests.app.process import PATIENCE, RUNNING, Server, environment, wait_until
from tests.shared_data import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="needs curl and bash"),
]

ELSEWHERE = {"training.md", "cli.md"}
"""Documents whose commands have tests of their own."""
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = {"", "sh", "shell", "bash", "console"}
"""What marks a block of commands; one without a mark counts."""

NOT_RUN = {
    "make serve": "installs into .venv; test_deployment checks that the target exists",
    "make test": "runs this test",
    "export TESSERA_SERVER__TRUSTED_PROXIES=127.0.0.1 TESSERA_SERVER__ROOT_PATH=/faces "
    "TESSERA_SERVER__ALLOWED_HOSTS=faces.example": "needs a proxy",
    "python3 -m venv /opt/tessera && /opt/tessera/bin/pip install --constraint constraints.txt .": "writes on the host",
    "install -D -m 600 deploy/tessera.env /etc/tessera/tessera.env": "writes on the host",
    "(umask 077 && openssl rand -hex 32 > /etc/tessera/admin.key)": "writes on the host",
    "install -m 644 deploy/systemd/tessera.service /etc/systemd/system/tessera.service": "writes on the host",
    "systemctl enable --now tessera": "needs systemd; test_deployment lets systemd check the unit",
    "(set -a; . /etc/tessera/tessera.env; /opt/tessera/bin/tessera health)": "needs the unit",
    "(set -a; . /etc/tessera/tessera.env; TESSERA_SECURITY__ADMIN_KEY_FILE=/etc/tessera/admin.key "
    "/opt/tessera/bin/tessera doctor --data-dir /var/lib/private/tessera)": "needs the unit",
    "tessera gallery reenroll --missing": "needs chips; tests/app/cli/test_gallery.py runs it",
    "tessera gallery reenroll --to model/weights/tessera-m": "as the one before",
    "TESSERA_ENCODING__ENCODER=tessera-m tessera serve": "comes after the one before",
    "pip install --constraint constraints.txt '.[postgres]'": "installs",
    "export TESSERA_GALLERY__URL=postgresql://tessera@db.example/tessera": "needs a database",
    "export TESSERA_SECURITY__SECRET_FILE=/run/secrets/secret_key": "as the one before",
    "sudo chown 10001 pgpass && sudo chmod 400 pgpass": "needs another user's rights",
    "docker compose --profile scale up --build db api proxy": "needs Docker; test_deployment checks the file",
    'curl -H "Authorization: Bearer $(cat admin.key)" localhost:8080/collections': "comes after the one before",
    'psql "$TESSERA_GALLERY__URL" --set ON_ERROR_STOP=1 --file deploy/postgres/after-erasures.sql': "needs psql; "
    "tests/app/gallery/postgres/test_erasure.py runs the file",
    "npx openapi-typescript http://127.0.0.1:8000/openapi.json --default-non-nullable=false "
    "-o tessera.d.ts": "downloads",
    "tessera serve": "comes after the ones before",
}
"""Commands that no test runs, and why."""

RUN: dict[str, list[tuple[str, str]]] = {
    "README.md": [
        ("cp app/web/samples/eileen-collins.jpg ada-1.jpg", ""),
        ("cp app/web/samples/eileen-collins-changed.jpg ada-2.jpg", ""),
        ("curl -F image=@ada-1.jpg -F subject_id=ada localhost:8000/enroll", '"template_count":1'),
        ("curl -F image=@ada-2.jpg -F subject_id=ada localhost:8000/verify", '"decision":"match"'),
        ("curl -F image=@ada-2.jpg -F reference=@ada-1.jpg localhost:8000/verify", '"decision":"match"'),
        ("curl -F image=@ada-2.jpg -F top_k=5 localhost:8000/identify", '"subject_id":"ada"'),
        ("curl -X DELETE localhost:8000/subjects/ada", '"templates":1'),
    ],
    "migrate.md": [
        (
            'for file in people/*/*.jpg; do curl -sS --fail-with-body -F image=@"$file" -F subject_id="$(basename '
            '"$(dirname "$file")")" localhost:8000/enroll || echo " $file"; done',
            '"subject_id":"grace"',
        ),
    ],
    "operate.md": [
        ("docker compose exec tessera tessera keys create door --scopes verify", "tessera_"),
        ("docker compose exec tessera tessera audit verify", ""),
        ("docker compose exec tessera tessera gallery backup /data/gallery-2026-03-01.sqlite3", ""),
        ("docker compose cp tessera:/data/gallery-2026-03-01.sqlite3 /var/backups/tessera/", ""),
        ("docker compose exec tessera rm /data/gallery-2026-03-01.sqlite3", ""),
        ("docker compose stop tessera", ""),
        (
            "docker compose run --rm -T tessera sh -c 'cat > /data/incoming.sqlite3' < "
            "/var/backups/tessera/gallery-2026-03-01.sqlite3",
            "",
        ),
        ("docker compose run --rm tessera tessera gallery restore /data/incoming.sqlite3 --replace", ""),
        ("docker compose run --rm tessera rm /data/incoming.sqlite3", ""),
        ("docker compose start tessera", ""),
        ("tessera gallery backup /var/backups/tessera/gallery-2026-03-01.sqlite3", ""),
        ("tessera gallery restore /var/backups/tessera/gallery-2026-03-01.sqlite3 --data-dir /tmp/tried", ""),
        ("tessera gallery check --data-dir /tmp/tried", ""),
        ("tessera gallery backup-keys /media/keys/template-keys-2026-03-01.sqlite3", ""),
        (
            "install -D -m 600 /media/keys/template-keys-2026-03-01.sqlite3 /tmp/tried/template-keys.sqlite3",
            "",
        ),
    ],
    "scale.md": [
        ("for name in admin.key secret.key database.password; do openssl rand -hex 32 > $name; done", ""),
        ('echo "db:5432:tessera:tessera:$(cat database.password)" > pgpass', ""),
    ],
    "security.md": [
        ("tessera keys create owner --scopes admin --expires 90d", "tessera_"),
        ("tessera keys create back-office --scopes enroll,delete --collections staff --expires 90d", "tessera_"),
        ("tessera keys create door --scopes verify --collections staff --rate 60/minute", "tessera_"),
        ("TESSERA_SERVER__HOST=0.0.0.0 TESSERA_SERVER__ALLOWED_HOSTS=faces.example tessera serve", "0.0.0.0"),
        (
            'curl -H "Authorization: Bearer tessera_OWNER" -H "Content-Type: application/json" '
            """-d '{"id": "staff"}' https://faces.example/collections""",
            '"id":"staff"',
        ),
        (
            'curl -H "Authorization: Bearer tessera_BACK_OFFICE" -F image=@a.jpg -F subject_id=ada '
            "-F collection=staff https://faces.example/enroll",
            '"template_count":1',
        ),
        (
            'curl -H "Authorization: Bearer tessera_DOOR" -F image=@a.jpg -F subject_id=ada -F collection=staff '
            "https://faces.example/verify",
            '"decision":"match"',
        ),
        ("tessera audit verify", ""),
        ("tessera audit verify --receipt 42:9f2c...", ""),
        ("tessera audit head", ":"),
        ("tessera audit show --subject ada --collection staff", '"delete_subject"'),
    ],
}
"""Commands of each document in their order, and what each must print."""


def documents() -> list[Path]:
    return [ROOT / "README.md", *(path for path in sorted(ROOT.glob("docs/*.md")) if path.name not in ELSEWHERE)]


def commands(path: Path) -> list[str]:
    """The commands of a document, without comments; a backslash at the end of a line continues it."""
    blocks = [text for mark, text in BLOCK.findall(path.read_text()) if mark in SHELL]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [text for line in lines if (text := re.sub(r"(^|\s+)# .*", "", line).strip())]


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_every_command_is_run_or_listed(path: Path) -> None:
    run = [command for command, _ in RUN.get(path.name, [])]
    assert [command for command in commands(path) if command not in NOT_RUN] == run


def test_nothing_is_listed_that_no_document_has() -> None:
    assert NOT_RUN.keys() <= {command for path in documents() for command in commands(path)}


class Shell:
    """A folder with photographs, in which commands run, with a data directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.replaced: dict[str, str] = {}
        programs = folder / "bin"
        programs.mkdir()
        tessera = programs / "tessera"
        tessera.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m app.cli "$@"\n')
        tessera.chmod(0o755)
        self.variables = environment(
            PATH=f"{programs}:{os.environ['PATH']}",
            PYTHONPATH=str(ROOT),
            TESSERA_GALLERY__DATA_DIR=str(self.data),
            COLUMNS="200",
        )
        ada, grace = jpeg(collins()), jpeg(hopper())
        pictures = {"a.jpg": ada, "ada-1.jpg": ada, "ada-2.jpg": jpeg(collins(), 60)}
        pictures |= {"people/ada/1.jpg": ada, "people/grace/1.jpg": grace}
        for name, picture in pictures.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(picture)

    def text(self, command: str) -> str:
        for old, new in self.replaced.items():
            command = command.replace(old, new)
        return command

    def __call__(self, command: str) -> str:
        """What it prints. AssertionError unless it succeeds."""
        done = subprocess.run(
            ["bash", "-c", self.text(command)],
            check=False,
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def running(shell: Shell) -> Iterator[Server]:
    with Server(shell.data) as server:
        shell.replaced["localhost:8000"] = server.url.removeprefix("http://")
        shell.replaced["app/web/samples"] = str(ROOT / "app" / "web" / "samples")
        yield server


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("name", ["README.md", "migrate.md"])
def test_requests(shell: Shell, name: str) -> None:
    for command, expected in RUN[name]:
        assert expected in shell(command)


def test_requests_with_the_key_that_a_container_was_given(shell: Shell) -> None:
    [given] = re.findall(r"`(-H .+?)`", (ROOT / "README.md").read_text())
    file = shell.folder / "admin.key"
    file.write_text(secrets.token_hex(32))
    with Server(shell.data, TESSERA_SECURITY__ADMIN_KEY_FILE=str(file)) as server:
        shell.replaced |= {"localhost:8000": server.url, "app/web/samples": str(ROOT / "app" / "web" / "samples")}
        assert '"code":"unauthenticated"' in shell("curl localhost:8000/subjects")
        for command, expected in RUN["README.md"]:
            assert expected in shell(command.replace("curl ", f"curl {given} "))


@pytest.mark.usefixtures("running")
def test_the_answer_that_the_readme_shows_is_the_services(shell: Shell) -> None:
    [shown] = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    expected = json.loads(shown)
    asked = [shell(command) for command, _ in RUN["README.md"] if "cp " in command or "reference" in command]
    answer = json.loads(asked[-1])
    assert (answer["decision"], answer["criterion"]) == (
        expected["decision"],
        answer["criterion"] | expected["criterion"],
    )
    for name in ("distance", "threshold"):
        assert answer[name] == pytest.approx(expected[name], abs=0.02)
    assert answer["worst_group"].pop("group") == expected["worst_group"].pop("group")
    for name in ("false_match_rate", "worst_group"):
        assert answer[name] == pytest.approx(expected[name], rel=0.05)


def outside_containers(document: str) -> list[str]:
    return [command for command, _ in RUN[document] if not command.startswith("docker ")]


@pytest.mark.usefixtures("running")
def test_backups(shell: Shell) -> None:
    shell.replaced |= {"/var/backups/tessera": str(shell.folder / "backups"), "/tmp/tried": str(shell.folder / "tried")}
    (shell.folder / "backups").mkdir()
    for command in outside_containers("operate.md")[:3]:
        shell(command)
    assert (shell.folder / "tried" / "gallery.sqlite3").is_file()


def test_backups_with_encryption(shell: Shell) -> None:
    key = shell.folder / "master.key"
    key.write_text("5a" * 32)
    shell.variables["TESSERA_GALLERY__MASTER_KEY_FILE"] = str(key)
    for place, name in (("/var/backups/tessera", "backups"), ("/media/keys", "keys"), ("/tmp/tried", "tried")):
        shell.replaced[place] = str(shell.folder / name)
    for name in ("backups", "keys"):
        (shell.folder / name).mkdir()
    with Server(shell.data, TESSERA_GALLERY__MASTER_KEY_FILE=str(key)) as server:
        photograph = {"image": (shell.folder / "a.jpg").read_bytes()}
        httpx.post(f"{server.url}/enroll", files=photograph, data={"subject_id": "ada"}).raise_for_status()
        backup, restore, check, backup_keys, put_keys = outside_containers("operate.md")
        said = [shell(command) for command in (backup, backup_keys, put_keys, restore, check)]
    assert "1 keys of templates and chips" in said[1]
    assert "1 subjects, 1 templates" in said[-1]


def test_commands_in_the_container(shell: Shell, running: Server) -> None:
    """What runs in the container, run here on a data directory in the place of the volume."""
    backups = shell.folder / "backups"
    backups.mkdir()
    shell.replaced |= {
        "docker compose exec tessera ": "",
        "docker compose run --rm -T tessera ": "",
        "docker compose run --rm tessera ": "",
        "docker compose cp tessera:": "cp ",
        "/data/": f"{shell.data}/",
        "/var/backups/tessera": str(backups),
    }
    shell(RUN["README.md"][0][0])
    shell(RUN["README.md"][2][0])
    for command, expected in RUN["operate.md"]:
        if command == "docker compose stop tessera":
            running.terminate()
            running.process.wait(PATIENCE)
            shell("tessera enroll people")
        elif command.startswith("docker ") and "start" not in command:
            assert expected in shell(command)
    assert [path.name for path in backups.iterdir()] == ["gallery-2026-03-01.sqlite3"]
    assert not list(shell.data.glob("*-01.sqlite3"))
    assert list(shell.data.glob("replaced-*"))
    found = shell("tessera subjects list")
    assert "ada" in found
    assert "grace" not in found, "enrolled after the backup"


def test_files_of_the_replicas(shell: Shell) -> None:
    for command, _ in RUN["scale.md"]:
        shell(command)
    password = (shell.folder / "database.password").read_text().strip()
    assert len(password) == 64
    replicas = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["api"]
    url = conninfo_to_dict(replicas["environment"]["TESSERA_GALLERY__URL"])
    line = f"{url['host']}:{url.get('port', 5432)}:{url['dbname']}:{url['user']}:{password}\n"
    assert (shell.folder / "pgpass").read_text() == line


def test_keys_and_the_trail(shell: Shell) -> None:
    steps = iter(RUN["security.md"])

    def key(command: str) -> str:
        [found] = re.findall(r"\btessera_[\w-]+", shell(command))
        return str(found)

    owner, office, door = (key(next(steps)[0]) for _ in range(3))
    serve, address = next(steps)
    with served(shell, serve) as shown:
        assert address in shown
        url = shown.replace(address, "127.0.0.1")
        shell.replaced |= {"tessera_OWNER": owner, "tessera_BACK_OFFICE": office, "tessera_DOOR": door}
        shell.replaced["https://faces.example"] = url
        for _ in range(3):
            command, expected = next(steps)
            assert expected in shell(command)
        erased = httpx.delete(
            f"{url}/subjects/ada",
            headers={"Authorization": f"Bearer {office}"},
            params={"collection": "staff"},
            timeout=PATIENCE,
        )
        shell.replaced["42:9f2c..."] = erased.raise_for_status().json()["receipt"]
        for command, expected in steps:
            assert expected in shell(command)


class served:  # noqa: N801
    """The command as a process, on a free port; its address."""

    def __init__(self, shell: Shell, command: str) -> None:
        self._log = shell.folder / f"serve-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", f"exec env {shell.text(command)}"],
                cwd=shell.folder,
                env=shell.variables | {"TESSERA_SERVER__PORT": "0"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _address(self) -> str:
        assert self._process.poll() is None, self._log.read_text()
        found = RUNNING.search(self._log.read_text())
        return found[1] if found else ""

    def __enter__(self) -> str:
        wait_until(lambda: bool(self._address()), "the service runs")
        return self._address()

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
