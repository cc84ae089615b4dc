from __future__ import annotations

import gzip
import io
import json
import re
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from app.gallery import BackupError, GalleryInUse, GalleryUnavailable, SqliteGallery, TemplateDamaged
from app.gallery.sqlite.reenrolment import list_missing
from app.gallery.sqlite.transfer import OnImportConflict, exporting, import_records
from app.gallery.transfer import export_reader, export_writer, read_export, write_export
from tests.app.gallery.contract import MadeUpCrowding, axis, ids, template
from tests.app.gallery.sqlite.support import DIGEST, editing, everyone, opened, people
from tests.app.gallery.sqlite.test_backup import PEOPLE, answers, fill
from tests.app.gallery.sqlite.test_gallery import database_of_version

pytestmark = pytest.mark.slow

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PASSPHRASE = b"a passphrase for tests"


def export(directory: Path, file: Path, passphrase: bytes | None = None) -> None:
    with (
        exporting(directory) as (encoder, records),
        export_writer(file, passphrase, compressed=file.suffix == ".gz") as stream,
    ):
        write_export(stream, encoder, records)


def take(
    file: Path,
    directory: Path,
    on_conflict: OnImportConflict = OnImportConflict.REJECT,
    passphrase: bytes | None = None,
    encoder: str = DIGEST,
) -> int:
    with export_reader(file, passphrase) as stream:
        return import_records(directory, encoder, read_export(stream, encoder), on_conflict, NOW)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    with opened(tmp_path / "data") as gallery:
        fill(gallery)
    export(tmp_path / "data", tmp_path / "export.jsonl")
    return tmp_path / "export.jsonl"


@pytest.mark.parametrize("name", ["export.jsonl", "export.jsonl.gz"])
@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_an_imported_export_answers_the_same(tmp_path: Path, name: str, passphrase: bytes | None) -> None:
    crowding = MadeUpCrowding()
    with opened(tmp_path / "data", crowding=crowding) as gallery:
        fill(gallery)
        export(tmp_path / "data", tmp_path / name, passphrase)
        expected = answers(gallery)
    assert take(tmp_path / name, tmp_path / "other", passphrase=passphrase) == 20
    with opened(tmp_path / "other", crowding=crowding) as gallery:
        found = answers(gallery)
        # The default collection was created with the export's time, and receipts stay behind.
        assert found[:3] == expected[:3]
        assert found[3] is None
    packed = (tmp_path / name).read_bytes()
    assert (b'"tessera-gallery"' in packed) == (passphrase is None and name == "export.jsonl")


def test_an_export_is_lines_of_json(exported: Path) -> None:
    header, *records, trailer = map(json.loads, exported.read_text().splitlines())
    assert header == {"kind": "tessera-gallery", "version": 1, "encoder": DIGEST}
    assert [record["kind"] for record in records].count("subject") == 20
    assert (trailer["kind"], trailer["collections"], trailer["subjects"], trailer["templates"]) == ("end", 2, 20, 29)


def assert_refused(file: Path, directory: Path, message: str, **options: object) -> None:
    with pytest.raises(BackupError, match=message):
        take(file, directory, **options)  # type: ignore[arg-type]
    with opened(directory) as gallery:
        assert everyone(gallery) == set()
        assert [collection.id for collection in gallery.collections()] == ["default"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.999])
def test_a_cut_export_is_refused_whole(tmp_path: Path, exported: Path, share: float) -> None:
    content = exported.read_bytes()
    exported.write_bytes(content[: int(share * len(content))])
    assert_refused(exported, tmp_path / "other", "cut off|no export")
    lines = content.splitlines(keepends=True)
    exported.write_bytes(b"".join(lines[: max(1, int(share * len(lines)))]))
    assert_refused(exported, tmp_path / "other", "cut off")


