from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import psycopg
import pytest

from app.crowding import Crowding, load_crowding
from app.decisions import load_calibration
from app.encoding import load_weights
from app.gallery import Candidate, Gallery, OnConflict, SqliteGallery, Targets
from app.gallery.postgres.gallery import PostgresGallery
from app.gallery.sqlite.vault import FileKeyWrapper, Vault
from app.security.store import SecurityStore
from app.security.trail import AuditTrail
from app.settings import EncodingSettings
from benchmarks.postgres_server import PostgresServer
from tests.app.gallery.contract import random_embedding, template
from tests.app.postgres import emptied, postgres, url
from tests.app.process import tessera

__all__ = ["postgres", "url"]
pytestmark = pytest.mark.slow


def filled(directory: Path, people: int = 250, keys: Vault | None = None) -> str:
    """A gallery of the service's encoder in a folder; the encoder's digest."""
    encoding = EncodingSettings().directory
    weights = load_weights(encoding)
    crowding = own_crowding(weights.sha256)
    random = np.random.default_rng(5)
    with closing(SqliteGallery(directory, encoder_digest=weights.sha256, crowding=crowding, keys=keys)) as gallery:
        gallery.create_collection("staff", Targets(fmr=1e-3, claim="pooled"))
        for number in range(people):
            new = [template(random_embedding(random), f"t{number}-{i}") for i in range(1 + number % 3)]
            gallery.enroll(("default", "staff")[number % 2], f"s{number}", new, metadata={"z": number, "a": "ü"})
    return weights.sha256


def own_crowding(digest: str) -> Crowding:
    encoding = EncodingSettings().directory
    return load_crowding(encoding, load_calibration(encoding, digest).cohort_sha256)


def recorded(directory: Path) -> list[tuple[str, str, dict[str, object]]]:
    with closing(SecurityStore(directory, create=False)) as store:
        found = [record.content for record in AuditTrail(store).records()]
    return [(content["action"], content["outcome"], content["details"]) for content in found]


def answers(gallery: Gallery) -> list[Candidate]:
    random = np.random.default_rng(6)
    return [found for _ in range(5) for found in gallery.search("default", random_embedding(random), 5)]


def test_the_trail_of_a_data_directory_goes_on_with_its_own_secret(tmp_path: Path, url: str) -> None:
    source = tmp_path / "from"
    filled(source, people=3)
    SecurityStore(source).close()
    (tmp_path / "secret of the replicas").write_text("ab" * 32)
    variables = {"TESSERA_SECURITY__SECRET_FILE": str(tmp_path / "secret of the replicas")}
    copied = tessera("gallery", "copy", str(source), url, **variables)
    assert copied.returncode == 0, copied.stderr
    with closing(SecurityStore(source, create=False)) as store:
        trail = AuditTrail(store)
        assert (trail.verify(), trail.length()) == ([], 2)


def without_crowding(found: list[Candidate]) -> list[Candidate]:
    return [replace(candidate, crowding=0.0) for candidate in found]


def test_a_gallery_is_copied_there_and_back(tmp_path: Path, url: str) -> None:
    digest = filled(tmp_path / "from")
    there = tessera("gallery", "copy", str(tmp_path / "from"), url)
    assert there.returncode == 0, there.stderr
    assert there.stdout.startswith("250 subjects copied; both have 2 collections, 250 subjects, 499 templates")
    assert "encrypted" not in there.stderr
    back = tessera("gallery", "copy", url, str(tmp_path / "back"))
    assert back.returncode == 0, back.stderr
    found = re.findall(r"SHA-256 (\w{64})", there.stdout + back.stdout)
    assert len(found) == 2
    assert found[0] == found[1]
    assert recorded(tmp_path / "from") == [
        ("copy", "started", {"to": "database"}),
        ("copy", "done", {"to": "database", "templates": 499}),
    ]
    assert recorded(tmp_path / "back") == [("import", "done", {"subjects": 250, "on_conflict": "replace"})]
    crowding = own_crowding(digest)
    with (
        closing(SqliteGallery(tmp_path / "from", encoder_digest=digest, crowding=crowding)) as first,
        closing(PostgresGallery(url, encoder_digest=digest, crowding=crowding)) as second,
        closing(SqliteGallery(tmp_path / "back", encoder_digest=digest, crowding=crowding)) as third,
    ):
        expected = answers(first)
        for copy in (second, third):
            found = answers(copy)
            assert without_crowding(found) == without_crowding(expected)
            # Computed one by one or many at once, which rounds differently.
            crowded = [candidate.crowding for candidate in expected]
            assert [candidate.crowding for candidate in found] == pytest.approx(crowded, abs=1e-6)
            assert any(crowded)


