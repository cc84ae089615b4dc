"""Options of commands on top of the environment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from pydantic import ValidationError
from typer.testing import CliRunner

from app.cli import cli
from app.cli.options import load_settings, refusing
from app.errors import TesseraError


def test_options_go_over_the_environment_and_leave_the_rest_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TESSERA_SERVER__PORT", "9001")
    monkeypatch.setenv("TESSERA_SERVER__THREADS", "3")
    monkeypatch.setenv("TESSERA_GALLERY__REPORT_DUPLICATES", "false")
    plain = load_settings()
    assert (plain.server.port, plain.server.threads) == (9001, 3)
    given = load_settings(host="0.0.0.0", port=9002, data_dir=tmp_path)
    assert (given.server.host, given.server.port, given.server.threads) == ("0.0.0.0", 9002, 3)
    assert (given.gallery.data_dir, given.gallery.report_duplicates) == (tmp_path, False)


def test_options_are_validated_like_settings() -> None:
    with pytest.raises(ValidationError, match=r"server\.port"):
        load_settings(port=70_000)


@pytest.mark.parametrize("port", ["70000", "many"])
def test_what_an_operator_can_mend_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], port: str
) -> None:
    monkeypatch.setenv("TESSERA_SERVER__PORT", port)
    with pytest.raises(typer.Exit) as ended, refusing():
        load_settings()
    assert ended.value.exit_code == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tessera: TESSERA_SERVER__PORT: ")


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("TESSERA_SECURITY__KEY_RATE", "60", "TESSERA_SECURITY__KEY_RATE: '60' .*600/minute"),
        ("TESSERA_SERVER__ROOT_PATH", "faces", "TESSERA_SERVER__ROOT_PATH: 'faces' .*/faces"),
        ("TESSERA_GALLERY__DATA_DIR", "", "TESSERA_GALLERY__DATA_DIR without a value"),
        ("TESSERA_DECISIONS__TARGET_FMR", "", "TESSERA_DECISIONS__TARGET_FMR without a value"),
    ],
)
def test_a_value_of_another_form_is_told_with_its_variable_and_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(typer.Exit), refusing():
        load_settings()
    assert re.search(says, capsys.readouterr().err)


def test_a_list_may_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_SERVER__ALLOWED_HOSTS", "")
    assert load_settings().server.allowed_hosts == ""


def test_an_error_of_ours_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), refusing():
        raise TesseraError("the disk is full; make room")
    assert capsys.readouterr().err == "tessera: the disk is full; make room\n"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("calibrate out.json", "either --photographs or --collection"),
        ("calibrate out.json --collection default --report refused.csv", "--report goes with --photographs"),
        ("audit show --collection staff", "--collection goes with --subject"),
        ("gallery reenroll", "one of"),
        ("gallery reenroll old --finish", "one of"),
        ("gallery reenroll --missing --leave-out-missing", "--leave-out-missing goes with --to"),
    ],
)
def test_options_that_do_not_go_together_are_a_mistake_of_use(command: str, says: str) -> None:
    result = CliRunner().invoke(cli, command.split())
    assert result.exit_code == 2
    assert says in result.stderr
