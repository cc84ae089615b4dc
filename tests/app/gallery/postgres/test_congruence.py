"""Both galleries give the same answers to the same calls."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import TesseraError
from app.gallery import Gallery, NewTemplate, OnConflict, SqliteGallery, Targets
from app.gallery.postgres.gallery import PostgresGallery
from app.gallery.protocol import PendingReceipt
from tests.app.gallery.contract import Clock, MadeUpCrowding, near, random_embedding
from tests.app.gallery.sqlite.support import DIGEST

pytestmark = pytest.mark.slow

CALLS = 1000
COLLECTIONS = ["default", "a", "b"]


class Walk:
    """The same random calls to two galleries, each with a clock of its own that shows the same time."""

    def __init__(self, galleries: tuple[Gallery, Gallery], clocks: tuple[Clock, Clock], seed: int) -> None:
        self.galleries, self.clocks = galleries, clocks
        self.random = np.random.default_rng(seed)
        self.centres = [random_embedding(self.random) for _ in range(30)]
        self.templates: dict[str, str] = {}
        self.answers: dict[str, int] = {}

    def both(self, name: str, call: Callable[[Gallery], Any]) -> None:
        """One call to both; the answers or the errors must be equal."""
        for clock in self.clocks:
            clock.now = self.clocks[0].now.replace(microsecond=0)
        first, second = (self._answer(gallery, call) for gallery in self.galleries)
        assert first == second, name
        for clock in self.clocks:
            clock.now += timedelta(seconds=1)
        kind = f"{name}: {first[0]}"
        self.answers[kind] = self.answers.get(kind, 0) + 1

    @staticmethod
    def _answer(gallery: Gallery, call: Callable[[Gallery], Any]) -> tuple[str, Any]:
        try:
            return "ok", _without_microseconds(call(gallery))
        except TesseraError as error:
            return error.code, None
        except ValueError:
            return "ValueError", None

    def step(self) -> None:
        collection = COLLECTIONS[min(int(self.random.exponential(0.5)), 2)]
        number = int(self.random.integers(30))
        subject, key = f"s{number}", f"k{self.random.integers(40)}"
        probe = near(self.random, self.centres[int(self.random.integers(30))], 0.06)
        old = str(self.random.choice(list(self.templates))) if self.templates else "none"
        top_k, crowded = int(self.random.choice([1, 2, 5, 40])), bool(self.random.integers(2))
        match self.random.choice(14):
            case 0 | 1 | 2 | 3:
                self._enroll(collection, number, key, old)
            case 4 | 5 | 6:
                self.both("search", lambda g: g.search(collection, probe, top_k, crowded=crowded))
            case 7:
                self.both("compare", lambda g: g.compare(collection, subject, probe))
            case 8:
                self.both("delete subject", lambda g: g.delete_subject(collection, subject))
            case 9:
                self.both("delete template", lambda g: g.delete_template(collection, *self._first(g, collection)))
            case 10:
                self.both("update", lambda g: g.update_subject(collection, subject, {"n": top_k, "é": "\x00"}))
            case 11:
                self._merge(collection, number, key)
            case 12:
                self._collections(collection)
            case 13:
                self._lists(collection, subject, old, key)

    @staticmethod
    def _first(gallery: Gallery, collection: str) -> tuple[str, str]:
        stored = gallery.subjects(collection, after=None, limit=1)
        return (stored[0].id, stored[0].templates[0].id) if stored else ("none", "none")

    def _enroll(self, collection: str, number: int, key: str, old: str) -> None:
        new = [
            NewTemplate(f"t{self.random.integers(10**9)}", near(self.random, self.centres[number], 0.05), 9.0 + i)
            for i in range(int(self.random.integers(1, 5)))
        ]
        names = {old: self.templates.get(old, "none")}
        self.templates |= {template.id: f"s{number}" for template in new}
        receipt = PendingReceipt(key, "f", lambda s, erased: f"{s.id} {sorted(erased)}", names)
        conflict = list(OnConflict)[int(self.random.integers(3))]
        with_receipt, most = self.random.random() < 0.3, int(self.random.choice([4, 12]))
        metadata = {"x": [number, None, "ü"]} if self.random.random() < 0.3 else None
        self.both(
            "enroll",
            lambda g: g.enroll(
                collection,
                f"s{number}",
                new,
                metadata=metadata,
                on_conflict=conflict,
                receipt=receipt if with_receipt else None,
                most=most,
            ),
        )

    def _merge(self, collection: str, number: int, key: str) -> None:
        duplicate = f"s{(number + int(self.random.integers(4))) % 30}"
        most = int(self.random.choice([6, 20]))
        receipt = PendingReceipt(key, "f", lambda s, _: f"{s.id} {[t.id for t in s.templates]}")
        with_receipt, seen = bool(self.random.integers(2)), list[Any]()
        self.both(
            "merge",
            lambda g: g.merge_subjects(
                collection,
                f"s{number}",
                duplicate,
                agree=lambda *both: seen.append([(v.template_ids, v.embeddings.tolist(), v.crowding) for v in both]),
                receipt=receipt if with_receipt else None,
                most=most,
            ),
        )
        assert seen[:1] == seen[1:]

    def _collections(self, collection: str) -> None:
        force = bool(self.random.random() < 0.1)
        self.both("create", lambda g: g.create_collection(collection, Targets(fmr=1e-3)))
        self.both("targets", lambda g: g.update_collection(collection, Targets(fpir=0.05, claim="pooled")))
        if self.random.random() < 0.3:
            self.both("erase collection", lambda g: g.delete_collection(collection, force=force))
        self.both("collections", lambda g: g.collections())

    def _lists(self, collection: str, subject: str, old: str, key: str) -> None:
        self.both("receipt", lambda g: g.receipt(key))
        self.both("subject", lambda g: g.subject(collection, subject))
        self.both("subjects", lambda g: g.subjects(collection, after=subject, limit=4))
        self.both("size", lambda g: g.size(collection))
        self.both("stored", lambda g: g.stored_templates([old, "none", *list(self.templates)[-3:]]))
        self.both(
            "vectors",
            lambda g: [
                (v.subject_id, v.template_ids, v.embeddings.tolist(), v.norms.tolist(), v.crowding)
                for v in g.subject_vectors(collection, after=subject, limit=5)
            ],
        )


def _without_microseconds(answer: Any) -> Any:
    """Both galleries read the clock, and not equally often."""
    if hasattr(answer, "created_at") and hasattr(answer, "updated_at"):
        return (
            answer.id,
            answer.metadata,
            answer.created_at.replace(microsecond=0),
            answer.updated_at.replace(microsecond=0),
            [(t.id, t.created_at.replace(microsecond=0)) for t in answer.templates],
        )
    if hasattr(answer, "created_at"):
        return answer.id, answer.created_at.replace(microsecond=0), answer.subjects, answer.templates, answer.targets
    return [_without_microseconds(each) for each in answer] if isinstance(answer, list) else answer


@pytest.mark.parametrize("scale", [0.0, 0.05])
def test_a_thousand_random_calls_have_the_same_answers(tmp_path: Path, url: str, scale: float) -> None:
    crowding = MadeUpCrowding(scale)
    clocks = Clock(), Clock()
    with (
        closing(SqliteGallery(tmp_path / "data", encoder_digest=DIGEST, crowding=crowding, clock=clocks[0])) as one,
        closing(PostgresGallery(url, encoder_digest=DIGEST, crowding=crowding, clock=clocks[1])) as two,
    ):
        walk = Walk((one, two), clocks, seed=int(100 * scale))
        while sum(walk.answers.values()) < CALLS:
            walk.step()
        two.check()
    for kind in (
        "merge: ok",
        "search: ok",
        "enroll: ok",
        "enroll: subject_exists",
        "enroll: idempotency_conflict",
        "receipt: ok",
    ):
        assert walk.answers[kind] > 4, walk.answers
    assert walk.answers["enroll: too_many_templates"] > 0
    assert walk.answers["delete template: ok"] > 0
