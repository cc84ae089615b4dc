"""What is left of an erased template in the files of the server."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg
import pytest

from app.gallery.postgres.gallery import PostgresGallery
from app.security.postgres import PostgresSecurityStore
from benchmarks.postgres_server import IN_MEMORY, PostgresServer
from tests.app.gallery.contract import near, random_embedding, template
from tests.app.gallery.sqlite.support import DIGEST
from tests.shared_data import ROOT

pytestmark = pytest.mark.slow

SCRIPT = ROOT / "deploy" / "postgres" / "after-erasures.sql"


def statements() -> list[str]:
    text = re.sub(r"--.*", "", SCRIPT.read_text())
    return [part.strip() for part in text.split(";") if part.strip()]


def in_tables(server: PostgresServer, content: bytes) -> bool:
    server.execute("CHECKPOINT")
    files = [path for path in (server.directory / "data" / "base").rglob("*") if path.is_file()]
    return any(content in path.read_bytes() for path in files)


def test_the_script_leaves_nothing_of_an_erased_template_in_the_tables(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    kept, erased = random_embedding(random), random_embedding(random)
    with (
        PostgresServer({"autovacuum": "off"}, on=IN_MEMORY) as server,
        closing(PostgresSecurityStore(server.uri(), tmp_path)),
        closing(PostgresGallery(server.uri(), encoder_digest=DIGEST)) as gallery,
    ):
        gallery.enroll("default", "kept", [template(kept)])
        gallery.enroll("default", "erased", [template(erased)], metadata={"name": "Somebody Who Left"})
        gallery.delete_subject("default", "erased")
        assert in_tables(server, erased.tobytes())
        assert in_tables(server, b"Somebody Who Left")
        with psycopg.connect(server.uri(), autocommit=True) as connection:
            for statement in statements():
                connection.execute(statement.encode())
        assert in_tables(server, kept.tobytes())
        assert not in_tables(server, erased.tobytes())
        assert not in_tables(server, b"Somebody Who Left")
        assert gallery.search("default", near(random, kept), 5)[0].subject_id == "kept"
        gallery.check()


def test_the_script_names_every_table_with_data_of_people(tmp_path: Path) -> None:
    named = {re.split(r"\s+", s)[-1] for s in statements() if s.startswith("VACUUM")}
    with PostgresServer(on=IN_MEMORY) as server:
        PostgresGallery(server.uri(), encoder_digest=DIGEST).close()
        PostgresSecurityStore(server.uri(), tmp_path).close()
        rows = server.execute(
            "SELECT DISTINCT table_name FROM information_schema.columns WHERE table_schema = 'tessera' "
            "AND column_name IN ('subject', 'embedding', 'mean', 'template') AND table_name !~ 'subjects_[0-9]+'"
        )
    assert {str(name) for (name,) in rows} <= named
