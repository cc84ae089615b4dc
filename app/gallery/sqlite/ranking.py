"""Stored templates ranked by exact distance, although the index rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from app.embeddings import (
    EMBEDDING_SIZE,
    MAX_DISTANCE,
    UNIT_NORM_TOLERANCE,
    Embedding,
    Vectors,
    fused_template,
    have_unit_norm,
    squared_distances,
)
from app.gallery.sqlite.index import SCORE_TOLERANCE, VectorIndex

# Extra subjects in the first fetch, so that a second one is rarely needed.
SPARE = 12
_GROWTH = 4
# Distances are clipped at 4, and vectors slightly longer than 1 are slightly farther.
_CLIPPED = (2 + UNIT_NORM_TOLERANCE) ** 2 - MAX_DISTANCE


@dataclass(frozen=True, slots=True)
class StoredTemplate:
    """A template with its embedding as float32 bytes, and its subject with metadata as JSON text.

    crowding: of the subject's fused template.
    """

    key: int
    id: str
    subject: int
    subject_id: str
    metadata: str
    embedding: bytes
    norm: float
    crowding: float


@dataclass(frozen=True, slots=True)
class RankedSubject:
    """A subject: squared L2, 0..4, to its fused template, how many were fused, largest norm, nearest template."""

    distance: float
    templates: int
    norm: float
    nearest: StoredTemplate

    def ranking_distance(self, *, crowded: bool) -> float:
        """What subjects are ranked by: distance and crowding (the probe's is the same for all), or distance alone."""
        return self.distance + self.nearest.crowding if crowded else self.distance


def checked(embedding: Embedding) -> Embedding:
    """The embedding itself, contiguous; ValueError unless it is float32 [128], finite and of unit length."""
    if not isinstance(embedding, np.ndarray) or embedding.dtype != np.float32 or embedding.shape != (EMBEDDING_SIZE,):
        raise ValueError(f"An embedding is float32 [{EMBEDDING_SIZE}].")
    if not have_unit_norm(embedding[np.newaxis]):
        raise ValueError("An embedding is finite and of unit length.")
    return np.ascontiguousarray(embedding)


def vectors_of(blobs: Sequence[bytes]) -> Vectors:
    """float32 [N, 128] of N stored embeddings."""
    return np.frombuffer(b"".join(blobs), dtype="<f4").reshape(-1, EMBEDDING_SIZE)


def rank(probe: Embedding, templates: Sequence[StoredTemplate], *, crowded: bool = True) -> list[RankedSubject]:
    """One entry per subject by ``ranking_distance``, then by id; ``nearest`` is the older of two equal templates."""
    ordered = sorted(templates, key=lambda t: t.key)
    vectors = vectors_of([template.embedding for template in ordered])
    distances = squared_distances(probe, vectors)
    by_subject: dict[int, list[int]] = {}
    for place, template in enumerate(ordered):
        by_subject.setdefault(template.subject, []).append(place)
    ranked = []
    for places in by_subject.values():
        nearest = min(places, key=lambda place: distances[place])
        # A single template is its own fusion.
        distance = distances[nearest] if len(places) == 1 else _fused_distance(probe, vectors[places])
        longest = max(ordered[place].norm for place in places)
        ranked.append(RankedSubject(float(distance), len(places), longest, ordered[nearest]))
    return sorted(ranked, key=lambda r: (r.ranking_distance(crowded=crowded), r.nearest.subject_id))


def _fused_distance(probe: Embedding, vectors: Vectors) -> float:
    return float(squared_distances(probe, fused_template(vectors)[np.newaxis])[0])


def nearest_subjects(
    index: VectorIndex,
    fetch: Callable[[list[int]], list[StoredTemplate]],
    probe: Embedding,
    top_k: int,
    *,
    crowded: bool = True,
) -> list[RankedSubject]:
    """The ``top_k`` best subjects by exact distance and crowding, or by distance alone, although the index rounds.

    The index proposes subjects by key and ``fetch`` reads their templates. More are fetched until no other subject can
    be as near as the last one returned, given the error of the index scores and of the unit lengths of stored
    embeddings. So near ties at the cut are decided by exact distances.
    """
    wanted = top_k + SPARE
    while True:
        count = min(wanted, index.size)
        if count == 0:
            return []
        found = index.search(probe, count, crowded=crowded)
        ranked = rank(probe, fetch(found.keys.tolist()), crowded=crowded)
        if count == index.size or is_settled(probe, ranked, top_k, float(found.scores[-1]), crowded=crowded):
            return ranked[:top_k]
        wanted *= _GROWTH


def is_settled(
    probe: Embedding, ranked: Sequence[RankedSubject], top_k: int, lowest_score: float, *, crowded: bool
) -> bool:
    """Whether no subject beyond those that were fetched can be among the ``top_k`` best.

    lowest_score: of those that were fetched, as rounded numbers gave it.
    """
    best_score_left = lowest_score + SCORE_TOLERANCE
    probe_square = float(np.dot(probe.astype(np.float64), probe.astype(np.float64)))
    nearest_left = probe_square + (1.0 - UNIT_NORM_TOLERANCE) ** 2 - 2.0 * best_score_left
    return len(ranked) >= top_k and ranked[top_k - 1].ranking_distance(crowded=crowded) < nearest_left - _CLIPPED
