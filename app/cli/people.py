"""Whom to enrol with which photographs: a folder of folders, or a CSV file."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from app.api.request_parsing import read_metadata
from app.api.schemas import ID_PATTERN
from app.cli.refusals import Refusal, Refusals

COLUMNS = {"subject_id", "path", "metadata"}
MOST_PHOTOGRAPHS = 5_000_000


@dataclass(frozen=True, slots=True)
class Photograph:
    """A file that shows a subject, and what to keep with the subject."""

    subject_id: str
    path: Path
    metadata: dict[str, Any] | None = None


def photographs_by_subject(source: Path, refusals: Refusals, most_metadata: int) -> list[list[Photograph]]:
    """The photographs of each subject, in order; what cannot be one is among the refusals.

    Raises typer.BadParameter if the source is neither a folder nor such a CSV file, OSError.
    """
    found = _in_folders(source) if source.is_dir() else _in_table(source, most_metadata)
    by_subject: dict[str, list[Photograph]] = {}
    for count, item in enumerate(found, start=1):
        if count > MOST_PHOTOGRAPHS:
            raise typer.BadParameter(f"{source} names more than {MOST_PHOTOGRAPHS} photographs; give it in parts")
        if isinstance(item, Refusal):
            refusals.add(item)
        elif re.fullmatch(ID_PATTERN, item.subject_id) is None:
            detail = "An id has up to 128 letters, digits and . _ @ : + ~ -, and begins with a letter or a digit."
            refusals.add(Refusal(item.subject_id, item.path, "invalid_subject_id", detail))
        else:
            by_subject.setdefault(item.subject_id, []).append(item)
    return list(by_subject.values())


def _in_folders(folder: Path) -> Iterator[Photograph | Refusal]:
    for person in _shown(folder):
        if not person.is_dir():
            yield Refusal("", person, "no_subject", "It is in no folder of a person, so it is unknown whom it shows.")
            continue
        for path in _shown(person):
            if path.is_dir():
                yield Refusal(person.name, path, "folder", "It is a folder within a person's folder; it was not read.")
            else:
                yield Photograph(person.name, path)


def _shown(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _in_table(source: Path, most_metadata: int) -> Iterator[Photograph | Refusal]:
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            names = set(rows.fieldnames or ())
            if not {"subject_id", "path"} <= names <= COLUMNS:
                raise typer.BadParameter(
                    f"the first line of {source} names its columns: subject_id, path and, if there is any, metadata; "
                    f"not {', '.join(sorted(names)) or 'nothing'}"
                )
            for row in rows:
                yield _of_row(source, rows.line_num, row, most_metadata)
    except (csv.Error, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{source} is not a CSV file in UTF-8: {error}") from error


def _of_row(source: Path, line: int, row: dict[str | Any, Any], most_metadata: int) -> Photograph | Refusal:
    subject, named = row["subject_id"], row["path"]
    if None in row or not subject or not named:
        return Refusal(subject or "", source, "invalid_row", f"Line {line} does not have a value for each column.")
    if "\0" in named:
        return Refusal(subject, source, "invalid_row", f"Line {line} has a NUL in its path, as no file's name has.")
    path, text = source.parent / named, row.get("metadata")
    if not text:
        return Photograph(subject, path)
    try:
        return Photograph(subject, path, read_metadata(text.encode(), most_metadata))
    except ValueError as error:
        detail = f"Metadata is a JSON object of at most {most_metadata} bytes: {error}."
        return Refusal(subject, path, "invalid_metadata", detail)
