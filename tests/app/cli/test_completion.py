"""Completion in the shell, as typer makes it: asked for by an environment variable, and installed in a real bash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from tests.app.process import PATIENCE
from tests.shared_data import ROOT

LAUNCHER = "import sys; sys.argv[0] = 'tessera'; from app.cli import main; main()"


def completed(line: str, shell: str) -> list[str]:
    """What a shell is told that the last word of a line may become."""
    words = line.split()
    current = len(words) - (not line.endswith(" "))
    result = CliRunner().invoke(
        cli,
        prog_name="tessera",
        env={
            "_TESSERA_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": line,
            "COMP_CWORD": str(current),
            "_TYPER_COMPLETE_ARGS": line,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        },
    )
    return list(filter(None, result.output.splitlines()))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tessera su", ["subjects"]),
        ("tessera subjects de", ["delete"]),
        ("tessera verify --cl", ["--claim"]),
        ("tessera verify a.jpg b.jpg --claim ", ["every_group", "pooled"]),
        ("tessera verify a", []),
    ],
)
def test_bash_completes_commands_options_and_values(line: str, words: list[str]) -> None:
    assert completed(line, "bash") == words


def test_zsh_and_fish_complete_with_descriptions() -> None:
    assert '"subjects":"Who is enrolled."' in "".join(completed("tessera su", "zsh"))
    # No word of ours: the shell completes names of files.
    assert completed("tessera verify a", "zsh") == ["_files"]
    assert completed("tessera su", "fish") == ["subjects\tWho is enrolled."]


@pytest.mark.slow
def test_what_is_installed_completes_in_a_new_bash(tmp_path: Path) -> None:
    home, programs = tmp_path / "home", tmp_path / "programs"
    home.mkdir()
    programs.mkdir()
    command = programs / "tessera"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{LAUNCHER}" "$@"\n')
    command.chmod(0o755)
    environment = {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def bash(script: str) -> str:
        # Another command after the last one: bash would become the program that it runs, and no shell would be found.
        return subprocess.run(
            ["bash", "--norc", "-c", f"{script}\ntrue"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        ).stdout

    assert "bash completion installed" in bash("tessera --install-completion")
    asked = "source ~/.bashrc; COMP_WORDS=(tessera subjects de); COMP_CWORD=2"
    assert bash(f"{asked}; _tessera_completion tessera; echo ${{COMPREPLY[*]}}; complete -p tessera").splitlines() == [
        "delete",
        "complete -o default -F _tessera_completion tessera",
    ]