@pytest.mark.parametrize("line", [1, 5, -1])
def test_a_damaged_export_is_refused_whole(tmp_path: Path, exported: Path, line: int) -> None:
    lines = exported.read_bytes().splitlines(keepends=True)
    damaged = [*lines]
    damaged[line] = lines[line].replace(b"2026", b"2025").replace(b'"subjects":20', b'"subjects":21')
    for changed in (damaged, [*lines[:3], *lines[4:]], [*lines[:3], lines[4], lines[3], *lines[5:]], [*lines, b"\n"]):
        assert changed != lines
        exported.write_bytes(b"".join(changed))
        assert_refused(exported, tmp_path / "other", "checksum or its counts")
    damaged[line] = b'{"kind": "nothing"}\n'
    exported.write_bytes(b"".join(damaged))
    assert_refused(exported, tmp_path / "other", "a line is not valid")


def test_a_damaged_gzip_is_refused_whole(tmp_path: Path, exported: Path) -> None:
    packed = bytearray(gzip.compress(exported.read_bytes()))
    packed[len(packed) // 2] ^= 1
    exported.write_bytes(packed)
    assert_refused(exported, tmp_path / "other", "damaged|cut off|embedding")
    exported.write_bytes(packed[: len(packed) // 2])
    assert_refused(exported, tmp_path / "other", "damaged|cut off|embedding")


def test_vectors_that_are_none_are_refused(tmp_path: Path) -> None:
    line = {"kind": "subject", "collection": "default", "id": "ada", "metadata": {}}
    line |= {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}
    for embedding in ("", "AAAA", "AAAA" * 171, "?"):
        item = {"id": "t", "created_at": "2026-01-01T00:00:00Z", "norm": 1.0, "embedding": embedding}
        written = io.BytesIO(
            json.dumps({"kind": "tessera-gallery", "version": 1, "encoder": DIGEST}).encode()
            + b"\n"
            + json.dumps({"kind": "collection", "id": "default", "created_at": "2026-01-01T00:00:00Z"}).encode()
            + b"\n"
            + json.dumps(line | {"templates": [item]}).encode()
            + b"\n"
        )
        with pytest.raises(BackupError, match="embedding of template 't'"):
            import_records(tmp_path / "data", DIGEST, read_export(written, DIGEST), OnImportConflict.REJECT, NOW)


@pytest.mark.parametrize("number", ["NaN", "-Infinity"])
@pytest.mark.parametrize("on_conflict", [OnImportConflict.REJECT, OnImportConflict.REPLACE])
def test_metadata_that_cannot_be_stored_are_refused(
    tmp_path: Path, exported: Path, number: str, on_conflict: OnImportConflict
) -> None:
    other, lines = tmp_path / "other", exported.read_bytes().splitlines(keepends=True)
    if on_conflict is OnImportConflict.REPLACE:
        take(exported, other)
    place = next(place for place, line in enumerate(lines) if b'"person-02"' in line)
    lines[place] = lines[place].replace(b'"name of person-02"', number.encode())
    lines[-1] = re.sub(
        rb'"sha256":"[0-9a-f]+"', b'"sha256":"%s"' % sha256(b"".join(lines[:-1])).hexdigest().encode(), lines[-1]
    )
    exported.write_bytes(b"".join(lines))
    with pytest.raises(BackupError, match=r"metadata of subject 'person-02'.*Nothing was imported"):
        take(exported, other, on_conflict)
    with opened(other) as gallery:
        assert len(everyone(gallery)) == (19 if on_conflict is OnImportConflict.REPLACE else 0)


def test_a_gallery_of_an_earlier_release_is_not_read_before_it_is_brought_up(tmp_path: Path) -> None:
    database_of_version(3, tmp_path / "old")
    for command in (lambda: export(tmp_path / "old", tmp_path / "export"), lambda: list_missing(tmp_path / "old")):
        with pytest.raises(GalleryUnavailable, match=r"schema version 3.*start the service on it once"):
            command()


def test_what_is_no_export_of_this_version_and_encoder_is_refused(tmp_path: Path, exported: Path) -> None:
    content = exported.read_bytes()
    with pytest.raises(BackupError, match="embeddings of two encoders"):
        take(exported, tmp_path / "other", encoder="sha256:other")
    exported.write_bytes(content.replace(b'"version":1', b'"version":2', 1))
    assert_refused(exported, tmp_path / "other", "version 2")
    exported.write_bytes(b"photograph\n")
    assert_refused(exported, tmp_path / "other", "no export")
    with pytest.raises(BackupError, match="cannot be read"):
        take(tmp_path / "none", tmp_path / "other")


@pytest.mark.parametrize("on_conflict", OnImportConflict)
def test_subjects_that_are_there_already(tmp_path: Path, exported: Path, on_conflict: OnImportConflict) -> None:
    other = tmp_path / "other"
    with opened(other) as gallery:
        before = gallery.enroll("default", "person-00", [template(axis(0), "mine")], metadata={"mine": 1})
    if on_conflict is OnImportConflict.REJECT:
        with pytest.raises(BackupError, match=r"person-00.*Nothing was imported"):
            take(exported, other, on_conflict)
    else:
        assert take(exported, other, on_conflict) == (19 if on_conflict is OnImportConflict.SKIP else 20)
    with opened(other) as gallery:
        gallery.check()
        found = gallery.subject("default", "person-00")
        match on_conflict:
            case OnImportConflict.REJECT:
                assert everyone(gallery) == {"person-00"}
                assert found == before
            case OnImportConflict.SKIP:
                assert found == before
            case OnImportConflict.APPEND:
                assert (ids(found), found.metadata) == (["mine", "person-00-template"], {"mine": 1})
            case OnImportConflict.REPLACE:
                assert (ids(found), found.metadata) == (["person-00-template"], {"name": "name of person-00"})
                assert gallery.search("default", PEOPLE["person-00"], 1)[0].distance == 0.0
        assert on_conflict is OnImportConflict.REJECT or everyone(gallery) == set(PEOPLE) - {"person-03"}


def test_appending_twice_adds_nothing(tmp_path: Path, exported: Path) -> None:
    assert take(exported, tmp_path / "other") == 20
    with opened(tmp_path / "other") as gallery:
        before = gallery.subjects("staff", after=None, limit=10)
    assert take(exported, tmp_path / "other", OnImportConflict.APPEND) == 0
    with opened(tmp_path / "other") as gallery:
        assert gallery.subjects("staff", after=None, limit=10) == before


def test_a_template_of_somebody_else_is_refused(tmp_path: Path, exported: Path) -> None:
    with opened(tmp_path / "other") as gallery:
        gallery.enroll("default", "zoe", [template(axis(0), "person-00-template")])
    with pytest.raises(BackupError, match="under another subject"):
        take(exported, tmp_path / "other")
    with opened(tmp_path / "other") as gallery:
        assert everyone(gallery) == {"zoe"}


def test_a_gallery_in_use_takes_no_import(tmp_path: Path, exported: Path) -> None:
    with opened(tmp_path / "other"), pytest.raises(GalleryInUse):
        take(exported, tmp_path / "other")


def test_a_damaged_template_is_not_exported(tmp_path: Path, exported: Path) -> None:
    with editing(tmp_path / "data") as connection:
        connection.execute("UPDATE templates SET norm = 1 WHERE key = 2")
    with pytest.raises(TemplateDamaged, match="person-01"):
        export(tmp_path / "data", tmp_path / "again")


def test_an_encrypted_export_needs_its_passphrase(tmp_path: Path, exported: Path) -> None:
    export(tmp_path / "data", tmp_path / "secret", PASSPHRASE)
    other = tmp_path / "other"
    assert_refused(tmp_path / "secret", other, "give --passphrase-file")
    assert_refused(tmp_path / "secret", other, "passphrase is not the one", passphrase=b"another one")
    assert_refused(exported, other, "not encrypted", passphrase=PASSPHRASE)


def test_ids_of_people_are_nowhere_in_an_encrypted_export(tmp_path: Path, exported: Path) -> None:
    export(tmp_path / "data", tmp_path / "secret", PASSPHRASE)
    assert b"person-00" in exported.read_bytes()
    assert all(name.encode() not in (tmp_path / "secret").read_bytes() for name in people(20))


def test_an_export_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="no gallery"):
        export(tmp_path / "none", tmp_path / "export")
    SqliteGallery(tmp_path / "data", encoder_digest=DIGEST).close()
    export(tmp_path / "data", tmp_path / "export")
    assert take(tmp_path / "export", tmp_path / "other") == 0
