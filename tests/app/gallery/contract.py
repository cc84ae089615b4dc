"""What every implementation of ``Gallery`` must do: one test for each sentence of the protocol."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count

import numpy as np
import pytest

from app.embeddings import MOST_FUSED, Embedding
from app.gallery import AuditFinding, CollectionSize, NewTemplate, StoredAudit, Subject, SubjectVectors, Targets
from app.gallery.protocol import (
    DEFAULT_COLLECTION,
    ChipsNeedEncryption,
    CollectionExists,
    CollectionNotEmpty,
    CollectionNotFound,
    Gallery,
    LastTemplate,
    OnConflict,
    PendingReceipt,
    Receipt,
    ReceiptExists,
    SubjectExists,
    SubjectNotFound,
    TemplateNotFound,
    TooManyTemplates,
)
from app.types import CHIP_SIDE, Pixels

_NUMBERS = count()


class Clock:
    """A clock that the test sets; every reading is a microsecond later than the last."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(microseconds=1)
        return self.now


def unit(values: np.ndarray) -> Embedding:
    return (values / np.linalg.norm(values)).astype(np.float32)


def random_embedding(random: np.random.Generator) -> Embedding:
    return unit(random.standard_normal(128))


def axis(index: int, towards: int | None = None, share: float = 0.0) -> Embedding:
    """A unit vector along an axis, turned a little towards another one."""
    values = np.zeros(128)
    values[index] = 1.0
    if towards is not None:
        values[towards] += share
    return unit(values)


def near(random: np.random.Generator, centre: Embedding, spread: float = 0.02) -> Embedding:
    return unit(centre + spread * random.standard_normal(128))


def template(embedding: Embedding, id_: str | None = None, norm: float = 10.0) -> NewTemplate:
    return NewTemplate(id_ or f"t{next(_NUMBERS)}", embedding, norm)


