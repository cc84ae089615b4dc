"""What is damaged is left out, named, and can be put right; the rest is served."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection

import numpy as np
import pytest

from app.crowding import Crowding, NoCrowding
from app.gallery import GalleryUnavailable, OnConflict, SqliteGallery, SubjectDamaged, TemplateDamaged
from app.gallery import damage as watch
from app.gallery.damage import Damage, OnDamage
from app.gallery.records import CollectionSize
from app.gallery.sqlite import loading
from app.gallery.sqlite.database import DATABASE_NAME
from app.gallery.sqlite.inspection import inspect_directory
from app.gallery.sqlite.templates import find_damage
from tests.app.gallery.contract import MadeUpCrowding, axis, template
from tests.app.gallery.sqlite.support import editing, enrol, everyone, opened, people

pytestmark = pytest.mark.slow

PEOPLE = people(10)
VICTIM = "person-03"

Damaging = Callable[[Connection], object]

TEMPLATE_DAMAGES: dict[str, Damaging] = {
    "another vector": lambda c: c.execute(
        "UPDATE templates SET embedding = ? WHERE subject = 4", (PEOPLE["person-07"].tobytes(),)
    ),
    "no number": lambda c: c.execute(
        "UPDATE templates SET embedding = ? WHERE subject = 4", (np.full(128, np.nan, dtype=np.float32).tobytes(),)
    ),
    "another length": lambda c: c.execute(
        "UPDATE templates SET embedding = substr(embedding, 1, 508) WHERE subject = 4"
    ),
    "text": lambda c: c.execute("UPDATE templates SET embedding = 'x' WHERE subject = 4"),
    "norm": lambda c: c.execute("UPDATE templates SET norm = norm + 1e-9 WHERE subject = 4"),
    "id": lambda c: c.execute("UPDATE templates SET id = 'other' WHERE subject = 4"),
    "id that is no text": lambda c: c.execute("UPDATE templates SET id = CAST(x'ff' AS TEXT) WHERE subject = 4"),
    "digest": lambda c: c.execute("UPDATE templates SET digest = NULL WHERE subject = 4"),
    "encoder": lambda c: (
        c.execute("UPDATE encoders SET digest = digest WHERE 0")
        and c.execute("UPDATE templates SET encoder = 99 WHERE subject = 4")
    ),
}


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    with opened(tmp_path) as gallery:
        enrol(gallery, PEOPLE)
    return tmp_path


def assert_left_out(gallery: SqliteGallery, error: type[GalleryUnavailable], code: str) -> None:
    """Only the victim is left out, and it is named wherever somebody asks for it."""
    for name, embedding in PEOPLE.items():
        found = [candidate.subject_id for candidate in gallery.search("default", embedding, 10)]
        assert VICTIM not in found
        assert found[0] == name or name == VICTIM
        assert len(found) == 9
    with pytest.raises(error, match=VICTIM) as refusal:
        gallery.compare("default", VICTIM, axis(0))
    assert refusal.value.code == code
    assert refusal.value.details.items() >= {"collection": "default", "subject_id": VICTIM}.items()
    with pytest.raises(GalleryUnavailable, match=rf"{VICTIM}.*restore a backup"):
        gallery.check()
    assert gallery.statistics().damaged_subjects == 1


@pytest.mark.parametrize("crowding", [NoCrowding(), MadeUpCrowding()], ids=["same cohort", "other cohort"])
@pytest.mark.parametrize("damage", TEMPLATE_DAMAGES)
def test_a_damaged_template_is_left_out_and_named(
    filled: Path, damage: str, crowding: Crowding, caplog: pytest.LogCaptureFixture
) -> None:
    with editing(filled) as connection:
        TEMPLATE_DAMAGES[damage](connection)
    with caplog.at_level(logging.ERROR), opened(filled, crowding=crowding) as gallery:
        with pytest.raises(GalleryUnavailable, match=VICTIM):
            gallery.check()
        assert caplog.text.count("A subject of collection 'default' is damaged and left out of searches.") == 1
        # The log outlives erasures.
        assert VICTIM not in caplog.text
        assert_left_out(gallery, TemplateDamaged, "template_damaged")
        with pytest.raises(TemplateDamaged, match=VICTIM):
            gallery.enroll("default", VICTIM, [template(axis(0))])
        assert_left_out(gallery, TemplateDamaged, "template_damaged")
    problems = inspect_directory(filled).problems
    assert any(VICTIM in problem for problem in problems)


def test_a_flipped_bit_in_the_database_file_is_noticed(filled: Path) -> None:
    path, blob = filled / DATABASE_NAME, PEOPLE[VICTIM].tobytes()
    content = bytearray(path.read_bytes())
    assert content.count(blob) == 1
    # The lowest bit of a component: the vector is still of unit length.
    content[content.index(blob)] ^= 1
    path.write_bytes(content)
    with opened(filled) as gallery:
        assert_left_out(gallery, TemplateDamaged, "template_damaged")


def test_a_template_that_was_moved_to_another_subject_damages_that_one(filled: Path) -> None:
    with editing(filled) as connection:
        connection.execute("UPDATE templates SET subject = 4 WHERE subject = 5")
    with opened(filled) as gallery:
        with pytest.raises(TemplateDamaged, match=VICTIM):
            gallery.compare("default", VICTIM, axis(0))
        assert gallery.search("default", PEOPLE["person-04"], 1)[0].subject_id not in (VICTIM, "person-04")


def test_damage_while_the_service_runs_is_noticed_when_it_is_read(filled: Path) -> None:
    with opened(filled) as gallery:
        gallery.check()
        with editing(filled) as connection:
            TEMPLATE_DAMAGES["another vector"](connection)
        assert VICTIM not in [c.subject_id for c in gallery.search("default", PEOPLE[VICTIM], 10)]
        with pytest.raises(GalleryUnavailable, match=VICTIM):
            gallery.check()
        gallery.enroll("default", VICTIM, [template(PEOPLE[VICTIM])], on_conflict=OnConflict.REPLACE)
        assert gallery.search("default", PEOPLE[VICTIM], 1)[0].subject_id == VICTIM
        gallery.check()


def test_damage_that_nobody_reads_is_found_by_checks_going_round(
    filled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "AT_ONCE", 4)
    monkeypatch.setattr(watch, "REVIEW_SECONDS", 0.0)
    with editing(filled) as connection:
        connection.execute("UPDATE templates SET norm = norm + 1 WHERE subject IN (4, 9)")
    counts = []
    with opened(filled) as gallery:
        for _ in range(5):
            with pytest.raises(GalleryUnavailable, match=VICTIM):
                gallery.check()
            counts.append(gallery.statistics().damaged_subjects)
        assert counts == [1, 1, 2, 2, 2]
        assert caplog.text.count("is damaged and left out of searches") == 2
        for name in (VICTIM, "person-08"):
            gallery.enroll("default", name, [template(PEOPLE[name])], on_conflict=OnConflict.REPLACE)
        for _ in range(4):
            gallery.check()


def test_what_is_put_right_during_a_check_is_not_reported(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with editing(filled) as connection:
        TEMPLATE_DAMAGES["another vector"](connection)
    suspects: list[Damage] = []

    def find_then_mend(connection: Connection, after: int, limit: int, on_damage: OnDamage) -> int:
        reached = find_damage(connection, after, limit, suspects.append)
        gallery.enroll("default", VICTIM, [template(PEOPLE[VICTIM])], on_conflict=OnConflict.REPLACE)
        for suspect in suspects:
            on_damage(suspect)
        return reached

    monkeypatch.setattr("app.gallery.sqlite.gallery.find_damage", find_then_mend)
    with opened(filled) as gallery:
        gallery.check()
    assert [suspect.subject_id for suspect in suspects] == [VICTIM]


@pytest.mark.parametrize("way", ["replace", "erase", "empty"])
def test_a_damaged_subject_can_be_enrolled_anew_or_erased(filled: Path, way: str) -> None:
    with editing(filled) as connection:
        TEMPLATE_DAMAGES["no number"](connection)
    with opened(filled) as gallery:
        match way:
            case "replace":
                gallery.enroll("default", VICTIM, [template(PEOPLE[VICTIM])], on_conflict=OnConflict.REPLACE)
            case "erase":
                assert gallery.delete_subject("default", VICTIM) == 1
            case "empty":
                assert gallery.delete_collection("default", force=True) == 10
        gallery.check()
        assert (VICTIM in everyone(gallery)) == (way == "replace")
    with opened(filled) as gallery:
        gallery.check()


@pytest.mark.parametrize("damage", TEMPLATE_DAMAGES)
def test_damage_is_not_merged_away(filled: Path, damage: str) -> None:
    with editing(filled) as connection:
        TEMPLATE_DAMAGES[damage](connection)
    with opened(filled) as gallery:
        for one, other in ((VICTIM, "person-05"), ("person-05", VICTIM)):
            with pytest.raises(TemplateDamaged, match=VICTIM):
                gallery.merge_subjects("default", one, other)
        assert_left_out(gallery, TemplateDamaged, "template_damaged")


def test_damaged_templates_can_be_erased_one_by_one(tmp_path: Path) -> None:
    with opened(tmp_path) as gallery:
        gallery.enroll("default", "ada", [template(axis(i), f"t{i}") for i in range(4)])
        gallery.enroll("default", "bob", [template(axis(9))])
    with editing(tmp_path) as connection:
        connection.execute("UPDATE templates SET norm = 0 WHERE id IN ('t1', 't2')")
    with opened(tmp_path) as gallery:
        gallery.delete_template("default", "ada", "t1")
        with pytest.raises(TemplateDamaged):
            gallery.compare("default", "ada", axis(0))
        assert len(gallery.search("default", axis(0), 5)) == 1
        gallery.delete_template("default", "ada", "t2")
        assert gallery.search("default", axis(0), 5)[0].templates == 2
        gallery.check()


@pytest.mark.parametrize(
    "metadata", ["{", "[1]", "null", "é", b"{}", "[" * 100_000], ids=["cut", "list", "null", "letter", "blob", "deep"]
)
def test_damaged_metadata_are_named_and_can_be_replaced(filled: Path, metadata: object) -> None:
    with editing(filled) as connection:
        connection.execute("UPDATE subjects SET metadata = ? WHERE key = 4", (metadata,))
    with opened(filled) as gallery:
        assert_left_out(gallery, SubjectDamaged, "subject_damaged")
        for call in (
            lambda: gallery.subject("default", VICTIM),
            lambda: gallery.subjects("default", after=None, limit=100),
        ):
            with pytest.raises(SubjectDamaged, match=VICTIM):
                call()
        assert any(VICTIM in problem for problem in inspect_directory(filled).problems)
        gallery.update_subject("default", VICTIM, {"fresh": True})
        gallery.check()
        assert gallery.search("default", PEOPLE[VICTIM], 1)[0].metadata == {"fresh": True}


@pytest.mark.parametrize("time", ["yesterday", "", b"\x00", "2026-01-01T00:00:00"])
@pytest.mark.parametrize(("table", "column"), [("subjects", "created_at"), ("templates", "created_at")])
def test_a_damaged_time_is_named(filled: Path, time: object, table: str, column: str) -> None:
    key = "key" if table == "subjects" else "subject"
    with editing(filled) as connection:
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = 4", (time,))
    with opened(filled) as gallery:
        with pytest.raises(SubjectDamaged, match=VICTIM):
            gallery.subject("default", VICTIM)
        assert gallery.search("default", PEOPLE[VICTIM], 1)[0].subject_id == VICTIM
        assert any("damaged time" in problem for problem in inspect_directory(filled).problems)
        gallery.delete_subject("default", VICTIM)
        assert len(everyone(gallery)) == 9


def test_a_damaged_collection_is_named(filled: Path) -> None:
    with editing(filled) as connection:
        connection.execute("UPDATE collections SET created_at = 'never'")
    with opened(filled) as gallery, pytest.raises(GalleryUnavailable, match="collection 'default' is damaged"):
        gallery.collections()


def test_what_is_sound_has_no_problems(filled: Path) -> None:
    found = inspect_directory(filled)
    assert (found.collections, found.subjects, found.templates, found.problems) == (1, 10, 10, ())


def test_an_inspection_finds_what_does_not_belong_together(filled: Path) -> None:
    with editing(filled) as connection:
        connection.execute("DELETE FROM templates WHERE subject = 2")
        connection.execute("UPDATE templates SET subject = 99 WHERE subject = 3")
        connection.execute("INSERT INTO collections (id, created_at) SELECT 'other', created_at FROM collections")
        connection.execute("UPDATE templates SET collection = 2 WHERE subject = 5")
    problems = "\n".join(inspect_directory(filled).problems)
    for part in ("'person-01' has no template", "of templates refers to a row of subjects", "is in another collection"):
        assert part in problems


def test_subjects_are_read_whole_however_the_rows_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {f"s{number}": number % 5 + 1 for number in range(12)}
    with opened(tmp_path) as gallery:
        for name, count in counts.items():
            gallery.enroll(
                "default", name, [template(axis(int(name[1:]) + 20 * n), f"{name}-{n}") for n in range(count)]
            )
    monkeypatch.setattr(loading, "_BATCH", 3)
    with opened(tmp_path) as gallery:
        gallery.check()
        assert gallery.size("default") == CollectionSize(12, 5)
        for name, count in counts.items():
            nearest = gallery.search("default", axis(int(name[1:])), 1)[0]
            assert (nearest.subject_id, nearest.templates) == (name, count)


def test_a_gallery_of_which_nothing_is_sound_opens(filled: Path) -> None:
    with editing(filled) as connection:
        connection.execute("UPDATE templates SET embedding = 'x'")
    with opened(filled) as gallery:
        assert gallery.search("default", axis(0), 5) == []
        assert gallery.statistics().damaged_subjects == len(PEOPLE)
