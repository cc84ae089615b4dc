"""The gallery in PostgreSQL at size, and several replicas while processes are killed.

    python -m benchmarks.scale search --subjects 100000
    python -m benchmarks.scale search --subjects 1000000 --spread uniform
    python -m benchmarks.scale throughput --replicas 1,2,3
    python -m benchmarks.scale kills --seconds 60

The subjects of ``search`` are spread by noise around the centroids of real faces that the crowding is computed with:
where faces crowd, these do; or evenly. The embedded gallery, the exact and the indexed search of PostgreSQL take turns
with the same probes, so that a busy moment of the machine affects all; compare the ratios.

``throughput`` sends photographs over HTTP to one, two and three replicas. Clients, replicas and PostgreSQL share the
machine: where no processor is idle, more replicas cannot answer more, and the columns say who has the processors.
"""

from __future__ import annotations

import io
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import matplotlib.cbook
import numpy as np
import skimage.data
import typer
from PIL import Image

from app.crowding import COHORT_FILE, read_cohort
from app.encoding import load_weights
from app.gallery import SqliteGallery
from app.gallery.postgres.gallery import PostgresGallery
from app.gallery.postgres.search import BREADTH, IndexUse
from app.settings import EncodingSettings
from benchmarks.postgres_server import ON_DISK, PostgresServer
from benchmarks.processes import cpu_seconds, memory_bytes
from benchmarks.replicas import Load, both, fail_over, running, with_standby
from benchmarks.scale_fill import (
    build_index,
    erase,
    fill_embedded,
    fill_postgres,
    rebuild_index,
    store_subjects,
    vacuum,
)
from benchmarks.scale_search import (
    Searched,
    Spread,
    Step,
    costs_table,
    enrolment_milliseconds,
    in_turn,
    made_up,
    photographs_of,
    relation_bytes,
    searches_table,
)
from benchmarks.tables import ResultsOption, show
from benchmarks.throughput import HEADER, enrol, loads

DIGEST = "sha256:" + "0" * 64
SHARED_BUFFERS = "2GB"
ENROLLED_LATER = 300
PROGRESS_SECONDS = 30.0
PROGRESS = """
    SELECT phase, tuples_done || ' subjects' FROM pg_stat_progress_create_index UNION ALL
    SELECT 'VACUUM is ' || phase, heap_blks_scanned || ' blocks' FROM pg_stat_progress_vacuum
"""

commands = typer.Typer(no_args_is_help=True)


@commands.command()
def search(
    subjects: Annotated[int, typer.Option(help="how many are enrolled", min=1000, max=9_000_000)] = 100_000,
    probes: Annotated[int, typer.Option(help="searches of the embedded gallery and by the index", min=20)] = 3000,
    exact_probes: Annotated[int, typer.Option(help="of these, one by one in PostgreSQL", min=20)] = 50,
    breadth: Annotated[
        list[int] | None, typer.Option(help="candidates that the index keeps; may be repeated", min=1, max=1000)
    ] = None,
    spread: Annotated[Spread, typer.Option(help="where subjects lie")] = Spread.CENTROIDS,
    erased: Annotated[float, typer.Option(help="share that is erased in the end; 0: none", min=0, max=0.5)] = 0.1,
    reindex: Annotated[bool, typer.Option("--reindex", help="build the index anew before VACUUM")] = False,
    results: ResultsOption = None,
) -> None:
    """Latency and recall of searches, time to build the index, disk and memory, time of VACUUM after erasures."""
    random = np.random.default_rng(0)
    cohort = read_cohort(EncodingSettings().directory / COHORT_FILE)
    vectors = made_up(random, subjects, spread, cohort)
    asked = photographs_of(random, vectors, probes)
    settings = {"shared_buffers": SHARED_BUFFERS, "max_wal_size": "16GB", "autovacuum": "off"}
    with PostgresServer(settings, on=ON_DISK) as server, tempfile.TemporaryDirectory() as folder:
        work = Work(server)
        work.step("storing", partial(store_subjects, server.url(), vectors, cohort, DIGEST))
        work.step("building the vector index", partial(build_index, server.url()))
        disk = relation_bytes(server)
        fill_embedded(Path(folder), vectors, cohort, DIGEST)
        work.report("the embedded gallery has the same")
        with (
            closing(SqliteGallery(Path(folder), encoder_digest=DIGEST, crowding=cohort)) as embedded,
            closing(
                PostgresGallery(server.url(), encoder_digest=DIGEST, crowding=cohort, index=IndexUse(2**60))
            ) as exact,
            ExitStack() as opened,
        ):
            galleries: dict[str, tuple[Searched, int]] = {
                "embedded": (embedded, probes),
                "PostgreSQL, one by one": (exact, exact_probes),
            }
            for kept in breadth or [BREADTH]:
                use = IndexUse(0, kept)
                indexed = PostgresGallery(server.url(), encoder_digest=DIGEST, crowding=cohort, index=use)
                galleries[f"PostgreSQL, index, breadth {kept}"] = opened.enter_context(closing(indexed)), probes
            found = in_turn(galleries, asked)
            memory = memory_bytes(server.pid)
            later = made_up(random, ENROLLED_LATER, spread, cohort)
            enrolling = {
                "embedded": enrolment_milliseconds(embedded, later),
                "PostgreSQL": enrolment_milliseconds(exact, later),
            }
        work.report(f"{probes} searches, {ENROLLED_LATER} enrolments")
        if erased:
            work.step(f"erasing {erased:.0%}", partial(erase, server.url(), erased))
            if reindex:
                work.step("REINDEX", partial(rebuild_index, server.url()))
            work.step(f"VACUUM after erasing {erased:.0%}", partial(vacuum, server.url()))
    lines = [*searches_table(found), "", *costs_table(subjects, disk, memory, enrolling, work.steps)]
    show(lines, f"scale-search-{spread}-{subjects}", results)


