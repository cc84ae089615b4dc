"""What ``model.data.prepare folder`` left out, and why: a CSV of everything, and contact sheets to look through."""

from __future__ import annotations

import base64
import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from jinja2 import Environment
from PIL import Image, ImageOps

CSV_FILE = "left-out.csv"
SHEET_FILE = "left-out.html"
SHOWN = 60
"""Pictures a reason on the contact sheet; the CSV lists all."""
THUMBNAIL = 140


class Reason(StrEnum):
    """Why a photograph is not used; the values are stable."""

    UNREADABLE = "unreadable"
    NO_FACE = "no face"
    SEVERAL_FACES = "several faces"
    TOO_SMALL = "face too small"
    DUPLICATE = "duplicate"
    TWO_NAMES = "one photograph under two names"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A photograph that is not used: ``path`` within the folder, a reason, and what exactly."""

    path: Path
    reason: Reason
    detail: str


PAGE = Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Left out of {{ folder }}</title>
<style>body{font:14px/1.4 sans-serif;margin:2em}figure{display:inline-block;width:150px;margin:4px;vertical-align:top}
img,i{display:block;width:140px;height:140px;object-fit:contain;background:#ddd}
figcaption{font-size:11px;overflow-wrap:anywhere}</style>
<h1>Left out: {{ count }} of {{ total }} photographs of {{ folder }}</h1>
{% for reason, number, shown in sections %}<h2>{{ reason }}: {{ number }}</h2>
{% if number > shown|length %}<p>The first {{ shown|length }}; {{ csv }} lists all.</p>{% endif %}
{% for entry, picture in shown %}<figure>{% if picture %}<img alt="" src="data:image/jpeg;base64,{{ picture }}">
{% else %}<i></i>{% endif %}<figcaption><b>{{ entry.path }}</b><br>{{ entry.detail }}</figcaption></figure>
{% endfor %}{% endfor %}</html>
""")


def write_left_out(out: Path, folder: Path, entries: Sequence[LeftOut], total: int) -> None:
    """Writes ``left-out.csv`` and ``left-out.html``: of so many photographs in ``folder``, the ones left out."""
    with (out / CSV_FILE).open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(("photograph", "reason", "detail"))
        writer.writerows((entry.path, entry.reason, entry.detail) for entry in entries)
    counts = Counter(entry.reason for entry in entries)
    sections = []
    for reason in Reason:
        shown = [entry for entry in entries if entry.reason is reason][:SHOWN]
        if shown:
            sections.append((reason, counts[reason], [(entry, _thumbnail(folder / entry.path)) for entry in shown]))
    page = PAGE.render(folder=folder.name, count=len(entries), total=total, sections=sections, csv=CSV_FILE)
    (out / SHEET_FILE).write_text(page, encoding="utf-8", errors="xmlcharrefreplace")


def _thumbnail(path: Path) -> str:
    """A small JPEG in base64; empty where the file is no picture."""
    try:
        with Image.open(path) as image:
            # Of a JPEG no more is decoded than is shown.
            image.draft("RGB", (THUMBNAIL, THUMBNAIL))
            small = ImageOps.exif_transpose(image).convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return base64.b64encode(out.getvalue()).decode()
