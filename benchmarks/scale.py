"""The gallery in PostgreSQL at size, and several replicas while processes are killed.

    python -m benchmarks.scale search --subjects 100000
    python -m benchmarks.scale kills --seconds 60

The subjects of ``search`` are spread by noise around the centroids of real faces that the crowding is computed with:
where faces crowd, these do. The embedded gallery, the exact and the indexed search of PostgreSQL take turns with the
same probes, so that a busy moment of the machine affects all; compare the ratios.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import matplotlib.cbook
import numpy as np
import psycopg
import skimage.data
import typer
from PIL import Image

from app.crowding import COHORT_FILE, Cohort, read_cohort
from app.embeddings import Vectors
from app.gallery import Candidate, NewTemplate, SqliteGallery
from app.gallery.postgres.gallery import PostgresGallery
from app.gallery.postgres.templates import compared
from app.gallery.sqlite import queries
from app.gallery.sqlite.database import DATABASE_NAME, Database
from app.gallery.sqlite.digests import template_digest
from app.gallery.sqlite.templates import insert_templates
from app.settings import EncodingSettings
from benchmarks.postgres_server import ON_DISK, PostgresServer
from benchmarks.replicas import Load, both, fail_over, running, with_standby

DIGEST = "sha256:" + "0" * 64
TOP_K = 5
BETWEEN, WITHIN = 0.8, 0.45
"""Length of the noise between a centroid and a subject, and between a subject and a probe of it."""

commands = typer.Typer(no_args_is_help=True)


def spread(random: np.random.Generator, centres: Vectors, noise: float) -> Vectors:
    """Unit vectors around the given ones, float32 [N, 128]."""
    moved = centres + noise * random.standard_normal(centres.shape) / np.sqrt(centres.shape[1])
    scattered: Vectors = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    return scattered


def fill_postgres(server: PostgresServer, vectors: Vectors, cohort: Cohort) -> float:
    """Stores a subject for each vector, then builds the index; the seconds that took."""
    PostgresGallery(server.url(), encoder_digest=DIGEST, crowding=cohort).close()
    now, count = datetime.now(UTC), len(vectors)
    with psycopg.connect(server.url(), options="-c search_path=tessera,public", autocommit=True) as connection:
        connection.execute("DROP INDEX subjects_mean")
        with connection.cursor() as cursor:
            columns = "collection, key, id, metadata, created_at, updated_at, fused, crowding, mean"
            with cursor.copy(f"COPY subjects ({columns}) FROM STDIN".encode()) as copy:
                for number, vector in enumerate(vectors):
                    found = compared(vector[np.newaxis], cohort)
                    row = (1, number, f"s{number}", "{}", now, now, found.fused, found.crowding, found.mean)
                    copy.write_row(row)
            with cursor.copy(
                b"COPY templates (id, collection, subject, encoder, embedding, norm, digest, created_at) FROM STDIN"
            ) as copy:
                for number, vector in enumerate(vectors):
                    name, subject, data = f"t{number}", f"s{number}", vector.tobytes()
                    digest = template_digest(name, subject, "default", DIGEST, data, 10.0)
                    copy.write_row((name, 1, number, 1, data, 10.0, digest, now))
        connection.execute("INSERT INTO sizes VALUES (1, 0, 1, %s, %s)", (count, count))
        connection.execute("ANALYZE")
        connection.execute("SET maintenance_work_mem = '1GB'")
        began = time.perf_counter()
        connection.execute(
            "CREATE INDEX subjects_mean ON subjects USING hnsw (mean halfvec_ip_ops) "
            "WITH (m = 16, ef_construction = 100)"
        )
        return time.perf_counter() - began


def fill_embedded(directory: Path, vectors: Vectors, cohort: Cohort) -> None:
    """The same subjects in a data directory."""
    SqliteGallery(directory, encoder_digest=DIGEST, crowding=cohort).close()
    now = datetime.now(UTC)
    with closing(Database(directory / DATABASE_NAME)) as database, database.writing() as connection:
        collection = queries.collection_key(connection, "default")
        encoder = queries.bind_encoder(connection, directory, DIGEST)
        for number, vector in enumerate(vectors):
            subject = queries.insert_subject(connection, collection, f"s{number}", "{}", now)
            insert_templates(connection, subject, [NewTemplate(f"t{number}", vector, 10.0)], encoder, now)
        database.commit()


def sizes(server: PostgresServer) -> dict[str, int]:
    """Bytes on disk, by what they are for."""
    query = """
        SELECT CASE WHEN i.relname LIKE '%mean%' THEN 'vector index' WHEN t.relname LIKE 'subjects%' THEN 'subjects'
               ELSE t.relname END, SUM(pg_relation_size(i.oid))::bigint
        FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace AND n.nspname = 'tessera'
        JOIN LATERAL (SELECT t.oid, t.relname UNION SELECT indexrelid, indexrelid::regclass::text FROM pg_index
                      WHERE indrelid = t.oid) i ON TRUE
        WHERE t.relkind = 'r' GROUP BY 1 HAVING SUM(pg_relation_size(i.oid)) > 1000000 ORDER BY 2 DESC
    """
    return {str(name): int(str(size)) for name, size in server.execute(query)}


@commands.command()
def search(
    subjects: Annotated[int, typer.Option(help="how many are enrolled", min=1000)] = 100_000,
    probes: Annotated[int, typer.Option(help="how many searches of each gallery", min=10)] = 200,
) -> None:
    """Latency and recall of searches, time to build the index, bytes on disk."""
    random = np.random.default_rng(0)
    cohort = read_cohort(EncodingSettings().directory / COHORT_FILE)
    centres = cohort.centroids[random.integers(len(cohort.centroids), size=subjects)]
    vectors = spread(random, centres, BETWEEN)
    asked = spread(random, vectors[random.integers(subjects, size=probes)], WITHIN)
    with PostgresServer({"shared_buffers": "2GB"}, on=ON_DISK) as server, tempfile.TemporaryDirectory() as folder:
        seconds = fill_postgres(server, vectors, cohort)
        typer.echo(f"{subjects} subjects, {len(cohort.centroids)} centroids; index built in {seconds:.0f} s")
        for name, size in sizes(server).items():
            typer.echo(f"{name}: {size / subjects * 1e6 / 2**30:.2f} GiB per million")
        fill_embedded(Path(folder), vectors, cohort)
        with (
            closing(SqliteGallery(Path(folder), encoder_digest=DIGEST, crowding=cohort)) as embedded,
            closing(PostgresGallery(server.url(), encoder_digest=DIGEST, crowding=cohort, exact_up_to=2**60)) as exact,
            closing(PostgresGallery(server.url(), encoder_digest=DIGEST, crowding=cohort, exact_up_to=0)) as indexed,
        ):
            compare({"embedded": embedded, "PostgreSQL, exact": exact, "PostgreSQL, index": indexed}, asked)


def compare(galleries: dict[str, SqliteGallery | PostgresGallery], asked: Vectors) -> None:
    """Prints a table; recall is against the first gallery, which compares all."""
    times: dict[str, list[float]] = {name: [] for name in galleries}
    answers: dict[str, list[list[Candidate]]] = {name: [] for name in galleries}
    for probe in asked:
        for name, gallery in galleries.items():
            began = time.perf_counter()
            answers[name].append(gallery.search("default", probe, TOP_K))
            times[name].append(1000 * (time.perf_counter() - began))
    truth = next(iter(answers.values()))
    typer.echo(
        "| gallery | median, ms | 95th percentile, ms | first is the same | of the first five | distances differ by |"
    )
    typer.echo("|---|---|---|---|---|---|")
    for name, found in answers.items():
        first = statistics.mean(a[0].subject_id == b[0].subject_id for a, b in zip(found, truth, strict=True))
        apart = max(abs(a[0].distance - b[0].distance) for a, b in zip(found, truth, strict=True))
        five = statistics.mean(
            len({c.subject_id for c in a} & {c.subject_id for c in b}) / TOP_K
            for a, b in zip(found, truth, strict=True)
        )
        ordered = sorted(times[name][5:])
        typer.echo(
            f"| {name} | {statistics.median(ordered):.1f} | {ordered[int(0.95 * len(ordered))]:.1f} | {first:.4f} | "
            f"{five:.4f} | {apart:.1e} |"
        )


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
