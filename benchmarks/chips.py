"""What keeping chips costs: time of an enrolment with and without, size of a chip, time to change the encoder.

    python -m benchmarks.chips

Enrolments into two collections of one encrypted gallery alternate, one at a time and without HTTP, so that both meet
the same machine. Photographs are of LFW where it is at hand, otherwise two that come with the test dependencies.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from app.composition import build_encoder, build_finder, build_service, open_vault
from app.encoding import load_weights
from app.errors import TesseraError
from app.faces import FacePolicy
from app.gallery import Targets
from app.gallery.sqlite.chips import pack
from app.gallery.sqlite.database import DATABASE_NAME
from app.gallery.sqlite.reenrolment import reenrolling
from app.recognition.reenrolment import ChipEncoder
from app.recognition.results import EnrolmentRequest
from app.settings import DEFAULT_WEIGHTS, EncodingSettings, FacesSettings, GallerySettings, Settings
from tests.app.photographs import collins, hopper, jpeg, lfw_people

KEPT, OTHER = "kept", "default"


def _settings(folder: Path, encoder: str) -> Settings:
    key = folder / "master.key"
    key.write_text("5a" * 32)
    gallery = GallerySettings(data_dir=folder / "data", master_key_file=key)
    return Settings(
        encoding=EncodingSettings(encoder=encoder), gallery=gallery, faces=FacesSettings(enforce_quality=False)
    )


def _enrol(settings: Settings, photographs: list[bytes]) -> dict[str, list[float]]:
    """Milliseconds of each enrolment, by collection."""
    taken: dict[str, list[float]] = {KEPT: [], OTHER: []}
    service = build_service(settings)
    try:
        service.gallery.create_collection(KEPT, Targets(), keep_chips=True)
        for number, photograph in enumerate(photographs):
            for collection in (KEPT, OTHER) if number % 2 else (OTHER, KEPT):
                request = EnrolmentRequest([photograph], f"s{number}", collection, face_policy=FacePolicy.LARGEST)
                start = time.perf_counter()
                service.enroll(request)
                taken[collection].append(1e3 * (time.perf_counter() - start))
    finally:
        service.close()
    return taken


def _sizes(settings: Settings, photographs: list[bytes]) -> list[int]:
    finder, sizes = build_finder(settings), []
    for photograph in photographs:
        try:
            sizes.append(len(pack(finder.find(photograph, FacePolicy.LARGEST).faces[0].chip)))
        except TesseraError:
            continue
    return sizes


def _change(settings: Settings, to: str) -> tuple[int, float]:
    """How many templates, and the seconds that they took once the encoder was loaded."""
    weights = load_weights(DEFAULT_WEIGHTS / to)
    with closing(open_vault(settings)) as keys, ChipEncoder(build_encoder(settings, weights)) as encode:  # type: ignore[type-var]
        start = time.perf_counter()
        with reenrolling(settings.gallery.data_dir, keys) as work:
            work.run(weights.sha256, encode, datetime.now(UTC), leave_out=True, progress=lambda *_: None)
            return work.with_chip, time.perf_counter() - start


def main(
    people: Annotated[int, typer.Option(help="how many people to enrol")] = 200,
    encoder: Annotated[str, typer.Option(help="which one enrols")] = "tessera-l",
    to: Annotated[str, typer.Option(help="which one is changed to")] = "tessera-m",
) -> None:
    """Prints the numbers of docs/operate.md."""
    pictures = [images[0] for images in lfw_people(people).values()] or [jpeg(collins()), jpeg(hopper())]
    photographs = (pictures * people)[:people]
    with tempfile.TemporaryDirectory() as place:
        settings = _settings(Path(place), encoder)
        taken = _enrol(settings, photographs)
        size = (settings.gallery.data_dir / DATABASE_NAME).stat().st_size
        sizes = _sizes(settings, pictures)
        templates, seconds = _change(settings, to)
    with_chips, without = (statistics.median(taken[name]) for name in (KEPT, OTHER))
    more = statistics.median(a - b for a, b in zip(taken[KEPT], taken[OTHER], strict=True))
    print(f"{people} people, {len(pictures)} photographs, {encoder}")
    print(f"enrolment: {without:.1f} ms without chips, {with_chips:.1f} ms with (median); {more:.1f} ms more")
    print(f"chip: {statistics.mean(sizes) / 1e3:.1f} kB mean, {max(sizes) / 1e3:.1f} kB most")
    print(f"database: {size / people / 1e3:.1f} kB a person")
    print(f"change to {to}: {templates} templates in {seconds:.1f} s")


if __name__ == "__main__":
    typer.run(main)