def chip(seed: int) -> Pixels:
    """A smooth picture with some noise, as those of faces are; another one for every seed."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:CHIP_SIDE, 0:CHIP_SIDE]
    waves = [np.sin(rows / f + columns / g) for f, g in random.uniform(5, 30, (3, 2))]
    picture = 128 + 90 * np.stack(waves, axis=-1) + random.normal(0, 3, (CHIP_SIDE, CHIP_SIDE, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def ids(subject: Subject) -> list[str]:
    return [stored.id for stored in subject.templates]


def sum_of(embeddings: Iterable[Embedding]) -> np.ndarray:
    return np.sum([embedding.astype(np.float64) for embedding in embeddings], axis=0)


def exact(probe: Embedding, embedding: Embedding) -> float:
    difference = probe.astype(np.float64) - embedding.astype(np.float64)
    return float(difference @ difference)


def pending(key: str, body: str = "{}", fingerprint: str = "f") -> PendingReceipt:
    return PendingReceipt(key, fingerprint, lambda subject, _: body)


class MadeUpCrowding:
    """A crowding that only the embedding itself decides, far enough apart to change who comes first."""

    digest = "made up"

    def __init__(self, scale: float = 0.4) -> None:
        self.scale, self.calls = scale, 0

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        self.calls += 1
        crowding: np.ndarray = (self.scale * np.sin(40 * embeddings[:, :8].sum(axis=1))).astype(np.float32)
        return crowding

    def of(self, embedding: Embedding) -> float:
        return float(self(embedding[np.newaxis])[0])


def crowding_of(gallery: Gallery, subject_id: str, collection: str = DEFAULT_COLLECTION) -> float:
    """What the gallery has stored; searches, comparisons and listings must agree on it."""
    probe = axis(9)
    compared = gallery.compare(collection, subject_id, probe).crowding
    (searched,) = [c.crowding for c in gallery.search(collection, probe, 1000) if c.subject_id == subject_id]
    every = gallery.subject_vectors(collection, after=None, limit=1000)
    (listed,) = [vectors.crowding for vectors in every if vectors.subject_id == subject_id]
    assert compared == searched == listed
    return compared


OpenedWith = Callable[[int], contextlib.AbstractContextManager[Gallery]]


class GalleryContract:
    """Subclasses provide the fixtures ``gallery``, empty, and ``crowded``, likewise with the fixture ``crowding``.

    Both tell the time by the fixture ``clock``. ``opened_with`` opens one gallery again and again, empty at first, with
    ``crowding``, to compare so many templates of a subject at most.
    """

    @pytest.fixture
    def crowding(self) -> MadeUpCrowding:
        return MadeUpCrowding()

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def random(self) -> np.random.Generator:
        return np.random.default_rng(20260301)

    @pytest.fixture(autouse=True)
    def still_sound(self, gallery: Gallery) -> Iterator[None]:
        """Whatever a test did, refused or not, the gallery must be consistent after it."""
        yield
        gallery.check()

    # Collections

    def test_default_collection_exists_from_the_start(self, gallery: Gallery, clock: Clock) -> None:
        (default,) = gallery.collections()
        assert (default.id, default.subjects, default.templates) == (DEFAULT_COLLECTION, 0, 0)
        assert default.created_at.utcoffset() == timedelta(0)
        with pytest.raises(CollectionExists):
            gallery.create_collection(DEFAULT_COLLECTION)

    def test_created_collections_are_listed_by_id_with_their_counts(self, gallery: Gallery) -> None:
        created = gallery.create_collection("b")
        gallery.create_collection("a")
        gallery.enroll("b", "ada", [template(axis(0)), template(axis(1))])
        gallery.enroll("b", "bob", [template(axis(2))])
        assert (created.id, created.subjects, created.templates) == ("b", 0, 0)
        listed = gallery.collections()
        assert [(each.id, each.subjects, each.templates) for each in listed] == [
            ("a", 0, 0),
            ("b", 2, 3),
            ("default", 0, 0),
        ]
        assert listed[1].created_at == created.created_at

    def test_a_collection_cannot_be_created_twice(self, gallery: Gallery) -> None:
        gallery.create_collection("a")
        with pytest.raises(CollectionExists):
            gallery.create_collection("a")

    def test_deleting_a_collection_erases_all_in_it(self, gallery: Gallery) -> None:
        gallery.create_collection("a")
        gallery.enroll("a", "ada", [template(axis(0)), template(axis(1))], receipt=pending("k"))
        gallery.enroll("a", "bob", [template(axis(2))])
        gallery.enroll("default", "cy", [template(axis(0))])
        assert gallery.delete_collection("a", force=True) == 3
        assert [each.id for each in gallery.collections()] == ["default"]
        assert gallery.receipt("k") is None
        assert [found.subject_id for found in gallery.search("default", axis(0), 5)] == ["cy"]

    def test_a_collection_with_subjects_is_erased_only_by_force(self, gallery: Gallery) -> None:
        gallery.create_collection("a")
        for collection in ("a", "default"):
            gallery.enroll(collection, "ada", [template(axis(0))])
            gallery.enroll(collection, "bob", [template(axis(1))])
            with pytest.raises(CollectionNotEmpty, match=r"2 subject.*force=true"):
                gallery.delete_collection(collection)
            assert gallery.size(collection).subjects == 2
            gallery.delete_subject(collection, "ada")
            gallery.delete_subject(collection, "bob")
            assert gallery.delete_collection(collection) == 0
        assert [each.id for each in gallery.collections()] == ["default"]

    def test_chips_are_kept_where_a_collection_asks_and_the_gallery_encrypts(self, gallery: Gallery) -> None:
        pictured = NewTemplate("t0", axis(0), 10.0, chip(0))
        gallery.enroll("default", "ada", [pictured])
        assert [(c.keep_chips, c.chips) for c in gallery.collections()] == [(False, 0)]
        try:
            created = gallery.create_collection("a", keep_chips=True)
        except ChipsNeedEncryption:
            with pytest.raises(ChipsNeedEncryption):
                gallery.update_collection("default", Targets(fmr=1e-3), keep_chips=True)
            assert [(c.id, c.keep_chips, c.targets) for c in gallery.collections()] == [("default", False, Targets())]
            return
        assert (created.keep_chips, created.chips) == (True, 0)
        enrolled = gallery.enroll("a", "ada", [NewTemplate("t1", axis(1), 10.0, chip(1)), template(axis(2), "t2")])
        assert [t.chip for t in enrolled.templates] == [True, False]
        assert [t.chip for t in gallery.subjects("a", after=None, limit=9)[0].templates] == [True, False]
        assert [(c.id, c.keep_chips, c.chips) for c in gallery.collections()] == [("a", True, 1), ("default", False, 0)]
        assert gallery.update_collection("a", Targets(fmr=1e-3)).keep_chips, "what is not named is left as it is"
        gallery.delete_template("a", "ada", "t1")
        assert gallery.collections()[0].chips == 0
        gallery.enroll("a", "ada", [NewTemplate("t3", axis(3), 10.0, chip(3))])
        assert gallery.update_collection("a", Targets(), keep_chips=False).chips == 0
        assert [t.chip for t in gallery.subject("a", "ada").templates] == [False, False]
        with pytest.raises(CollectionNotFound):
            gallery.update_collection("none", Targets(), keep_chips=False)

    def test_a_collection_made_again_has_another_identity(self, gallery: Gallery) -> None:
        gallery.create_collection("a")
        before = gallery.identity("a")
        assert gallery.identity("a") == before != gallery.identity("default")
        gallery.delete_collection("a")
        with pytest.raises(CollectionNotFound):
            gallery.identity("a")
        gallery.create_collection("a")
        assert gallery.identity("a") != before

    def test_stored_templates_are_told_from_others(self, gallery: Gallery) -> None:
        gallery.create_collection("a")
        gallery.enroll("default", "ada", [template(axis(0), "t0"), template(axis(0), "t1")])
        gallery.enroll("a", "ada", [template(axis(0), "t2")])
        gallery.delete_template("default", "ada", "t1")
        assert gallery.stored_templates(["t0", "t1", "t2", "t3"]) == {"t0", "t2"}
        assert gallery.stored_templates([]) == set()

    def test_the_latest_audit_is_kept_without_what_is_erased(self, gallery: Gallery) -> None:
        identity, moment = gallery.identity("default"), datetime(2026, 3, 1, 12, tzinfo=UTC)
        assert gallery.audit("default") is None
        for subject, ids in {"ada": ("t0", "t1"), "bob": ("t2",), "eve": ("t3",)}.items():
            gallery.enroll("default", subject, [template(axis(0), id_) for id_ in ids])
        begun = StoredAudit("running", moment)
        gallery.save_audit("default", identity, begun)
        assert gallery.audit("default") == begun
        gallery.delete_template("default", "ada", "t0")
        findings = (
            AuditFinding("pair", ("t1", "t2"), {"distance": 0.1}),
            AuditFinding("pair", ("t2", "t3"), {"distance": None}),
            AuditFinding("pair", ("t3", "t0"), {}),
            AuditFinding("weak", ("t0",), {}),
            AuditFinding("weak", ("t1",), {"norm": 2.5}),
        )
        gallery.save_audit("default", identity, StoredAudit("done", moment, {"subjects": 3}, None, findings))
        stored = gallery.audit("default")
        assert stored is not None
        assert (stored.status, stored.started_at, stored.content) == ("done", moment, {"subjects": 3})
        assert [(f.templates, f.subjects, f.numbers) for f in stored.findings] == [
            (("t1", "t2"), ("ada", "bob"), {"distance": 0.1}),
            (("t2", "t3"), ("bob", "eve"), {"distance": None}),
            (("t1",), ("ada",), {"norm": 2.5}),
        ]
        gallery.delete_subject("default", "bob")
        stored = gallery.audit("default")
        assert stored is not None
        assert [f.templates for f in stored.findings] == [("t1",)]

    def test_an_audit_begins_in_the_place_of_one_that_has_ended(self, gallery: Gallery) -> None:
        identity, moment = gallery.identity("default"), datetime(2026, 3, 1, 12, tzinfo=UTC)
        begun = StoredAudit("waiting", moment, under_way=True)
        for _ in range(2):
            assert gallery.begin_audit("default", identity, begun) is None
            stored = gallery.audit("default")
            assert stored is not None
            assert (stored.status, stored.started_at) == ("waiting", moment)
            gallery.renew_audit("default", identity, begun)
            ended = StoredAudit("done", moment, {"subjects": 0})
            gallery.save_audit("default", identity, ended)
            gallery.renew_audit("default", identity, begun)
            assert gallery.audit("default") == ended
        with pytest.raises(CollectionNotFound):
            gallery.begin_audit("none", identity, begun)
        with pytest.raises(CollectionNotFound):
            gallery.begin_audit("default", "another", begun)

    def test_audits_are_erased_with_their_collection(self, gallery: Gallery) -> None:
        begun = StoredAudit("running", datetime(2026, 3, 1, 12, tzinfo=UTC))
        gallery.create_collection("a")
        identity = gallery.identity("a")
        for collection in ("a", "default"):
            gallery.save_audit(collection, gallery.identity(collection), begun)
            gallery.delete_collection(collection, force=True)
        assert gallery.audit("default") is None
        with pytest.raises(CollectionNotFound):
            gallery.audit("a")
        gallery.create_collection("a")
        assert gallery.audit("a") is None
        with pytest.raises(CollectionNotFound):
            gallery.save_audit("a", identity, begun)

    def test_a_collection_made_again_is_empty(self, gallery: Gallery) -> None:
        gallery.create_collection("a")
        gallery.enroll("a", "ada", [template(axis(0), "first")])
        gallery.delete_collection("a", force=True)
        gallery.create_collection("a")
        assert gallery.search("a", axis(0), 5) == []
        assert gallery.subjects("a", after=None, limit=5) == []
        gallery.enroll("a", "bob", [template(axis(0), "first")])
        assert [found.subject_id for found in gallery.search("a", axis(0), 5)] == ["bob"]

    def test_deleting_the_default_collection_empties_it(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0)), template(axis(1))])
        assert gallery.delete_collection("default", force=True) == 2
        assert [(each.id, each.subjects, each.templates) for each in gallery.collections()] == [("default", 0, 0)]
        assert gallery.search("default", axis(0), 5) == []
        gallery.enroll("default", "bob", [template(axis(3))])
        assert [found.subject_id for found in gallery.search("default", axis(0), 5)] == ["bob"]

    def test_collections_are_isolated(self, gallery: Gallery) -> None:
        gallery.create_collection("a")
        gallery.enroll("a", "ada", [template(axis(0))], metadata={"in": "a"})
        gallery.enroll("default", "ada", [template(axis(1))], metadata={"in": "default"})
        assert gallery.subject("a", "ada").metadata == {"in": "a"}
        assert gallery.compare("default", "ada", axis(1)).distance == 0.0
        gallery.delete_subject("default", "ada")
        assert gallery.search("default", axis(0), 5) == []
        assert gallery.search("a", axis(0), 5)[0].metadata == {"in": "a"}

    @pytest.mark.parametrize(
        "call",
        [
            lambda gallery: gallery.delete_collection("x"),
            lambda gallery: gallery.enroll("x", "ada", [template(axis(0))]),
            lambda gallery: gallery.subject("x", "ada"),
            lambda gallery: gallery.subjects("x", after=None, limit=5),
            lambda gallery: gallery.update_subject("x", "ada", {}),
            lambda gallery: gallery.delete_subject("x", "ada"),
            lambda gallery: gallery.delete_template("x", "ada", "t"),
            lambda gallery: gallery.merge_subjects("x", "ada", "bob"),
            lambda gallery: gallery.search("x", axis(0), 5),
            lambda gallery: gallery.compare("x", "ada", axis(0)),
        ],
    )
    @pytest.mark.parametrize("erased", [False, True])
    def test_unknown_collection(self, gallery: Gallery, call: Callable[[Gallery], object], erased: bool) -> None:
        gallery.enroll("default", "ada", [template(axis(0))])
        if erased:
            gallery.create_collection("x")
            gallery.enroll("x", "ada", [template(axis(0))])
            gallery.delete_collection("x", force=True)
        with pytest.raises(CollectionNotFound):
            call(gallery)

    # Enrolment

    def test_targets_of_a_collection_are_kept_and_replaced(self, gallery: Gallery) -> None:
        assert gallery.targets("default") == Targets()
        created = gallery.create_collection("staff", Targets(fmr=1e-3))
        assert created.targets == gallery.targets("staff") == Targets(fmr=1e-3)
        updated = gallery.update_collection("staff", Targets(fpir=0.05, claim="pooled"))
        assert updated.targets == gallery.targets("staff") == Targets(fpir=0.05, claim="pooled")
        assert [c.targets for c in gallery.collections()] == [Targets(), Targets(fpir=0.05, claim="pooled")]
        for call in (lambda: gallery.targets("none"), lambda: gallery.update_collection("none", Targets())):
            with pytest.raises(CollectionNotFound):
                call()

    def test_vectors_come_by_subject_and_only_those_that_are_compared(self, gallery: Gallery) -> None:
        gallery.enroll("default", "bob", [template(axis(5), "b", 9.0)])
        many = [template(axis(i), f"a{i}", 10.0 + i) for i in range(MOST_FUSED + 2)]
        gallery.enroll("default", "ada", many)
        ada, bob = gallery.subject_vectors("default", after=None, limit=10)
        assert (ada.subject_id, bob.subject_id, bob.template_ids) == ("ada", "bob", ("b",))
        assert ada.template_ids == tuple(each.id for each in many[2:])
        np.testing.assert_array_equal(ada.embeddings, np.stack([each.embedding for each in many[2:]]))
        assert ada.norms.tolist() == [each.norm for each in many[2:]]
        assert [v.subject_id for v in gallery.subject_vectors("default", after=None, limit=1)] == ["ada"]
        assert [v.subject_id for v in gallery.subject_vectors("default", after="ada", limit=1)] == ["bob"]
        assert gallery.subject_vectors("default", after="bob", limit=1) == []
        with pytest.raises(ValueError, match="limit"):
            gallery.subject_vectors("default", after=None, limit=0)
        with pytest.raises(CollectionNotFound):
            gallery.subject_vectors("none", after=None, limit=1)

    def test_subjects_and_the_most_templates_of_one_are_counted(self, gallery: Gallery) -> None:
        assert gallery.size("default") == CollectionSize(0, 0)
        gallery.enroll("default", "bob", [template(axis(2))])
        assert gallery.size("default") == CollectionSize(1, 1)
        gallery.enroll("default", "ada", [template(axis(0)), template(axis(1), "last")])
        gallery.enroll("default", "ada", [template(axis(0))])
        assert gallery.size("default") == CollectionSize(2, 3)
        gallery.delete_template("default", "ada", "last")
        assert gallery.size("default") == CollectionSize(2, 2)
        gallery.enroll("default", "bob", [template(axis(i)) for i in range(MOST_FUSED + 2)])
        assert gallery.size("default") == CollectionSize(2, MOST_FUSED)
        gallery.enroll("default", "bob", [template(axis(3))], on_conflict=OnConflict.REPLACE)
        assert gallery.size("default") == CollectionSize(2, 2)
        gallery.delete_subject("default", "ada")
        assert gallery.size("default") == CollectionSize(1, 1)
        with pytest.raises(CollectionNotFound):
            gallery.size("none")

    def test_enrolled_subject_is_returned_stored_and_found(self, gallery: Gallery, clock: Clock) -> None:
        before = clock.now
        subject = gallery.enroll(
            "default", "ada", [template(axis(0), "t-b"), template(axis(1), "t-a")], metadata={"name": "Ada", "n": [1]}
        )
        assert (subject.id, subject.collection, subject.metadata) == ("ada", "default", {"name": "Ada", "n": [1]})
        assert ids(subject) == ["t-b", "t-a"]
        assert before < subject.created_at == subject.updated_at == subject.templates[0].created_at <= clock.now
        assert subject.created_at.utcoffset() == timedelta(0)
        assert gallery.subject("default", "ada") == subject
        (found,) = gallery.search("default", axis(1), 5)
        assert (found.subject_id, found.template_id, found.templates) == ("ada", "t-a", 2)
        assert found.distance == pytest.approx(2 - 2**0.5, abs=1e-6)
        assert found.metadata == {"name": "Ada", "n": [1]}

    def test_append_adds_templates_after_the_old_ones(self, gallery: Gallery) -> None:
        first = gallery.enroll("default", "ada", [template(axis(0), "z")], metadata={"a": 1})
        second = gallery.enroll("default", "ada", [template(axis(1), "a")])
        assert ids(second) == ["z", "a"]
        assert second.metadata == {"a": 1}
        assert second.created_at == first.created_at < second.updated_at
        assert second.templates[0] == first.templates[0]
        assert gallery.compare("default", "ada", axis(0)).template_id == "z"
        assert gallery.compare("default", "ada", axis(1)).template_id == "a"

    def test_a_given_metadata_replaces_what_is_stored(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0))], metadata={"a": 1})
        assert gallery.enroll("default", "ada", [template(axis(1))], metadata={"b": 2}).metadata == {"b": 2}
        assert gallery.enroll("default", "ada", [template(axis(2))], metadata={}).metadata == {}
        assert gallery.enroll("default", "bob", [template(axis(2))]).metadata == {}

    def test_replace_erases_the_old_templates(self, gallery: Gallery) -> None:
        first = gallery.enroll("default", "ada", [template(axis(0), "a"), template(axis(1), "b")], metadata={"a": 1})
        second = gallery.enroll("default", "ada", [template(axis(2), "a")], on_conflict=OnConflict.REPLACE)
        assert ids(second) == ["a"]
        assert second.metadata == {"a": 1}
        assert second.created_at == first.created_at < second.updated_at
        (found,) = gallery.search("default", axis(0), 5)
        assert (found.template_id, found.distance) == ("a", pytest.approx(2.0))
        assert gallery.collections()[0].templates == 1

    @pytest.mark.parametrize("on_conflict", [OnConflict.APPEND, OnConflict.REPLACE])
    def test_an_enrolment_that_fails_changes_nothing(self, gallery: Gallery, on_conflict: OnConflict) -> None:
        gallery.enroll("default", "bob", [template(axis(5), "taken")])
        before = gallery.enroll("default", "ada", [template(axis(0)), template(axis(0))], metadata={"a": 1})
        for new_id, body in [("taken", None), ("new", ZeroDivisionError())]:

            def render(_: Subject, __: frozenset[str], body: Exception | None = body) -> str:
                if body is not None:
                    raise body
                return ""

            with pytest.raises((ValueError, ZeroDivisionError)):
                gallery.enroll(
                    "default",
                    "ada",
                    [template(axis(2)), template(axis(3), new_id)],
                    metadata={"b": 2},
                    on_conflict=on_conflict,
                    receipt=PendingReceipt("k", "f", render),
                )
        assert gallery.subject("default", "ada") == before
        assert gallery.receipt("k") is None
        assert gallery.search("default", axis(0), 1)[0].distance == 0.0
        assert gallery.search("default", axis(2), 1)[0].distance == pytest.approx(2.0)

    def test_replace_of_an_unknown_subject_enrols_it(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0))], on_conflict=OnConflict.REPLACE)
        gallery.enroll("default", "bob", [template(axis(1))], on_conflict=OnConflict.REJECT)
        assert gallery.collections()[0].subjects == 2

    def test_reject_refuses_a_subject_that_exists(self, gallery: Gallery) -> None:
        before = gallery.enroll("default", "ada", [template(axis(0))])
        with pytest.raises(SubjectExists):
            gallery.enroll(
                "default",
                "ada",
                [template(axis(1))],
                metadata={"new": 1},
                on_conflict=OnConflict.REJECT,
                receipt=pending("k"),
            )
        assert gallery.subject("default", "ada") == before
        assert gallery.receipt("k") is None

    @pytest.mark.parametrize(
        "embedding",
        [
            axis(0).astype(np.float64),
            axis(0)[:127],
            axis(0)[np.newaxis],
            axis(0) * np.float32(1.01),
            axis(0) * np.float32(0.99),
            np.zeros(128, np.float32),
            np.where(axis(0) > 0, np.float32(np.nan), axis(0)),
            np.where(axis(0) > 0, np.float32(np.inf), axis(0)),
        ],
        ids=["float64", "short", "two-dimensional", "long", "near", "zero", "nan", "infinite"],
    )
    def test_an_embedding_that_is_none_is_refused_everywhere(self, gallery: Gallery, embedding: Embedding) -> None:
        before = gallery.enroll("default", "ada", [template(axis(0))])
        with pytest.raises(ValueError, match="embedding"):
            gallery.enroll("default", "ada", [template(axis(1)), template(embedding)], metadata={"new": 1})
        with pytest.raises(ValueError, match="embedding"):
            gallery.search("default", embedding, 1)
        with pytest.raises(ValueError, match="embedding"):
            gallery.compare("default", "ada", embedding)
        assert gallery.subject("default", "ada") == before

    def test_an_embedding_may_be_a_view(self, gallery: Gallery) -> None:
        strided = np.stack([axis(0), axis(1)], axis=1)[:, 1]
        gallery.enroll("default", "ada", [template(strided)])
        assert gallery.search("default", strided, 1)[0].distance == 0.0
        assert gallery.compare("default", "ada", axis(1)).distance == 0.0

    def test_mistakes_of_the_caller_are_value_errors(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0), "taken")])
        gallery.create_collection("a")
        for collection, subject, templates, metadata in [
            ("default", "bob", [], None),
            ("default", "", [template(axis(1))], None),
            ("default", "bob", [template(axis(1), "new"), template(axis(2), "new")], None),
            ("a", "bob", [template(axis(1)), template(axis(2), "taken")], None),
            ("default", "bob", [template(axis(1))], {"x": float("nan")}),
        ]:
            with pytest.raises(ValueError):  # noqa: PT011
                gallery.enroll(collection, subject, templates, metadata=metadata)
        with pytest.raises(TypeError):
            gallery.enroll("default", "bob", [template(axis(1))], metadata={"x": object()})
        for call in (
            lambda: gallery.create_collection(""),
            lambda: gallery.search("default", axis(0), 0),
            lambda: gallery.subjects("default", after=None, limit=0),
        ):
            with pytest.raises(ValueError):  # noqa: PT011
                call()
        assert [(each.id, each.subjects, each.templates) for each in gallery.collections()] == [
            ("a", 0, 0),
            ("default", 1, 1),
        ]
        assert [found.subject_id for found in gallery.search("default", axis(1), 5)] == ["ada"]

    # Receipts

    def test_a_receipt_is_rendered_from_the_subject_and_kept(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0), "t0")])
        seen: list[Subject] = []

        def render(subject: Subject, _: frozenset[str]) -> str:
            seen.append(subject)
            return ",".join(ids(subject))

        assert gallery.receipt("k") is None
        subject = gallery.enroll("default", "ada", [template(axis(1), "t9")], receipt=PendingReceipt("k", "f1", render))
        assert seen == [subject]
        assert gallery.receipt("k") == Receipt("k", "f1", "t0,t9")
        assert gallery.receipt("other") is None

    def test_a_key_is_used_once(self, gallery: Gallery) -> None:
        before = gallery.enroll("default", "ada", [template(axis(0))], receipt=pending("k", "first"))
        for on_conflict in OnConflict:
            with pytest.raises(ReceiptExists):
                gallery.enroll(
                    "default",
                    "ada",
                    [template(axis(1))],
                    metadata={"new": 1},
                    on_conflict=on_conflict,
                    receipt=pending("k", "second"),
                )
        assert gallery.subject("default", "ada") == before
        assert gallery.receipt("k") == Receipt("k", "f", "first")
        assert len(gallery.search("default", axis(1), 5)) == 1

    def test_twins_enrol_once(self, gallery: Gallery) -> None:
        barrier = threading.Barrier(4)

        def attempt(_: int) -> str:
            barrier.wait()
            try:
                gallery.enroll("default", "ada", [template(axis(0))], receipt=pending("k"))
            except ReceiptExists:
                return "refused"
            return "enrolled"

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(attempt, range(4))) == ["enrolled", "refused", "refused", "refused"]
        assert len(gallery.subject("default", "ada").templates) == 1

    def test_a_receipt_that_cannot_be_rendered_enrols_nothing(self, gallery: Gallery) -> None:
        def render(subject: Subject, _: frozenset[str]) -> str:
            raise KeyError(subject.id)

        with pytest.raises(KeyError, match="ada"):
            gallery.enroll("default", "ada", [template(axis(0))], receipt=PendingReceipt("k", "f", render))
        with pytest.raises(SubjectNotFound):
            gallery.subject("default", "ada")
        assert gallery.receipt("k") is None
        assert gallery.search("default", axis(0), 1) == []

    def test_a_receipt_lasts_24_hours(self, gallery: Gallery, clock: Clock) -> None:
        gallery.enroll("default", "ada", [template(axis(0))], receipt=pending("k", "old"))
        clock.now += timedelta(hours=24) - timedelta(seconds=1)
        assert gallery.receipt("k") is not None
        clock.now += timedelta(seconds=1)
        assert gallery.receipt("k") is None
        gallery.enroll("default", "ada", [template(axis(1))], receipt=pending("k", "new"))
        assert gallery.receipt("k") == Receipt("k", "f", "new")

    def test_a_receipt_is_erased_with_its_subject(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0))], receipt=pending("k1"))
        gallery.enroll("default", "bob", [template(axis(1))], receipt=pending("k2"))
        gallery.enroll("default", "ada", [template(axis(0))])
        assert gallery.receipt("k1") is not None
        gallery.delete_subject("default", "ada")
        assert gallery.receipt("k1") is None
        assert gallery.receipt("k2") is not None
        gallery.delete_collection("default", force=True)
        assert gallery.receipt("k2") is None

    @pytest.mark.parametrize("erase", ["subject", "template", "replace", "other template", "other replace"])
    def test_a_receipt_is_erased_with_every_template_that_it_names(self, gallery: Gallery, erase: str) -> None:
        gallery.enroll("default", "ada", [template(axis(0), "a0"), template(axis(0), "a1")])
        named = PendingReceipt("k", "f", lambda subject, erased: "ada", {"a0": "ada"})
        gallery.enroll("default", "bob", [template(axis(0), "b0"), template(axis(0), "b1")], receipt=named)
        gallery.enroll("default", "bob", [template(axis(0), "b2")])
        gallery.delete_template("default", "ada", "a1")
        gallery.enroll("default", "ada", [template(axis(0), "a2")])
        gallery.delete_template("default", "bob", "b2")
        assert gallery.receipt("k") == Receipt("k", "f", "ada")
        match erase:
            case "subject":
                gallery.delete_subject("default", "ada")
            case "template":
                gallery.delete_template("default", "ada", "a0")
            case "replace":
                gallery.enroll("default", "ada", [template(axis(0))], on_conflict=OnConflict.REPLACE)
            case "other template":
                gallery.delete_template("default", "bob", "b1")
            case "other replace":
                gallery.enroll("default", "bob", [template(axis(0))], on_conflict=OnConflict.REPLACE)
        assert gallery.receipt("k") is None

    def test_an_answer_is_told_which_of_its_names_are_erased(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0), "a0")])
        names = {"a0": "ada", "gone": "ada", "b0": "bob"}
        receipt = PendingReceipt("k", "f", lambda subject, erased: ",".join(sorted(erased)), names)
        gallery.enroll("default", "bob", [template(axis(0), "b0")], receipt=receipt)
        assert gallery.receipt("k") == Receipt("k", "f", "gone")

    def test_a_clock_that_jumps_neither_keeps_receipts_for_long_nor_loses_new_ones(
        self, gallery: Gallery, clock: Clock
    ) -> None:
        gallery.enroll("default", "ada", [template(axis(0))], receipt=pending("k"))
        clock.now -= timedelta(hours=1)
        assert gallery.receipt("k") is not None
        gallery.enroll("default", "bob", [template(axis(1))])
        assert gallery.receipt("k") is not None
        clock.now -= timedelta(days=300)
        assert gallery.receipt("k") is None
        gallery.enroll("default", "cy", [template(axis(2))], receipt=pending("k", "again"))
        assert gallery.receipt("k") == Receipt("k", "f", "again")
        clock.now += timedelta(days=600)
        assert gallery.receipt("k") is None

    # Subjects

    def test_subjects_are_paged_by_code_point(self, gallery: Gallery) -> None:
        names = ["a", "B", "é", "\uffff", "\U0001f600", "a b", "10", "9"]
        for number, name in enumerate(names):
            gallery.enroll("default", name, [template(axis(number)), template(axis(number + 20))], metadata={"n": name})
        pages: list[Subject] = []
        while page := gallery.subjects("default", after=pages[-1].id if pages else None, limit=3):
            assert len(page) <= 3
            pages.extend(page)
        assert [subject.id for subject in pages] == sorted(names)
        assert pages == [gallery.subject("default", name) for name in sorted(names)]
        assert [subject.id for subject in gallery.subjects("default", after="9z", limit=1)] == ["B"]

    def test_update_replaces_the_metadata(self, gallery: Gallery) -> None:
        first = gallery.enroll("default", "ada", [template(axis(0))], metadata={"a": 1})
        updated = gallery.update_subject("default", "ada", {"b": "ü"})
        assert updated == gallery.subject("default", "ada")
        assert updated.metadata == {"b": "ü"}
        assert updated.created_at == first.created_at < updated.updated_at
        assert updated.templates == first.templates
        assert gallery.search("default", axis(0), 1)[0].metadata == {"b": "ü"}
        assert gallery.compare("default", "ada", axis(0)).metadata == {"b": "ü"}

    def test_deleting_a_subject_erases_its_templates(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0), "t"), template(axis(1))], metadata={"a": 1})
        gallery.enroll("default", "bob", [template(axis(2))])
        assert gallery.delete_subject("default", "ada") == 2
        assert [found.subject_id for found in gallery.search("default", axis(0), 5)] == ["bob"]
        again = gallery.enroll("default", "ada", [template(axis(3), "t")], on_conflict=OnConflict.REJECT)
        assert (ids(again), again.metadata) == (["t"], {})
        assert gallery.compare("default", "ada", axis(0)).distance == pytest.approx(2.0)

    def test_unknown_subject(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0))])
        gallery.create_collection("a")
        for collection, subject in [("a", "ada"), ("default", "bob"), ("default", "ADA"), ("default", "")]:
            for call in (
                gallery.subject,
                lambda c, s: gallery.update_subject(c, s, {}),
                gallery.delete_subject,
                lambda c, s: gallery.delete_template(c, s, "t"),
                lambda c, s: gallery.merge_subjects(c, s, "ada" if c == "default" else "bob"),
                lambda c, s: gallery.merge_subjects(c, "ada" if c == "default" else "bob", s),
                lambda c, s: gallery.compare(c, s, axis(0)),
            ):
                with pytest.raises(SubjectNotFound):
                    call(collection, subject)

    def test_deleting_a_template_leaves_the_others(self, gallery: Gallery) -> None:
        first = gallery.enroll("default", "ada", [template(axis(index), f"t{index}-") for index in range(3)])
        left = gallery.delete_template("default", "ada", "t1-")
        assert ids(left) == ["t0-", "t2-"]
        assert left.created_at == first.created_at < left.updated_at
        assert gallery.subject("default", "ada") == left
        assert gallery.compare("default", "ada", axis(1)).distance == pytest.approx(2.0)
        assert gallery.search("default", axis(1), 1)[0].distance == pytest.approx(2.0)
        assert gallery.compare("default", "ada", axis(2)).template_id == "t2-"

    def test_only_a_subjects_own_and_not_its_last_template_can_be_deleted(self, gallery: Gallery) -> None:
        before = gallery.enroll("default", "ada", [template(axis(0), "t0")])
        gallery.enroll("default", "bob", [template(axis(1), "t1"), template(axis(2), "t2")])
        with pytest.raises(TemplateNotFound):
            gallery.delete_template("default", "ada", "t1")
        with pytest.raises(TemplateNotFound):
            gallery.delete_template("default", "bob", "t0")
        with pytest.raises(LastTemplate):
            gallery.delete_template("default", "ada", "t0")
        gallery.delete_template("default", "bob", "t1")
        with pytest.raises(LastTemplate):
            gallery.delete_template("default", "bob", "t2")
        assert gallery.subject("default", "ada") == before
        assert {found.template_id for found in gallery.search("default", axis(0), 5)} == {"t0", "t2"}

    # Merging

    def test_merging_gives_a_subject_all_templates_of_its_duplicate(self, gallery: Gallery) -> None:
        first = gallery.enroll("default", "ada", [template(axis(0), "a0")], metadata={"a": 1})
        second = gallery.enroll("default", "ada-2", [template(axis(1), "u0", 11.5)], metadata={"b": 2})
        third = gallery.enroll("default", "ada", [template(axis(2), "a1")])
        gallery.enroll("default", "bob", [template(axis(5), "b0")])
        merged = gallery.merge_subjects("default", "ada", "ada-2")
        # In the order in which they were stored, as they were.
        assert merged.templates == (first.templates[0], second.templates[0], third.templates[1])
        assert (merged.id, merged.metadata, merged.created_at) == ("ada", {"a": 1}, first.created_at)
        assert merged.updated_at > third.updated_at
        assert gallery.subject("default", "ada") == merged
        with pytest.raises(SubjectNotFound):
            gallery.subject("default", "ada-2")
        assert [(c.subjects, c.templates) for c in gallery.collections()] == [(2, 4)]
        fused = unit(axis(0) + axis(1) + axis(2))
        found, _ = gallery.search("default", fused, 5)
        assert (found.subject_id, found.templates, found.norm) == ("ada", 3, 11.5)
        assert found.distance == pytest.approx(0, abs=1e-6)
        assert gallery.compare("default", "ada", axis(1)).template_id == "u0"
        again = gallery.enroll("default", "ada-2", [template(axis(7))], on_conflict=OnConflict.REJECT)
        assert again.metadata == {}
        assert gallery.search("default", axis(7), 1)[0].subject_id == "ada-2"
        with pytest.raises(ValueError, match="taken"):
            gallery.enroll("default", "eve", [template(axis(8), "u0")])
        assert len(ids(gallery.delete_template("default", "ada", "u0"))) == 2

    def test_of_a_merged_subject_the_newest_templates_count_whosever_they_were(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0)) for _ in range(3)])
        gallery.enroll("default", "ada-2", [template(axis(1)) for _ in range(MOST_FUSED - 1)])
        gallery.enroll("default", "ada", [template(axis(1))])
        gallery.enroll("default", "bob", [template(axis(2))])
        gallery.merge_subjects("default", "ada", "ada-2")
        found = gallery.search("default", axis(1), 1)[0]
        assert (found.distance, found.templates) == (pytest.approx(0, abs=1e-6), MOST_FUSED)
        assert gallery.size("default") == CollectionSize(2, MOST_FUSED)
        gallery.merge_subjects("default", "bob", "ada")
        assert gallery.size("default") == CollectionSize(1, MOST_FUSED)
        assert len(gallery.subject("default", "bob").templates) == MOST_FUSED + 4

    def test_a_merged_subject_is_as_crowded_as_its_templates_together(
        self, crowded: Gallery, crowding: MadeUpCrowding
    ) -> None:
        crowded.enroll("default", "ada", [template(axis(0, 3, 0.4))])
        crowded.enroll("default", "ada-2", [template(axis(1, 5, 0.7)), template(axis(2))])
        crowded.merge_subjects("default", "ada", "ada-2")
        fused = unit(sum_of([axis(0, 3, 0.4), axis(1, 5, 0.7), axis(2)]))
        assert crowding_of(crowded, "ada") == pytest.approx(crowding.of(fused), abs=1e-4)

    def test_whoever_agrees_to_a_merger_sees_all_templates_of_both(self, gallery: Gallery) -> None:
        many = [template(axis(i), f"m{i}", 9.0 + i) for i in range(MOST_FUSED + 2)]
        gallery.enroll("default", "ada", many)
        gallery.enroll("default", "ada-2", [template(axis(60), "u", 4.0)])
        seen: list[SubjectVectors] = []
        gallery.merge_subjects("default", "ada", "ada-2", agree=lambda one, other: seen.extend((one, other)))
        ada, duplicate = seen
        assert (ada.subject_id, ada.template_ids) == ("ada", tuple(t.id for t in many))
        np.testing.assert_array_equal(ada.embeddings, np.stack([t.embedding for t in many]))
        assert ada.norms.tolist() == [t.norm for t in many]
        assert (duplicate.subject_id, duplicate.template_ids, duplicate.norms.tolist()) == ("ada-2", ("u",), [4.0])

    def test_a_merger_that_is_refused_changes_nothing(self, gallery: Gallery) -> None:
        ada = gallery.enroll("default", "ada", [template(axis(0)), template(axis(1))], receipt=pending("k1"))
        other = gallery.enroll("default", "ada-2", [template(axis(2)) for _ in range(3)], receipt=pending("k2"))

        def refuse(*_: object) -> str:
            raise ZeroDivisionError

        with pytest.raises(TooManyTemplates, match=r"2 templates.* 3 .*more than 4"):
            gallery.merge_subjects("default", "ada", "ada-2", most=4)
        with pytest.raises(ZeroDivisionError):
            gallery.merge_subjects("default", "ada", "ada-2", agree=refuse)  # type: ignore[arg-type]
        with pytest.raises(ZeroDivisionError):
            gallery.merge_subjects("default", "ada", "ada-2", receipt=PendingReceipt("k3", "f", refuse))
        with pytest.raises(ReceiptExists):
            gallery.merge_subjects("default", "ada", "ada-2", receipt=pending("k1"))
        with pytest.raises(ValueError, match="itself"):
            gallery.merge_subjects("default", "ada", "ada")
        assert (gallery.subject("default", "ada"), gallery.subject("default", "ada-2")) == (ada, other)
        assert [key for key in ("k1", "k2", "k3") if gallery.receipt(key)] == ["k1", "k2"]
        assert {c.subject_id: c.templates for c in gallery.search("default", axis(2), 5)} == {"ada-2": 3, "ada": 2}
        assert len(gallery.merge_subjects("default", "ada", "ada-2", most=5).templates) == 5

    def test_a_merger_is_answered_once_under_its_key(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0), "a0")])
        gallery.enroll("default", "ada-2", [template(axis(1), "u0")])
        receipt = PendingReceipt("k", "f", lambda subject, _: ",".join(ids(subject)))
        gallery.merge_subjects("default", "ada", "ada-2", receipt=receipt)
        assert gallery.receipt("k") == Receipt("k", "f", "a0,u0")
        # Before anybody notices that the duplicate is gone.
        with pytest.raises(ReceiptExists):
            gallery.merge_subjects("default", "ada", "ada-2", receipt=receipt)
        gallery.delete_template("default", "ada", "u0")
        assert gallery.receipt("k") is None

    def test_receipts_that_name_a_duplicate_go_with_it(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0), "a0")], receipt=pending("own"))
        gallery.enroll("default", "ada-2", [template(axis(0), "u0")], receipt=pending("of the duplicate"))
        for key, names in {"names it": {"u0": "ada-2"}, "names the other": {"a0": "ada"}}.items():
            receipt = PendingReceipt(key, "f", lambda subject, erased: "", names)
            gallery.enroll("default", f"who {key}", [template(axis(1))], receipt=receipt)
        gallery.merge_subjects("default", "ada", "ada-2")
        left = [k for k in ("own", "of the duplicate", "names it", "names the other") if gallery.receipt(k)]
        assert left == ["own", "names the other"]
        # An answer that was made before the merger and is stored after it.
        late = PendingReceipt("late", "f", lambda subject, erased: ",".join(erased), {"u0": "ada-2", "a0": "ada"})
        gallery.enroll("default", "eve", [template(axis(2))], receipt=late)
        assert gallery.receipt("late") == Receipt("late", "f", "u0")

    def test_audits_forget_a_duplicate_that_was_merged(self, gallery: Gallery) -> None:
        identity, moment = gallery.identity("default"), datetime(2026, 3, 1, 12, tzinfo=UTC)
        for number, subject in enumerate(("ada", "ada-2", "eve")):
            gallery.enroll("default", subject, [template(axis(number), f"a{number}")])
        pairs = tuple(AuditFinding("pair", p, {}) for p in (("a0", "a1"), ("a2", "a1"), ("a0", "a2")))
        done = StoredAudit("done", moment, {}, None, (*pairs, AuditFinding("weak", ("a1",), {})))
        gallery.save_audit("default", identity, done)
        gallery.merge_subjects("default", "ada", "ada-2")
        stored = gallery.audit("default")
        assert stored is not None
        assert [(f.templates, f.subjects) for f in stored.findings] == [(("a0", "a2"), ("ada", "eve"))]
        # One that was under way during the merger: nobody is a duplicate of himself.
        gallery.save_audit("default", identity, done)
        stored = gallery.audit("default")
        assert stored is not None
        found = [(f.kind, f.subjects) for f in stored.findings]
        assert found == [("pair", ("eve", "ada")), ("pair", ("ada", "eve")), ("weak", ("ada",))]

    # Search and comparison

    def test_an_empty_gallery_finds_nobody(self, gallery: Gallery) -> None:
        assert gallery.search("default", axis(0), 10) == []

    def test_top_k_beyond_the_gallery_gives_everyone(self, gallery: Gallery) -> None:
        for index in range(3):
            gallery.enroll("default", f"s{index}", [template(axis(index))])
        assert len(gallery.search("default", axis(0), 1000)) == 3

    def test_one_candidate_a_subject_however_many_templates(
        self, gallery: Gallery, random: np.random.Generator
    ) -> None:
        for _ in range(20):
            gallery.enroll("default", "crowd", [template(near(random, axis(0))) for _ in range(20)])
        gallery.enroll("default", "ada", [template(axis(1))])
        gallery.enroll("default", "bob", [template(axis(1, 0, 0.2))])
        assert [found.subject_id for found in gallery.search("default", axis(0), 3)] == ["crowd", "bob", "ada"]

    def test_a_subject_is_as_far_as_the_mean_direction_of_its_templates(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0)), template(axis(1))])
        found = gallery.compare("default", "ada", unit(axis(0) + axis(1)))
        assert found.distance == pytest.approx(0, abs=1e-6)
        assert found.templates == 2
        # Nearer to one of them is not nearer to the subject.
        assert gallery.compare("default", "ada", axis(0)).distance == pytest.approx(2 - 2**0.5, abs=1e-6)

    def test_only_the_newest_templates_count_of_more_than_were_measured(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0)) for _ in range(3)])
        gallery.enroll("default", "ada", [template(axis(1)) for _ in range(MOST_FUSED)])
        found = gallery.search("default", axis(1), 1)[0]
        assert (found.distance, found.templates) == (pytest.approx(0, abs=1e-6), MOST_FUSED)

    def test_the_length_of_a_subject_is_that_of_its_longest_template(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0), norm=9.5), template(axis(1), norm=11.25)])
        assert gallery.compare("default", "ada", axis(0)).norm == 11.25
        assert gallery.search("default", axis(0), 1)[0].norm == 11.25

    def test_templates_that_cancel_each_other_leave_the_newest(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0)), template(-axis(0))])
        assert gallery.compare("default", "ada", -axis(0)).distance == pytest.approx(0, abs=1e-6)

    def test_ties_are_broken_by_subject_id(self, gallery: Gallery) -> None:
        names = [f"s{index:02}" for index in range(60)]
        for name in reversed(names):
            gallery.enroll("default", name, [template(axis(1))])
        gallery.enroll("default", "zz", [template(axis(0))])
        assert [found.subject_id for found in gallery.search("default", axis(0), 5)] == ["zz", *names[:4]]

    def test_opposite_and_equal_embeddings_are_4_and_0_apart(self, gallery: Gallery) -> None:
        long = axis(0) * np.float32(1.0009)
        gallery.enroll("default", "ada", [template(-long)])
        assert gallery.compare("default", "ada", long).distance == 4.0
        assert gallery.compare("default", "ada", -long).distance == 0.0
        assert gallery.search("default", long, 1)[0].distance == 4.0

    def test_search_equals_brute_force_through_any_history(self, gallery: Gallery, random: np.random.Generator) -> None:
        centres = {f"s{index}": random_embedding(random) for index in range(25)}
        model: dict[str, dict[str, Embedding]] = {}
        for step in range(120):
            name = f"s{random.integers(25)}"
            new = [template(near(random, centres[name], 0.05)) for _ in range(random.integers(1, 4))]
            added = {each.id: each.embedding for each in new}
            action = random.choice(["append", "append", "replace", "delete", "delete template"])
            stored = model.get(name, {})
            if action in ("append", "replace") or not stored:
                on_conflict = OnConflict.REPLACE if action == "replace" else OnConflict.APPEND
                gallery.enroll("default", name, new, on_conflict=on_conflict)
                model[name] = added if action == "replace" else stored | added
            elif action == "delete" or len(stored) == 1:
                assert gallery.delete_subject("default", name) == len(model.pop(name))
            else:
                gallery.delete_template("default", name, stored_id := next(iter(stored)))
                del stored[stored_id]
            if step % 5 == 0:
                probe = near(random, centres[f"s{random.integers(25)}"], 0.1)
                self.assert_search_is_exact(gallery, model, probe, int(random.integers(1, 30)))

    def test_near_ties_are_decided_by_the_exact_distance(self, gallery: Gallery, random: np.random.Generator) -> None:
        """The subjects differ by less than half precision can tell, so an index that rounds cannot order them."""
        model = {}
        for index in range(300):
            new = template(unit(axis(0) + 0.3 * axis(1) + 2e-5 * random.standard_normal(128)))
            model[f"s{index}"] = {new.id: new.embedding}
            gallery.enroll("default", f"s{index}", [new])
        probe = unit(axis(0) + 0.5 * axis(2) + 0.01 * random.standard_normal(128))
        for top_k in (1, 5, 40):
            self.assert_search_is_exact(gallery, model, probe, top_k)

    @staticmethod
    def assert_search_is_exact(
        gallery: Gallery,
        model: dict[str, dict[str, Embedding]],
        probe: Embedding,
        top_k: int,
        crowding: MadeUpCrowding | None = None,
    ) -> None:
        found = gallery.search("default", probe, top_k)
        used = {name: dict(list(stored.items())[-MOST_FUSED:]) for name, stored in model.items()}
        fused = {name: unit(sum_of(stored.values())) for name, stored in used.items()}
        best = {name: exact(probe, embedding) for name, embedding in fused.items()}
        crowded = {name: 0.0 if crowding is None else crowding.of(embedding) for name, embedding in fused.items()}
        assert len({each.subject_id for each in found}) == len(found) == min(top_k, len(model))
        adjusted = [each.distance + each.crowding for each in found]
        assert list(zip(adjusted, (each.subject_id for each in found), strict=True)) == sorted(
            (each.distance + each.crowding, each.subject_id) for each in found
        )
        nearest_first = sorted(best[name] + crowded[name] for name in model)
        np.testing.assert_allclose(adjusted, nearest_first[: len(found)], atol=2e-5 if crowding else 1e-6)
        for each in found:
            stored = used[each.subject_id]
            assert each.distance == pytest.approx(best[each.subject_id], abs=1e-6)
            assert each.crowding == pytest.approx(crowded[each.subject_id], abs=2e-5)
            assert each.templates == len(stored)
            nearest = min(exact(probe, embedding) for embedding in stored.values())
            assert exact(probe, stored[each.template_id]) == pytest.approx(nearest, abs=1e-6)
            assert gallery.compare("default", each.subject_id, probe) == each

    # Crowding

    def test_without_a_cohort_nobody_is_crowded(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0)), template(axis(1))])
        assert crowding_of(gallery, "ada") == 0

    def test_the_crowding_of_a_subject_is_that_of_what_its_templates_are_fused_to(
        self, crowded: Gallery, crowding: MadeUpCrowding, random: np.random.Generator
    ) -> None:
        one, two, three = (random_embedding(random) for _ in range(3))
        gallery = crowded

        def expected(*embeddings: Embedding) -> object:
            return pytest.approx(crowding.of(unit(sum_of(embeddings))), abs=1e-5)

        gallery.enroll("default", "ada", [template(one)])
        assert crowding_of(gallery, "ada") == expected(one) != 0
        gallery.enroll("default", "ada", [template(two, "two"), template(three)])
        assert crowding_of(gallery, "ada") == expected(one, two, three)
        gallery.delete_template("default", "ada", "two")
        assert crowding_of(gallery, "ada") == expected(one, three)
        gallery.enroll("default", "ada", [template(two)], on_conflict=OnConflict.REPLACE)
        assert crowding_of(gallery, "ada") == expected(two)
        gallery.update_subject("default", "ada", {"a": 1})
        assert crowding_of(gallery, "ada") == expected(two)
        many = [random_embedding(random) for _ in range(MOST_FUSED + 3)]
        gallery.enroll("default", "ada", [template(each) for each in many])
        assert crowding_of(gallery, "ada") == expected(*many[-MOST_FUSED:])
        gallery.create_collection("a")
        gallery.enroll("a", "ada", [template(one)])
        assert crowding_of(gallery, "ada", "a") == expected(one)

    def test_as_many_templates_are_compared_as_have_rates(
        self, opened_with: OpenedWith, crowding: MadeUpCrowding, random: np.random.Generator
    ) -> None:
        many, probe = [random_embedding(random) for _ in range(4)], random_embedding(random)

        def has(gallery: Gallery, most: int, *embeddings: Embedding) -> None:
            fused = unit(sum_of(embeddings[-most:]))
            found = gallery.compare("default", "ada", probe)
            assert found.templates == min(len(embeddings), most)
            assert found.distance == pytest.approx(float(np.square(probe - fused).sum()), abs=1e-5)
            assert crowding_of(gallery, "ada") == pytest.approx(crowding.of(fused), abs=1e-5)
            (searched,) = (c for c in gallery.search("default", probe, 99) if c.subject_id == "ada")
            assert (searched.distance, searched.templates) == (found.distance, found.templates)
            assert gallery.size("default").most_templates == min(len(embeddings), most)
            gallery.check()

        with opened_with(MOST_FUSED) as gallery:
            gallery.enroll("default", "ada", [template(each, f"ada-{n}") for n, each in enumerate(many)])
            has(gallery, MOST_FUSED, *many)
        for most in (2, 3, MOST_FUSED, 2):
            with opened_with(most) as gallery:
                has(gallery, most, *many)
        with opened_with(2) as gallery:
            gallery.delete_template("default", "ada", "ada-3")
            has(gallery, 2, *many[:3])
            gallery.enroll("default", "ada", [template(many[3])])
            has(gallery, 2, *many)
            gallery.enroll("default", "other", [template(each) for each in many])
            gallery.merge_subjects("default", "ada", "other")
            has(gallery, 2, *many, *many)
            (listed,) = gallery.subject_vectors("default", after=None, limit=9)
            assert len(listed.template_ids) == MOST_FUSED
        with opened_with(MOST_FUSED) as gallery:
            has(gallery, MOST_FUSED, *many, *many)

    def test_who_is_found_depends_on_the_templates_that_are_compared(self, opened_with: OpenedWith) -> None:
        with opened_with(MOST_FUSED) as gallery:
            gallery.enroll("default", "ada", [template(axis(0)), template(axis(1))])
            for number in range(40):
                gallery.enroll(
                    "default", f"s{number:02}", [template(unit(axis(1) + np.float32(0.4) * axis(2 + number)))]
                )
            assert gallery.search("default", axis(1), 1, crowded=False)[0].subject_id != "ada"
        with opened_with(1) as gallery:
            (found,) = gallery.search("default", axis(1), 1, crowded=False)
            assert (found.subject_id, found.distance) == ("ada", pytest.approx(0, abs=1e-6))

    def test_an_enrolment_that_fails_leaves_the_crowding_as_it_was(
        self, crowded: Gallery, random: np.random.Generator
    ) -> None:
        def fail(_: Subject, __: frozenset[str]) -> str:
            raise RuntimeError("no answer")

        crowded.enroll("default", "ada", [template(random_embedding(random))])
        before = crowding_of(crowded, "ada")
        for on_conflict in (OnConflict.APPEND, OnConflict.REPLACE):
            new = [template(random_embedding(random))]
            with pytest.raises(RuntimeError, match="no answer"):
                crowded.enroll("default", "ada", new, on_conflict=on_conflict, receipt=PendingReceipt("k", "f", fail))
            assert crowding_of(crowded, "ada") == before

    def test_a_crowded_subject_comes_after_one_that_is_as_far_and_stands_alone(
        self, crowded: Gallery, crowding: MadeUpCrowding
    ) -> None:
        probe, spread = axis(20), [axis(20, index, 0.9) for index in range(8, 20)]
        lonely, nearer = axis(20, 3, -0.9), axis(20, 3, 0.875)
        assert crowding.of(nearer) > crowding.of(lonely) + 0.2
        for name, embedding in [("lonely", lonely), ("nearer", nearer), *((f"s{i}", e) for i, e in enumerate(spread))]:
            crowded.enroll("default", name, [template(embedding)])
        found = {each.subject_id: each for each in crowded.search("default", probe, 100)}
        order = list(found)
        assert found["nearer"].distance < found["lonely"].distance
        assert order.index("lonely") < order.index("nearer")

    def test_searches_equal_brute_force_by_distance_and_crowding(
        self, crowded: Gallery, crowding: MadeUpCrowding, random: np.random.Generator
    ) -> None:
        centres = [unit(axis(0) + 0.12 * random.standard_normal(128)) for _ in range(150)]
        model: dict[str, dict[str, Embedding]] = {}
        for index, centre in enumerate(centres):
            new = [template(near(random, centre, 0.05)) for _ in range(1 + index % 4)]
            crowded.enroll("default", f"s{index:03}", new)
            model[f"s{index:03}"] = {each.id: each.embedding for each in new}
        for step in range(40):
            name = f"s{random.integers(150):03}"
            if step % 3 and len(model[name]) > 1:
                crowded.delete_template("default", name, gone := next(iter(model[name])))
                del model[name][gone]
            else:
                new_one = template(near(random, centres[int(name[1:])], 0.05))
                crowded.enroll("default", name, [new_one])
                model[name][new_one.id] = new_one.embedding
            probe = near(random, centres[int(random.integers(150))], 0.06)
            self.assert_search_is_exact(crowded, model, probe, int(random.choice([1, 2, 5, 30, 200])), crowding)

    def test_ties_of_distance_and_crowding_together_are_decided_by_the_exact_numbers(
        self, crowded: Gallery, crowding: MadeUpCrowding, random: np.random.Generator
    ) -> None:
        """The subjects differ by less than half precision can tell, so an index that rounds cannot order them."""
        crowding.scale = 0.002
        model = {}
        for index in range(300):
            new = template(unit(axis(0) + 0.3 * axis(1) + 1e-4 * random.standard_normal(128)))
            model[f"s{index}"] = {new.id: new.embedding}
            crowded.enroll("default", f"s{index}", [new])
        probe = unit(axis(0) + 0.5 * axis(2) + 0.01 * random.standard_normal(128))
        for top_k in (1, 5, 40):
            self.assert_search_is_exact(crowded, model, probe, top_k, crowding)

    # Concurrency

    def test_a_write_is_seen_by_every_search_that_starts_after_it(
        self, gallery: Gallery, random: np.random.Generator
    ) -> None:
        """Readers note who was enrolled and who erased before a search, and hold its answer against that."""
        embeddings = [random_embedding(random) for _ in range(60)]
        enrolled: set[int] = set()
        leaving: set[int] = set()
        erased: set[int] = set()
        done = threading.Event()

        def write() -> None:
            try:
                for index, embedding in enumerate(embeddings):
                    gallery.enroll("default", f"s{index}", [template(embedding)])
                    enrolled.add(index)
                    if index % 2:
                        leaving.add(index - 1)
                        gallery.delete_subject("default", f"s{index - 1}")
                        erased.add(index - 1)
            finally:
                done.set()

        def read(seed: int) -> int:
            mine = np.random.default_rng(seed)
            searches = 0
            while not done.is_set() or searches < 20:
                index = int(mine.integers(max(1, len(enrolled))))
                certain, gone = index in enrolled, index in erased
                found = gallery.search("default", embeddings[index], 1)
                hit = bool(found) and found[0].subject_id == f"s{index}"
                assert not (hit and gone), "an erased subject was found"
                assert hit or not certain or index in leaving, "an enrolled subject was not found"
                searches += 1
            return searches

        with ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(read, seed) for seed in range(3)]
            pool.submit(write).result()
            assert all(reader.result() for reader in readers)
        assert {found.subject_id for found in gallery.search("default", embeddings[1], 99)} == {
            f"s{index}" for index in enrolled - erased
        }

    def test_replace_never_shows_a_subject_without_or_with_mixed_templates(
        self, gallery: Gallery, random: np.random.Generator
    ) -> None:
        """The templates of a generation lie along one of two axes in turn: what mixes two lies between the axes."""
        gallery.enroll("default", "other", [template(axis(100))])
        gallery.enroll("default", "ada", [template(axis(0), "g0-a"), template(axis(0), "g0-b")])
        done = threading.Event()

        def write() -> None:
            try:
                for generation in range(1, 40):
                    new = [template(axis(generation % 2), f"g{generation}-{name}") for name in "ab"]
                    gallery.enroll("default", "ada", new, on_conflict=OnConflict.REPLACE)
            finally:
                done.set()

        def read(_: int) -> None:
            seen = 0
            while not done.is_set():
                first, second = gallery.search("default", axis(seen % 2), 5)
                assert (first.subject_id, second.subject_id) == ("ada", "other")
                generation = int(first.template_id.split("-")[0][1:])
                assert first.distance == (0.0 if generation % 2 == seen % 2 else 2.0)
                assert generation >= seen, "a template came back after it was replaced"
                seen = generation
                templates = ids(gallery.subject("default", "ada"))
                assert len(templates) == 2
                assert templates[0].split("-")[0] == templates[1].split("-")[0]
                assert gallery.compare("default", "ada", axis(0)).distance in (0.0, 2.0)

        with ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(read, seed) for seed in range(3)]
            pool.submit(write).result()
            for reader in readers:
                reader.result()

    def test_a_merger_is_seen_as_a_whole(self, gallery: Gallery) -> None:
        done = threading.Event()

        def write() -> None:
            try:
                for number in range(15):
                    gallery.enroll("default", "ada-2", [template(axis(1), f"u{number}")])
                    gallery.merge_subjects("default", "ada", "ada-2")
            finally:
                done.set()

        def read() -> int:
            latest, searches = 1, 0
            while not done.is_set() or searches < 20:
                found = {c.subject_id: c.templates for c in gallery.search("default", axis(0), 5)}
                assert found.keys() <= {"ada", "ada-2"}
                assert found.get("ada-2", 1) == 1
                assert latest <= found["ada"] <= MOST_FUSED
                latest, searches = found["ada"], searches + 1
            return searches

        gallery.enroll("default", "ada", [template(axis(0))])
        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            pool.submit(write).result()
            assert all(reader.result() for reader in readers)
        assert len(gallery.subject("default", "ada").templates) == 16

    def test_no_answer_that_is_stored_during_a_merger_names_the_duplicate(self, gallery: Gallery) -> None:
        gallery.enroll("default", "ada", [template(axis(0))])
        rounds = 25
        barrier = threading.Barrier(2)

        def enrol(number: int) -> None:
            names = {f"u{number}": "ada-2"}
            receipt = PendingReceipt(
                f"k{number}", "f", lambda _, erased: "nobody" if names.keys() <= erased else "ada-2", names
            )
            barrier.wait()
            gallery.enroll("default", "eve", [template(axis(2))], receipt=receipt)

        def merge() -> None:
            barrier.wait()
            gallery.merge_subjects("default", "ada", "ada-2")

        with ThreadPoolExecutor(2) as pool:
            for number in range(rounds):
                gallery.enroll("default", "ada-2", [template(axis(1), f"u{number}")])
                for done in [pool.submit(enrol, number), pool.submit(merge)]:
                    done.result()
        found = [gallery.receipt(f"k{number}") for number in range(rounds)]
        assert {receipt.body for receipt in found if receipt is not None} <= {"nobody"}

    def test_mergers_in_each_others_way_lose_no_template(self, gallery: Gallery) -> None:
        names = [f"s{number}" for number in range(6)]
        for number, name in enumerate(names):
            gallery.enroll("default", name, [template(axis(number), f"first-{name}")])
        barrier = threading.Barrier(4)

        def work(worker: int) -> None:
            random = np.random.default_rng(worker)
            barrier.wait()
            for number in range(10):
                one, other = (str(name) for name in random.choice(names, 2, replace=False))
                gallery.enroll("default", one, [template(axis(9), f"{worker}-{number}")])
                with contextlib.suppress(SubjectNotFound):
                    gallery.merge_subjects("default", one, other)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        stored = [id_ for subject in gallery.subjects("default", after=None, limit=99) for id_ in ids(subject)]
        wanted = [f"first-{name}" for name in names] + [f"{w}-{n}" for w in range(4) for n in range(10)]
        assert sorted(stored) == sorted(wanted)
        assert gallery.collections()[0].templates == len(wanted)

    def test_parallel_writers_lose_nothing(self, gallery: Gallery, random: np.random.Generator) -> None:
        embeddings = [[random_embedding(random) for _ in range(12)] for _ in range(4)]
        shared = {f"{writer}-{index}": e for writer, own in enumerate(embeddings) for index, e in enumerate(own)}

        def write(writer: int) -> None:
            for index, embedding in enumerate(embeddings[writer]):
                gallery.enroll("default", f"own-{writer}-{index}", [template(embedding)])
                gallery.enroll("default", "shared", [template(embedding, f"{writer}-{index}")])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        stored = ids(gallery.subject("default", "shared"))
        assert sorted(stored) == sorted(shared)
        fused = unit(sum_of(shared[id_] for id_ in stored[-MOST_FUSED:]))
        for writer in range(4):
            for index, embedding in enumerate(embeddings[writer]):
                (found,) = gallery.search("default", embedding, 1)
                assert (found.subject_id, found.distance) == (f"own-{writer}-{index}", 0.0)
                distance = gallery.compare("default", "shared", embedding).distance
                assert distance == pytest.approx(exact(embedding, fused), abs=1e-6)