def test_a_copy_goes_on_where_it_was_interrupted(tmp_path: Path, url: str) -> None:
    digest = filled(tmp_path / "from", 30)
    assert tessera("gallery", "copy", str(tmp_path / "from"), url).returncode == 0
    with closing(PostgresGallery(url, encoder_digest=digest, crowding=own_crowding(digest))) as copy:
        copy.delete_subject("staff", "s1")
        copy.delete_subject("default", "s2")
    with closing(SqliteGallery(tmp_path / "from", encoder_digest=digest)) as gallery:
        gallery.enroll("default", "s4", [template(random_embedding(np.random.default_rng(1)))])
    again = tessera("gallery", "copy", str(tmp_path / "from"), url, TESSERA_GALLERY__URL=url)
    assert len(recorded(tmp_path / "from")) == 4
    assert again.stdout.startswith("3 subjects copied; both have 2 collections, 30 subjects, 61 templates"), again
    checked = tessera("gallery", "check", TESSERA_GALLERY__URL=url)
    assert (checked.returncode, checked.stdout) == (0, "PostgreSQL: 2 collections, 30 subjects, 61 templates\n")
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE tessera.sizes SET subjects = subjects + 1 WHERE fused = 2")
        connection.execute("UPDATE tessera.templates SET norm = 1 WHERE id = 't3-0'")
    checked = tessera("gallery", "check", TESSERA_GALLERY__URL=url)
    assert checked.returncode == 1
    assert "are counted" in checked.stdout
    assert "'s3'" in checked.stdout


def test_that_encrypted_templates_are_not_so_in_the_copy_is_said(tmp_path: Path, url: str) -> None:
    key = tmp_path / "master.key"
    key.write_text("5a" * 32)
    filled(tmp_path / "from", 3, Vault(tmp_path / "from", FileKeyWrapper(key)))
    done = tessera("gallery", "copy", str(tmp_path / "from"), url, TESSERA_GALLERY__MASTER_KEY_FILE=str(key))
    assert done.returncode == 0, done.stderr
    assert "are not in PostgreSQL: encrypt the database's disk" in done.stderr


def test_a_copy_from_before_a_merger_is_not_gone_on_with(tmp_path: Path, url: str) -> None:
    digest = filled(tmp_path / "from", 3)
    places = [url, str(tmp_path / "to")]
    for place in places:
        assert tessera("gallery", "copy", str(tmp_path / "from"), place).returncode == 0
    with closing(SqliteGallery(tmp_path / "from", encoder_digest=digest)) as gallery:
        gallery.merge_subjects("default", "s0", "s2")
    for place in places:
        again = tessera("gallery", "copy", str(tmp_path / "from"), place)
        assert again.returncode == 3
        assert "under another subject, as after a merger" in again.stderr
        assert "Traceback" not in again.stderr


def test_what_the_source_does_not_have_is_reported(tmp_path: Path, url: str) -> None:
    digest = filled(tmp_path / "from", 3)
    with closing(PostgresGallery(url, encoder_digest=digest, crowding=own_crowding(digest))) as gallery:
        gallery.enroll(
            "default", "else", [template(random_embedding(np.random.default_rng(2)))], on_conflict=OnConflict.REJECT
        )
    done = tessera("gallery", "copy", str(tmp_path / "from"), url)
    assert done.returncode == 3
    assert "The copy differs: 3 subjects" in done.stderr


def test_commands_for_a_data_directory_say_so(tmp_path: Path, postgres: PostgresServer) -> None:
    with emptied(postgres) as url:
        done = tessera("gallery", "backup", str(tmp_path / "file"), TESSERA_GALLERY__URL=url)
    assert done.returncode == 3
    assert "data directory" in done.stderr


def test_a_gallery_that_services_use_with_another_cohort_is_not_taken_from_them(tmp_path: Path, url: str) -> None:
    digest = filled(tmp_path / "from", 3)
    with closing(PostgresGallery(url, encoder_digest=digest)) as serving:
        done = tessera("gallery", "copy", str(tmp_path / "from"), url)
        assert done.returncode == 3
        assert "the services that use it have another release, encoder or calibration" in done.stderr
        serving.check()
        assert serving.size("default").subjects == 0
