"""Mutated files through the decoder, for as long as you like: it may raise nothing but what it says, and must end.

    python -m benchmarks.fuzz_decoder --minutes 10

The seeds are small valid photographs and every attack of ``tests.app.faces.attacks``. A file that raises anything else,
or takes longer than ``--seconds``, is written to ``--out``, and the command fails. ``--seed`` repeats a run.
"""

from __future__ import annotations

import random
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from app.faces import DecodeLimits, PhotographError, decode
from app.faces.containers import sniff
from tests.app.faces import attacks
from tests.app.faces.conftest import encode

LIMITS = DecodeLimits(max_pixels=4_000_000)


def seeds() -> list[bytes]:
    """Valid files of every format and variant, and the attacks."""
    image = Image.effect_noise((96, 64), 60).convert("RGB")
    see_through = image.convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(image.size))
    return [
        encode(image, "JPEG"),
        encode(image, "JPEG", progressive=True, subsampling=0),
        encode(image, "JPEG", restart_marker_blocks=2),
        encode(image.convert("CMYK"), "JPEG"),
        encode(image.convert("L"), "JPEG"),
        encode(image, "MPO", save_all=True, append_images=[image]),
        encode(image, "PNG"),
        encode(image.quantize(16), "PNG", transparency=3),
        encode(image.convert("LA"), "PNG"),
        encode(image, "WEBP"),
        encode(image, "WEBP", lossless=True),
        encode(image, "WEBP", save_all=True, append_images=[image.rotate(90)]),
        encode(image, "AVIF"),
        encode(image, "AVIF", subsampling="4:4:4", tile_rows=1, tile_cols=1),
        encode(image.convert("L"), "AVIF"),
        encode(see_through, "AVIF"),
        *(make() for make in attacks.SMALL.values()),
    ]


def outcome_of(data: bytes) -> str:
    """``decoded`` or the code of the error. Raises whatever else the decoder does."""
    try:
        decode(data, LIMITS)
    except PhotographError as error:
        return error.code
    return "decoded"


def main(
    minutes: Annotated[float, typer.Option(help="how long", min=0)] = 1.0,
    seconds: Annotated[float, typer.Option(help="longest time for one file", min=0)] = 5.0,
    only: Annotated[str, typer.Option(help="a format, as JPEG or AVIF; all by default")] = "",
    seed: Annotated[int, typer.Option(help="of the mutations")] = 0,
    out: Annotated[Path, typer.Option(help="where files that fail go")] = Path("runs/fuzz"),
) -> None:
    """Prints how many files were decoded or refused, by reason."""
    warnings.simplefilter("ignore")
    rng, files, outcomes, failures, slowest = random.Random(seed), seeds(), Counter[str](), 0, 0.0
    files = [file for file in files if only in ("", sniff(file))]
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        data = rng.choice((attacks.mutated, attacks.damaged))(rng.choice(files), rng)
        start = time.monotonic()
        try:
            outcome = outcome_of(data)
        except Exception as error:  # that is what is looked for
            outcome = type(error).__name__
            failed = True
        else:
            failed = time.monotonic() - start > seconds
        slowest = max(slowest, time.monotonic() - start)
        outcomes[outcome] += 1
        if failed:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{failures}-{outcome}").write_bytes(data)
            failures += 1
    for outcome, count in outcomes.most_common():
        typer.echo(f"{count:10} {outcome}")
    typer.echo(f"{outcomes.total():10} files, the slowest took {slowest:.2f} s; {failures} failed")
    if failures:
        raise typer.Exit(code=1)


if __name__ == "__main__":
    typer.run(main)
