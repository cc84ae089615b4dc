"""What documents generate is what they show."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

from typer.testing import CliRunner

from app.settings import Settings
from benchmarks import documents


def test_no_document_is_out_of_date() -> None:
    import typer  # noqa: PLC0415

    app = typer.Typer()
    app.command()(documents.main)
    result = CliRunner().invoke(app, ["--check"])
    assert result.exit_code == 0, result.output


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    before = "a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n<!-- generated: y z -->\n<!-- end -->\n"
    after = documents.renewed(before, {"x": lambda: iter(["1", "2"]), "y z": lambda: iter(["3"])})
    assert after == "a\n<!-- generated: x -->\n1\n2\n<!-- end -->\nb\n<!-- generated: y z -->\n3\n<!-- end -->\n"


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError):
        documents.renewed("<!-- generated: nothing -->\n<!-- end -->", {})


def test_every_command_and_option_is_described() -> None:
    text = "\n".join(documents.commands())
    for name in ("serve", "verify", "identify", "enroll", "doctor", "subjects list", "gallery info", "keys create"):
        assert f"### `tessera {name}" in text
    assert (
        "| `--face-policy <single, dominant, largest, all>` | which face of a photograph is meant  [default: largest] |"
        in text
    )
    assert "| `A <path>` | a photograph of a face  [required] |" in text
    assert not re.search(r"\| *\|$", text, re.MULTILINE), "an option without a word of help"


def test_the_short_table_shows_what_the_default_accepts() -> None:
    rows = [line.strip("| ").split(" | ") for line in list(documents.in_short())[2:]]
    raw, default, groups = (
        next(cell for name, cell in rows if part in name) for part in ("1e-4 over", "1e-4 in", "sex")
    )
    accepted = float(default.split()[0])
    assert accepted < float(raw.split()[0]), "the promise for every group costs something"
    least, most = map(float, re.findall(r"([\d.]+) %", groups))
    assert least < accepted < most
    assert groups.split("(")[1].startswith("Asian women)")


def test_every_setting_has_a_row() -> None:
    rows = list(documents.settings_table())[2:]
    assert len(rows) == sum(len(f.annotation.model_fields) for f in Settings.model_fields.values() if f.annotation)
    assert "| `TESSERA_SERVER__PORT` | `8000` | port to listen on; 0 lets the system choose one |" in rows
    assert (
        "| `TESSERA_DECISIONS__INCONCLUSIVE` | `true` | answer inconclusive where it applies; else no_match |" in rows
    )
