"""Audits of searches: how often a search by the index misses whom a search of everybody finds."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

import numpy as np

from app.embeddings import MOST_FUSED, Embedding
from app.errors import TesseraError
from app.gallery.damage import Damage
from app.gallery.postgres.search import IndexUse, nearest_subjects
from app.gallery.postgres.templates import Reading, stored_rows
from app.gallery.sqlite.ranking import vectors_of
from app.postgres import Connection, Postgres

NEAREST, FARTHEST = 0.2, 0.8
"""Squared distances between a made-up probe and the template that it is made of, drawn evenly: those of matches in
collections large enough for the index, and beyond. The strictest threshold that the calibration supports, which such
collections use unless a request names another one, lies below 0.6 with tessera-l."""
STATEMENT_SECONDS = 60
SHARE = 0.01
"""Of its time, a replica spends at most so much on audits: where one takes long, the next ones are farther apart."""
_LOCK = 0x7E55E7A2

_LOGGER = logging.getLogger("tessera")


@dataclass(frozen=True, slots=True)
class SearchAuditCounts:
    """Since the start: audits that were made, those in which the index missed the nearest, those that failed."""

    made: int = 0
    missed: int = 0
    failed: int = 0


def photograph_like(template: Embedding, random: np.random.Generator) -> Embedding:
    """A probe as another photograph of the same person would give it: unit-length float32 [128].

    It lies in a random direction from the template, ``NEAREST`` to ``FARTHEST`` away. Nobody's photograph is needed.
    """
    cosine = 1.0 - random.uniform(NEAREST, FARTHEST) / 2
    aside = random.standard_normal(len(template))
    aside -= (aside @ template) * template
    probe = cosine * template + np.sqrt(1.0 - cosine**2) * aside / np.linalg.norm(aside)
    made: Embedding = (probe / np.linalg.norm(probe)).astype(np.float32)
    return made


def audit_search(
    database: Postgres, index: IndexUse, random: np.random.Generator, most: int = MOST_FUSED
) -> bool | None:
    """Searches once for everybody near a made-up probe and once by the index, in one state of the database.

    Whether the index gave the nearest subject, or one as near. None: no collection is large enough for
    the index, another replica is at it, or the subject that was drawn is damaged. Raises GalleryUnavailable.
    """
    with database.snapshot() as connection:
        # One core of the server at most, and not for ever.
        connection.execute(
            """
            SELECT set_config('statement_timeout', %s, true), set_config('max_parallel_workers_per_gather', '0', true)
            """,
            (f"{STATEMENT_SECONDS}s",),
        )
        row = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,)).fetchone()
        assert row is not None
        collection = _draw_collection(connection, index.larger_than, random) if row[0] else None
        template = None if collection is None else _draw_template(connection, collection, random)
        if collection is None or template is None:
            return None
        probe = photograph_like(template, random)
        nearest, found = (
            nearest_subjects(
                connection, collection, probe, 1, crowded=True, breadth=kept, reading=Reading(None, most, _leave_out)
            )
            for kept in (None, index.breadth)
        )
    if not nearest:
        return None
    return bool(found) and found[0].ranking_distance(crowded=True) <= nearest[0].ranking_distance(crowded=True)


def _draw_collection(connection: Connection, larger_than: int, random: np.random.Generator) -> int | None:
    """One of those that are searched by the index, by how many subjects they have."""
    rows = connection.execute(
        "SELECT collection, SUM(subjects)::bigint FROM sizes GROUP BY collection HAVING SUM(subjects) > %s",
        (larger_than,),
    ).fetchall()
    if not rows:
        return None
    keys, sizes = zip(*rows, strict=True)
    return int(random.choice(keys, p=np.array(sizes) / sum(sizes)))


def _draw_template(connection: Connection, collection: int, random: np.random.Generator) -> Embedding | None:
    """The embedding of one of the templates of the first subject after a random key; None if they are damaged."""
    row = connection.execute(
        """
        SELECT key FROM subjects WHERE collection = %s AND key >= (
            SELECT MIN(key) + floor(%s * (MAX(key) - MIN(key) + 1))::bigint FROM subjects WHERE collection = %s
        ) ORDER BY key LIMIT 1
        """,
        (collection, random.random(), collection),
    ).fetchone()
    if row is None:
        return None
    damage: list[Damage] = []
    rows = stored_rows(connection, collection, row[0], damaged=damage.append)
    if damage or not rows:
        return None
    embedding: Embedding = vectors_of([rows[random.integers(len(rows))].embedding])[0]
    return embedding


def _leave_out(_: Damage) -> None:
    """Searches report damage; an audit only leaves it out."""


class SearchAudits:
    """Audits a search now and then on a thread of its own, never two at once in one database.

    Args:
        database: where searches go.
        index: how searches use the index; ``audit_seconds`` is at least between the end of one audit and the next one.
        most: how many templates of a subject are fused.
    """

    def __init__(self, database: Postgres, index: IndexUse, most: int) -> None:
        self._database, self._index, self._most = database, index, most
        self._seconds = index.audit_seconds or 0.0
        self._counts, self._stopping = SearchAuditCounts(), threading.Event()
        self._random = np.random.default_rng()
        self._thread = threading.Thread(target=self._run, name="search audits", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> SearchAuditCounts:
        """How the audits since the start ended."""
        return self._counts

    def _run(self) -> None:
        pause = self._seconds
        while not self._stopping.wait(pause):
            began = time.monotonic()
            self._audit()
            pause = max(self._seconds, (time.monotonic() - began) / SHARE)

    def _audit(self) -> None:
        counts = self._counts
        try:
            found = audit_search(self._database, self._index, self._random, self._most)
        except TesseraError as error:
            _LOGGER.warning("a search could not be audited: %s", error.reason)
            self._counts = SearchAuditCounts(counts.made, counts.missed, counts.failed + 1)
        else:
            if found is not None:
                self._counts = SearchAuditCounts(counts.made + 1, counts.missed + (not found), counts.failed)

    def close(self) -> None:
        """Begins no further audit; one that is under way ends with the connections."""
        self._stopping.set()
