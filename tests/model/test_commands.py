from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import TesseraError
from model.__main__ import COMMANDS
from model.commands import StoppedError, in_one_line, run
from tests.shared_data import ROOT


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (StoppedError("too\n  few"), "too few"),
        (ValueError("wrong"), "wrong"),
        (TesseraError("unknown"), "unknown"),
        (FileNotFoundError(2, "No such file or directory", "faces"), "faces: No such file or directory"),
        (PermissionError(), "PermissionError"),
        (
            OSError(errno.ENOSPC, "No space left on device", "chips.npy"),
            "chips.npy: No space left on device: make room and run the same command again",
        ),
        (OSError(errno.EIO, "Input/output error"), "the system: Input/output error"),
    ],
)
def test_what_a_user_can_mend_ends_in_one_sentence(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command"])

    def failing() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        run(failing)
    assert end.value.code == 1
    assert capsys.readouterr().err == f"refused: {words}\n"
    monkeypatch.setenv("MODEL_TRACEBACK", "1")
    with pytest.raises(type(error)):
        run(failing)


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command"])

    def failing() -> None:
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        run(failing)
    assert in_one_line(KeyError()) == "KeyError"


def test_the_commands_are_listed_in_order_and_complete() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "model"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert [listed.index(f"python -m {module} ") for module in COMMANDS] == sorted(
        listed.index(f"python -m {module} ") for module in COMMANDS
    )
    runnable = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in Path(ROOT / "model").rglob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text() and path.stem != "__main__"
    }
    assert set(COMMANDS) == runnable
