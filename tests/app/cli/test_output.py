"""Files that commands write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.cli.output import replacing
from tests.app.process import PATIENCE, environment
from tests.shared_data import ROOT


def test_a_file_is_replaced_whole_with_its_mode_and_by_its_own_name(tmp_path: Path) -> None:
    kept, other, link = tmp_path / "kept", tmp_path / "other", tmp_path / "link"
    kept.write_text("before")
    kept.chmod(0o640)
    other.hardlink_to(kept)
    link.symlink_to(kept)
    with replacing(link) as file:
        file.write("afterwards")
        file.flush()
        assert kept.read_text() == "before"
    assert (kept.read_text(), other.read_text()) == ("afterwards", "before")
    assert kept.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "other", "link"}


@pytest.mark.parametrize("exists", [True, False])
def test_work_that_fails_leaves_what_was_there(tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "target"
    if exists:
        target.write_text("before")
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    with pytest.raises(RuntimeError):
        _fail_halfway(target)
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def _fail_halfway(target: Path) -> None:
    with replacing(target) as file:
        file.write("half")
        file.flush()
        raise RuntimeError


def test_what_is_no_file_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with replacing(pipe) as file:
        file.write("report")
    assert os.read(reader, 100) == b"report"
    os.close(reader)
    assert pipe.is_fifo()


def into(stdout: int) -> tuple[int, str]:
    """Exit code and stderr of a command that has something to say."""
    command = [sys.executable, "-m", "app.cli", "version"]
    try:
        ended = subprocess.run(
            command, check=False, cwd=ROOT, env=environment(), stdout=stdout, stderr=subprocess.PIPE, timeout=PATIENCE
        )
    finally:
        os.close(stdout)
    return ended.returncode, ended.stderr.decode()


@pytest.mark.slow
def test_output_that_cannot_be_written_is_no_answer() -> None:
    code, said = into(os.open("/dev/full", os.O_WRONLY))
    assert (code, said) == (3, "tessera: the output cannot be written: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    assert into(writer) == (141, "")


@pytest.mark.parametrize("command", ["calibrate OUT --photographs NONE", "gallery audit --page OUT --data-dir NONE"])
def test_that_a_file_cannot_be_written_is_said_before_the_work(tmp_path: Path, command: str) -> None:
    # The work would find that what it is to measure is not there either.
    named = {"OUT": str(tmp_path / "missing" / "out"), "NONE": str(tmp_path / "none")}
    result = CliRunner().invoke(cli, [named.get(word, word) for word in command.split()])
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"{named['OUT']} cannot be used" in result.stderr
