"""What is left of an erased template in the files of the server."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import psycopg
import pytest

from app.embeddings import Embedding
from app.gallery.postgres.gallery import PostgresGallery, unavailable
from app.gallery.sqlite.migration import shipped_scripts
from app.postgres import Postgres
from app.security.postgres import PostgresSecurityStore
from benchmarks.postgres_server import IN_MEMORY, PostgresServer, programs
from tests.app.gallery.contract import near, random_embedding, template
from tests.app.gallery.sqlite.support import DIGEST
from tests.shared_data import ROOT

pytestmark = pytest.mark.slow

SCRIPT = ROOT / "deploy" / "postgres" / "after-erasures.sql"
RIGHTS = re.findall(r"^--   ((?:ALTER|GRANT) .*);$", SCRIPT.read_text(), re.MULTILINE)
"""What the script says that a role needs who is no superuser."""
PEOPLE = 30


@contextmanager
def owned(server: PostgresServer) -> Iterator[str]:
    """The URL of a database for a role that is no superuser; the extension is there."""
    for statement in ("CREATE ROLE tessera LOGIN", "CREATE DATABASE tessera"):
        server.execute(statement)
    server.execute("CREATE EXTENSION vector", "tessera")
    server.execute("GRANT CREATE ON DATABASE tessera TO tessera")
    yield server.uri("tessera").replace("postgres@", "tessera@")


def run_script(url: str) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [programs() / "psql", url, "--set", "ON_ERROR_STOP=1", "--file", SCRIPT]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def in_tables(server: PostgresServer, *contents: bytes) -> bool:
    """Whether any of these is in a file of a table."""
    server.execute("CHECKPOINT")
    files = [path.read_bytes() for path in (server.directory / "data" / "base").rglob("*") if path.is_file()]
    return any(content in file for content in contents for file in files)


def pieces(embedding: Embedding) -> list[bytes]:
    """Parts of an embedding as templates and means have it: a copy may be cut into blocks."""
    rounded = embedding.astype(np.float16).tobytes()
    return [copy[at : at + 64] for copy in (embedding.tobytes(), rounded) for at in range(0, len(copy), 64)]


def samples(url: str) -> set[tuple[str, str]]:
    """The columns that PostgreSQL has samples of."""
    with psycopg.connect(url) as connection:
        return set(
            connection.execute(
                """
                SELECT regexp_replace(tablename, '_[0-9]+$', ''), attname FROM pg_stats WHERE schemaname = 'tessera'
                AND coalesce(most_common_vals::text, histogram_bounds::text) IS NOT NULL
                """
            ).fetchall()
        )


def enrol(gallery: PostgresGallery, name: str, embedding: Embedding) -> None:
    gallery.enroll("default", name, [template(embedding, f"template-of-{name}")], metadata={"name": f"Name of {name}"})


def test_the_script_leaves_nothing_of_erased_subjects_in_the_tables(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    kept, *erased = (random_embedding(random) for _ in range(PEOPLE))
    with (
        PostgresServer({"autovacuum": "off"}, on=IN_MEMORY) as server,
        owned(server) as url,
        closing(PostgresSecurityStore(url, tmp_path)),
        closing(PostgresGallery(url, encoder_digest=DIGEST)) as gallery,
    ):
        enrol(gallery, "kept", kept)
        for number, embedding in enumerate(erased):
            enrol(gallery, f"erased-{number:03}", embedding)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ANALYZE")
        for number in range(len(erased)):
            gallery.delete_subject("default", f"erased-{number:03}")
        gone = [piece for embedding in erased for piece in pieces(embedding)]
        gone += [b"erased-%03d" % number for number in range(len(erased))]
        assert in_tables(server, *gone)
        assert not samples(url) & PERSONAL
        for right in RIGHTS:
            refused = run_script(url)
            assert (refused.returncode, "may not do all of this" in refused.stderr) == (3, True)
            assert "VACUUM" not in refused.stdout
            server.execute(right, "tessera")
        done = run_script(url)
        assert done.returncode == 0, done.stderr
        assert in_tables(server, kept.tobytes())
        assert not in_tables(server, *gone)
        assert gallery.search("default", near(random, kept), 5)[0].subject_id == "kept"
        gallery.check()


PERSONAL = {
    ("templates", "id"),
    ("templates", "embedding"),
    ("templates", "digest"),
    ("subjects", "metadata"),
    ("subjects", "mean"),
    ("receipts", "key"),
    ("receipts", "fingerprint"),
    ("receipts", "body"),
    ("audits", "content"),
    ("audits", "error"),
    ("audit_findings", "content"),
}


def test_samples_of_before_are_dropped_and_not_taken_again(url: str) -> None:
    scripts = shipped_scripts("app.gallery.postgres")
    random = np.random.default_rng(0)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
    with closing(Postgres(url, unavailable, connections=1)) as database:
        database.migrate("gallery", scripts[:3], lambda _: None)
    with psycopg.connect(url, autocommit=True, options="-c search_path=tessera,public") as connection:
        connection.execute("INSERT INTO encoders (digest) VALUES ('e')")
        connection.execute("INSERT INTO collections (id, created_at) VALUES ('default', now())")
        for number in range(PEOPLE):
            embedding = random_embedding(random)
            connection.execute(
                """
                WITH s AS (
                    INSERT INTO subjects (collection, id, metadata, created_at, updated_at, fused, crowding, mean)
                    VALUES (1, %(id)s, %(id)s, now(), now(), 1, 0, %(mean)s::halfvec) RETURNING key
                ), t AS (
                    INSERT INTO templates (collection, subject, encoder, id, embedding, norm, digest, created_at)
                    SELECT 1, key, 1, %(id)s, %(embedding)s, 1, %(embedding)s, now() FROM s RETURNING key
                ), r AS (
                    INSERT INTO receipts (key, fingerprint, body, collection, subject, created_at)
                    SELECT %(id)s, %(id)s, %(id)s, 1, key, now() FROM s
                ), a AS (
                    INSERT INTO collections (id, created_at) VALUES (%(id)s, now()) RETURNING key
                ), b AS (
                    INSERT INTO audits (collection, status, started_at, content, error)
                    SELECT key, 'done', now(), %(id)s, %(id)s FROM a RETURNING key
                )
                INSERT INTO audit_findings (audit, place, kind, template, content)
                SELECT b.key, 0, 'weak', t.key, %(id)s FROM b, t
                """,
                {"id": f"id-{number}", "mean": str([*embedding.tolist(), 0.0]), "embedding": embedding.tobytes()},
            )
        connection.execute("ANALYZE")
        assert samples(url) >= PERSONAL
        with closing(Postgres(url, unavailable, connections=1)) as database:
            database.migrate("gallery", scripts, lambda _: None)
        assert not samples(url) & PERSONAL
        connection.execute("ANALYZE")
        assert not samples(url) & PERSONAL
        assert ("subjects", "id") in samples(url)
        (index,) = connection.execute("SELECT pg_get_indexdef('subjects_mean'::regclass)").fetchone() or ("",)
        assert "m='32', ef_construction='400'" in index


def test_the_document_names_the_same_rights_as_the_script() -> None:
    text = (ROOT / "docs" / "scale.md").read_text()
    assert len(RIGHTS) == 3
    assert all(f"{right};" in text for right in RIGHTS)


def test_the_script_names_every_table_with_data_of_people(tmp_path: Path) -> None:
    named = set(re.findall(r"^VACUUM .* (\w+);$", SCRIPT.read_text(), re.MULTILINE))
    with PostgresServer(on=IN_MEMORY) as server:
        PostgresGallery(server.uri(), encoder_digest=DIGEST).close()
        PostgresSecurityStore(server.uri(), tmp_path).close()
        rows = server.execute(
            "SELECT DISTINCT table_name FROM information_schema.columns WHERE table_schema = 'tessera' "
            "AND column_name IN ('subject', 'embedding', 'mean', 'template') AND table_name !~ 'subjects_[0-9]+'"
        )
    assert {str(name) for (name,) in rows} <= named
