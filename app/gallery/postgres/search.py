"""Finds candidates by pgvector and ranks them by their exact embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from psycopg.pq import TransactionStatus

from app.embeddings import Embedding
from app.gallery.postgres.templates import COLUMNS, NEWEST, Reading, sound, vector_text
from app.gallery.sqlite.ranking import SPARE, RankedSubject, is_settled, rank
from app.postgres import Connection, constant

EXACT_UP_TO = 30_000
"""Collections of at most so many subjects are compared one by one; in larger ones the index is faster."""
LEAST_INDEXED = 64
"""Candidates that the index is asked for: a few more than needed cost little, and are compared exactly."""
BREADTH = 400
"""``hnsw.ef_search`` unless told otherwise; 1000 is the most that pgvector takes."""
MOST_INDEXED = 1000
"""Candidates beyond which more are not asked of the index."""
_GROWTH = 4


@dataclass(frozen=True, slots=True)
class IndexUse:
    """Which searches use the index, and how.

    Attributes:
        larger_than: collections with more subjects are searched by it, others one by one.
        breadth: how many candidates it keeps while it looks for the nearest, 1..1000.
        audit_seconds: how far apart such searches are audited in the background; None: they are not.
    """

    larger_than: int = EXACT_UP_TO
    breadth: int = BREADTH
    audit_seconds: float | None = None


_FOUND = """
    WITH found AS MATERIALIZED (
        SELECT key, mean <#> %s::halfvec AS score FROM subjects WHERE collection = %s ORDER BY {order} LIMIT %s
    )
"""
_TEMPLATES = f"""
    SELECT f.score, {COLUMNS} FROM found f JOIN subjects s ON s.collection = %s AND s.key = f.key {NEWEST}
"""  # noqa: S608
_SUBJECT = 8
"""Where a row has the key of its subject."""
# An expression that the index knows nothing of: every subject of the collection is compared.
_EXACT = constant(_FOUND.format(order="(mean <#> %s::halfvec) + 0") + _TEMPLATES)
_INDEXED = constant(_FOUND.format(order="mean <#> %s::halfvec") + _TEMPLATES)
_ONLY_THE_INDEX = """
    SELECT set_config('hnsw.ef_search', %s, true), set_config('hnsw.iterative_scan', 'strict_order', true),
           set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
           set_config('enable_sort', 'off', true)
"""


def nearest_subjects(
    connection: Connection,
    collection: int,
    probe: Embedding,
    top_k: int,
    *,
    crowded: bool,
    breadth: int | None,
    reading: Reading,
) -> list[RankedSubject]:
    """The ``top_k`` best subjects of a collection, by exact distance and crowding.

    breadth: how many candidates the index keeps while it looks for the nearest; None: it is not used, all subjects are
    compared. reading: how their templates are read.

    Candidates come with their templates from one statement, so from one state of the database. More are asked for until
    no other subject can be as near as the last one returned, given the rounding of the stored means and of the probe.
    """
    asked = vector_text(probe, float(crowded))
    wanted = top_k + SPARE
    if breadth is not None:
        wanted = max(wanted, LEAST_INDEXED)
    while True:
        if breadth is None:
            rows = _one_by_one(connection, collection, asked, wanted)
        else:
            rows = _by_index(connection, collection, asked, wanted, breadth)
        rows.sort(key=itemgetter(_SUBJECT))
        stored = sound((row[1:] for row in rows), reading)
        ranked = rank(probe, stored, crowded=crowded) if stored else []
        everybody = len({row[_SUBJECT] for row in rows}) < wanted
        if everybody or (breadth is not None and wanted >= MOST_INDEXED):
            return ranked[:top_k]
        if is_settled(probe, ranked, top_k, -max(row[0] for row in rows), crowded=crowded):
            return ranked[:top_k]
        wanted *= _GROWTH


def _one_by_one(connection: Connection, collection: int, asked: str, count: int) -> list[tuple[Any, ...]]:
    return connection.execute(_EXACT, (asked, collection, asked, count, collection)).fetchall()


def _by_index(connection: Connection, collection: int, asked: str, count: int, breadth: int) -> list[tuple[Any, ...]]:
    # All of it in one go there and back, in a transaction of its own unless there is one.
    alone = connection.info.transaction_status == TransactionStatus.IDLE
    with connection.pipeline():
        if alone:
            connection.execute("BEGIN")
        connection.execute(_ONLY_THE_INDEX, (str(max(breadth, min(count, MOST_INDEXED))),))
        # Not prepared: a plan that was kept from before might not use the index.
        found = connection.execute(_INDEXED, (asked, collection, asked, count, collection), prepare=False)
        if alone:
            connection.execute("COMMIT")
    return found.fetchall()