class Work:
    """What a server is made to do, with its times; progress goes to standard error."""

    def __init__(self, server: PostgresServer) -> None:
        self._server, self._began = server, time.monotonic()
        self.steps: list[Step] = []

    def report(self, done: str) -> None:
        """Says what has been done by now."""
        typer.echo(f"{time.monotonic() - self._began:6.0f} s: {done}", err=True)

    def step(self, name: str, do: Callable[[], object]) -> None:
        """Does something and notes what it took."""
        began, used = time.monotonic(), cpu_seconds([self._server.pid])
        with self._following():
            do()
        taken = Step(name, time.monotonic() - began, cpu_seconds([self._server.pid]) - used)
        self.steps.append(taken)
        self.report(f"{name} took {taken.seconds:.0f} s, {taken.processor:.0f} s of processor time")

    @contextmanager
    def _following(self) -> Iterator[None]:
        """Reports twice a minute how far it is."""
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(PROGRESS_SECONDS):
                for phase, done in self._server.execute(PROGRESS):
                    self.report(f"{phase}: {done}")

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@commands.command()
def throughput(
    replicas: Annotated[
        str, typer.Option(help="how many processes of the service, one number after the other")
    ] = "1,2,3",
    clients: Annotated[int, typer.Option(help="requests under way at once", min=1)] = 8,
    seconds: Annotated[int, typer.Option(help="of each load", min=1, max=500)] = 60,
    subjects: Annotated[int, typer.Option(help="how many are enrolled", min=1000, max=9_000_000)] = 20_000,
    results: ResultsOption = None,
) -> None:
    """Answers a second of /identify and /verify of several replicas, and whose processor time that takes."""
    counts = [int(count) for count in replicas.split(",")]
    directory = EncodingSettings().directory
    encoder, cohort = load_weights(directory).sha256, read_cohort(directory / COHORT_FILE)
    # One of them is enrolled by the service.
    vectors = made_up(np.random.default_rng(0), subjects - 1, Spread.UNIFORM, cohort)
    lines = [HEADER, re.sub(r"[^|]+", "---", HEADER)]
    with (
        PostgresServer({"shared_buffers": SHARED_BUFFERS}, on=ON_DISK) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        fill_postgres(server.uri(), vectors, cohort, encoder)
        photograph = Path(folder) / "face.jpg"
        photograph.write_bytes(photographs()[0])
        # The database remembers the secret that its keys were begun with.
        secret = Path(folder) / "secret.key"
        secret.write_text(secrets.token_hex(32))
        # Any of them may use all cores, as a service does unless it is told otherwise.
        variables = {
            "TESSERA_SECURITY__SECRET_FILE": str(secret),
            "TESSERA_ENCODING__THREADS": "0",
            # Of one subject at most five verifications may be under way.
            "TESSERA_SECURITY__LOCKOUT": "false",
        }
        for count in counts:
            with running(count, server.uri(), **variables) as processes:
                enrol(processes[0], photograph)
                for measured in loads(processes, server.pid, photograph, clients, seconds):
                    lines.append(measured.row())
                    typer.echo(lines[-1], err=True)
    show(lines, "scale-throughput", results)


def photographs() -> list[bytes]:
    """Two people who come with scikit-image and matplotlib, as JPEG."""
    hopper = Path(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    out = []
    astronaut = Image.fromarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    for image in (astronaut, Image.open(hopper).convert("RGB")):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        out.append(file.getvalue())
    return out


@commands.command()
def kills(
    seconds: Annotated[int, typer.Option(help="between one kill and the next", min=1)] = 15,
    replicas: Annotated[int, typer.Option(help="processes of the service", min=2)] = 3,
) -> None:
    """Enrols and identifies at all replicas while one of them, and then the primary, is killed."""
    with (
        PostgresServer(on=ON_DISK) as primary,
        with_standby(primary, ON_DISK) as standby,
        running(replicas, both(primary, standby)) as processes,
    ):

        def until() -> None:
            steps: tuple[Callable[[], None], ...] = (
                processes[0].kill,
                processes[0].start,
                lambda: fail_over(primary, standby),
                lambda: None,
            )
            for step in steps:
                time.sleep(seconds)
                step()

        outcome = Load([p.url for p in processes], photographs()).run(4, until)
    typer.echo(
        f"{len(outcome.acknowledged)} enrolments acknowledged, {outcome.retried} attempts repeated, longest "
        f"{outcome.longest_wait:.1f} s; {outcome.checked} answers of others looked at, {len(outcome.wrong)} wrong"
    )
    for line in outcome.wrong:
        typer.echo(line)
    raise typer.Exit(code=bool(outcome.wrong))


if __name__ == "__main__":
    commands()
