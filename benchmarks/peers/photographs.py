"""The pairs of photographs to compare, and the forms that send them.

The first mated pairs of LFW's View 2, 250x250, unchanged. For 640x480, the size of a webcam image, each is enlarged to
480x480 and centred between its own mirrored edges.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from model.evaluation.protocols import LfwPairs

CANDIDATES = 8
WIDTH, HEIGHT = 640, 480
QUALITY = 90

Pair = tuple[bytes, bytes]


def mated_pairs(lfw: LfwPairs) -> list[Pair]:
    """The first mated pairs of View 2."""
    mated = [names for names, same in zip(lfw.names, lfw.mated, strict=True) if same]
    return [(lfw.photographs[a], lfw.photographs[b]) for a, b in mated[:CANDIDATES]]


def webcam(photograph: bytes) -> bytes:
    """A square photograph as a JPEG of 640x480."""
    square = Image.open(io.BytesIO(photograph)).convert("RGB").resize((HEIGHT, HEIGHT), Image.Resampling.BICUBIC)
    picture, edge = Image.new("RGB", (WIDTH, HEIGHT)), (WIDTH - HEIGHT) // 2
    mirrored = ImageOps.mirror(square)
    picture.paste(mirrored, (edge - HEIGHT, 0))
    picture.paste(mirrored, (edge + HEIGHT, 0))
    picture.paste(square, (edge, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def write_forms(
    directory: Path, name: str, fields: tuple[str, ...], photographs: Sequence[tuple[bytes, ...]], **texts: str
) -> Path:
    """Writes photographs and the ``load.py`` forms that send them; returns the path of the forms.

    Each form has a photograph for each of ``fields``, and the ``texts``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    forms = []
    for number, sent in enumerate(photographs):
        form = dict(texts)
        for field, photograph in zip(fields, sent, strict=True):
            path = directory.resolve() / f"{name}-{number}-{field}.jpg"
            path.write_bytes(photograph)
            form[field] = f"@{path}"
        forms.append(form)
    target = directory / f"{name}-{'-'.join(fields)}.json"
    target.write_text(json.dumps(forms), encoding="utf-8")
    return target
