"""What the service tells systemd, and to whom files belong that root makes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from app.cli.host import give_to_owner
from tests.app.process import PATIENCE, Server, tessera

OWNER = 12345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.mark.slow
def test_systemd_is_told_when_the_service_answers_and_when_it_stops(tmp_path: Path) -> None:
    name = f"tessera-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0{name}")
        channel.settimeout(PATIENCE)
        with Server(tmp_path / "data", NOTIFY_SOCKET=f"@{name}") as server:
            assert channel.recv(100) == b"READY=1"
            server.terminate()
            assert channel.recv(100) == b"STOPPING=1"


@as_root
def test_what_root_makes_in_a_data_directory_goes_to_its_owner(tmp_path: Path) -> None:
    directory, foreign = tmp_path / "data", tmp_path / "foreign"
    foreign.write_text("")
    aside = directory / "replaced-20260301T093000000000Z"
    aside.mkdir(parents=True)
    for name in ("gallery.sqlite3", "secret.key", "unknown", f"{aside.name}/gallery.sqlite3"):
        (directory / name).write_text("")
    (directory / "gallery.link").symlink_to(foreign)
    (directory / "security.link").hardlink_to(foreign)
    (directory / "replaced-link").symlink_to(tmp_path)
    give_to_owner(directory)
    assert {path.lstat().st_uid for path in directory.rglob("*")} == {0}
    os.chown(directory, OWNER, OWNER)
    give_to_owner(directory)
    given = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.lstat().st_uid == OWNER}
    assert given == {"gallery.sqlite3", "secret.key", aside.name, f"{aside.name}/gallery.sqlite3"}
    assert foreign.stat().st_uid == 0


@as_root
def test_keys_that_root_creates_can_be_read_by_the_service(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    os.chown(directory, OWNER, OWNER)
    done = tessera("keys", "create", "door", "--scopes", "verify", "--data-dir", str(directory))
    assert done.returncode == 0, done.stderr
    assert {path.name: path.stat().st_uid for path in directory.iterdir()} == {
        "secret.key": OWNER,
        "security.sqlite3": OWNER,
    }
