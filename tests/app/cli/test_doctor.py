"""``tessera doctor`` where PostgreSQL keeps what is enrolled."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg
import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.encoding import load_weights
from app.gallery.postgres.gallery import PostgresGallery
from app.settings import EncodingSettings
from tests.app.gallery.contract import random_embedding, template
from tests.app.postgres import postgres, url

__all__ = ["postgres", "url"]
pytestmark = pytest.mark.slow

States = dict[str, tuple[str, str]]


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TESSERA_GALLERY__DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TESSERA_SERVER__HOST", "0.0.0.0")
    monkeypatch.delenv("TESSERA_ENCODING__ENCODER", raising=False)


def examined(code: int) -> States:
    """The state of gallery and keys, and what was found; the exit code is ``code``."""
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    assert result.exit_code == code, (result.output, result.exception)
    checks = json.loads(result.stdout)["checks"]
    return {check["name"]: (check["state"], check["found"]) for check in checks if check["name"] in {"gallery", "keys"}}


def test_a_database_that_does_not_answer_is_to_be_mended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TESSERA_GALLERY__URL", f"postgresql:///tessera?host={tmp_path}")
    found = examined(1)
    assert all(state == "mend" and "does not answer" in text for state, text in found.values())


def test_an_empty_database_is_none_and_stays_empty(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TESSERA_GALLERY__URL", url)
    found = examined(1)
    assert found["gallery"] == ("ok", "PostgreSQL answers, and has none yet")
    assert found["keys"] == ("mend", "none, and other machines reach the service")
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT to_regnamespace('tessera')").fetchone() == (None,)


def test_who_is_enrolled_and_keys_are_found_in_the_database(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TESSERA_GALLERY__URL", url)
    digest = load_weights(EncodingSettings().directory).sha256
    with closing(PostgresGallery(url, encoder_digest=digest)) as gallery:
        gallery.enroll("default", "ada", [template(random_embedding(np.random.default_rng(1)))])
    created = CliRunner().invoke(cli, ["keys", "create", "everything"])
    assert created.exit_code == 0, created.output
    assert examined(0) == {
        "gallery": ("ok", "PostgreSQL answers: 1 subjects in 1 collection(s)"),
        "keys": ("ok", "there are some"),
    }
    monkeypatch.setenv("TESSERA_ENCODING__ENCODER", "tessera-s")
    state, text = examined(1)["gallery"]
    assert state == "mend"
    assert "TESSERA_ENCODING__ENCODER" in text


def test_a_role_that_may_not_make_pgvector_is_told(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP EXTENSION IF EXISTS vector CASCADE")
        connection.execute("DROP ROLE IF EXISTS ordinary")
        connection.execute("CREATE ROLE ordinary LOGIN")
    monkeypatch.setenv("TESSERA_GALLERY__URL", f"{url}{'&' if '?' in url else '?'}user=ordinary")
    state, text = examined(1)["gallery"]
    assert state == "mend"
    assert "lacks pgvector" in text
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP ROLE ordinary")
