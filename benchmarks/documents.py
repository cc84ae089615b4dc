"""The generated tables of the documents: settings from the code, rates from calibrations, results from benchmarks.

    python -m benchmarks.documents
    python -m benchmarks.documents --check

A document names a table between two comments, ``<!-- generated: NAME -->`` and ``<!-- end -->``; the text between them
is replaced. ``--check`` changes nothing and fails where a document is out of date. Benchmark results are in
``docs/results``: reports of ``model.evaluation.evaluate`` by encoder, and tables of ``benchmarks.groups`` and
``benchmarks.decisions`` as printed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from app.cli import cli
from app.cli.output import MEANINGS
from app.decisions import load_calibration
from app.encoding import load_weights
from app.settings import DEFAULT_WEIGHTS, Settings
from benchmarks import tables
from model.evaluation.report import Report, all_pairs_table, groups_table, markdown_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
MARK = re.compile(r"(<!-- generated: ([\w./ -]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Table = Callable[[], Iterator[str]]


def settings_table() -> Iterator[str]:
    """Every setting with its default and its meaning."""
    yield "| variable | default | meaning |"
    yield "|---|---|---|"
    for section, field in Settings.model_fields.items():
        model = field.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        for name, setting in model.model_fields.items():
            # What a function gives depends on the machine; its description says how.
            default = "" if setting.default is PydanticUndefined else setting.default
            shown = "model/weights" if default == DEFAULT_WEIGHTS else str(default)
            shown = shown.lower() if isinstance(default, bool) else shown
            yield f"| `TESSERA_{section.upper()}__{name.upper()}` | `{shown}` | {setting.description} |"


def commands() -> Iterator[str]:
    """Every command with its arguments and options, in the order of ``tessera --help``."""
    yield from _described(typer.main.get_command(cli), "tessera")


def _described(command: Any, name: str) -> Iterator[str]:
    """A command, or all those of a group. Typer's own classes: it does not export them."""
    if found := getattr(command, "commands", None):
        for own, one in found.items():
            yield from _described(one, f"{name} {own}")
        return
    context = typer.Context(command)
    records = [parameter.get_help_record(context) for parameter in command.params]
    arguments = [p.get_help_record(context)[0].split()[0] for p in command.params if p.param_type_name == "argument"]
    yield f"### `{' '.join([name, *arguments])}`\n"
    yield f"{inspect.cleandoc(command.help)}\n"
    yield "| argument or option | meaning |"
    yield "|---|---|"
    for words, meaning in records:
        yield f"| `{words.replace('|', ', ')}` | {meaning} |"
    yield ""


def exit_codes() -> Iterator[str]:
    """What commands end with."""
    yield "| exit code | meaning |"
    yield "|---|---|"
    for code, meaning in MEANINGS.items():
        yield f"| {int(code)} | {meaning} |"


def reports() -> dict[str, Report]:
    """Results of ``model.evaluation.evaluate`` by encoder, the most accurate first."""
    found = {
        path.stem: Report.model_validate_json(path.read_text()) for path in sorted(RESULTS.glob("encoders/*.json"))
    }

    def rate(item: tuple[str, Report]) -> float:
        heldout = item[1].heldout
        return heldout.tar["1e-03"].value if heldout else 0.0

    return dict(sorted(found.items(), key=rate, reverse=True))


def _of_calibration(name: str, make: Callable[..., Iterator[str]]) -> Table:
    def table() -> Iterator[str]:
        directory = DEFAULT_WEIGHTS / name
        yield from make(load_calibration(directory, load_weights(directory).sha256))

    return table


def _of_file(path: Path) -> Table:
    def table() -> Iterator[str]:
        yield path.read_text().strip()

    return table


def all_tables() -> dict[str, Table]:
    """All tables, by the name that documents use."""
    found: dict[str, Table] = {
        "settings": settings_table,
        "commands": commands,
        "exit codes": exit_codes,
        "encoders": lambda: iter([markdown_table(reports())]),
        "encoders lfw": lambda: iter([all_pairs_table(reports())]),
        "encoders groups": lambda: iter([groups_table(reports())]),
    }
    for directory in sorted(path.parent for path in DEFAULT_WEIGHTS.glob("*/calibration.json")):
        for make in tables.TABLES:
            found[f"{directory.name} {make.__name__.replace('_', ' ')}"] = _of_calibration(directory.name, make)
    for path in sorted(RESULTS.glob("*.md")):
        found[path.name] = _of_file(path)
    return found


def renewed(document: str, known: dict[str, Table]) -> str:
    """The document with its generated tables up to date. Raises KeyError for an unknown name."""

    def replace(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        return begin + "\n".join(known[name]()) + "\n" + end

    return MARK.sub(replace, document)


def main(
    check: Annotated[bool, typer.Option("--check", help="only say which documents are out of date")] = False,
) -> None:
    """Writes the tables of README.md, docs and the model card."""
    known, stale = all_tables(), []
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), DEFAULT_WEIGHTS / "MODEL_CARD.md"]:
        before = path.read_text()
        after = renewed(before, known)
        if after != before:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(after)
    if stale:
        typer.echo(f"{'out of date' if check else 'written'}: {', '.join(stale)}")
    if stale and check:
        raise typer.Exit(code=1)


if __name__ == "__main__":
    typer.run(main)
