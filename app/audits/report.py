"""Audit of a whole collection: who may be enrolled twice, which templates are outliers, how alike the people are.

The audit uses the calibration of the encoder in use. It compares the rates at which the collection's own people match
each other with the calibrated false match rates. Where they are higher, this population is harder than the calibrated
one, and lower targets should be chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from app.crowding import Crowding
from app.decisions import Calibration, Estimate
from app.embeddings import EMBEDDING_SIZE, fused_template
from app.evaluation.bootstrap import bootstrap_weights
from app.evaluation.pairs import adjusted_distances
from app.gallery import Candidate, Gallery, SubjectVectors, every_subject

LISTED = 100
CONFUSABLE = 20
NEIGHBOURS = 6
MOST_COMPARED = 2000
"""At most this many subjects, drawn at random, are compared with each other for the collection's own rates."""
REPLICATES = 200
FEW_PAIRS = 10
"""A threshold is reported where at least this many pairs are expected within it."""

Progress = Callable[[float], None]


class Population(StrEnum):
    """How a collection's people compare with those of the calibration."""

    AS_MEASURED = "as_measured"
    HARDER = "harder"
    EASIER = "easier"
    TOO_FEW = "too_few"


@dataclass(frozen=True, slots=True)
class SubjectPair:
    """Two subjects, how far apart they are, and how often at most two different people are as near.

    distance: squared, from the newest template of the one with fewer templates to the fused ones of the other, as a
    probe is compared. false_match_rate: None beyond 50 %. templates: one of each, ids.
    """

    first: str
    second: str
    distance: float
    false_match_rate: float | None
    templates: tuple[str, str]


@dataclass(frozen=True, slots=True)
class OutlierTemplate:
    """A template that does not match the rest of its subject: squared distance to the rest, and the threshold."""

    subject_id: str
    template_id: str
    distance: float
    threshold: float


@dataclass(frozen=True, slots=True)
class WeakTemplate:
    """A template whose embedding has a small norm."""

    subject_id: str
    template_id: str
    norm: float


@dataclass(frozen=True, slots=True)
class RateCheck:
    """At one threshold: the calibrated false match rate and the share of the collection's own pairs within it."""

    threshold: float
    calibrated: Estimate
    observed: Estimate
    pairs: int


@dataclass(frozen=True, slots=True)
class _Found:
    """What a search with the newest template of a subject found: the distance with crowding, and what it is beyond.

    templates: of the subject found. excess: how much farther it is than the default threshold for so many templates.
    """

    distance: float
    crowded: float
    excess: float
    templates: int
    ids: tuple[str, str]


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The findings. Lists hold the most notable ones; counts cover all."""

    collection: str
    created_at: datetime
    subjects: int
    templates: int
    duplicate_count: int
    duplicates: tuple[SubjectPair, ...]
    confusable: tuple[SubjectPair, ...]
    outlier_count: int
    outliers: tuple[OutlierTemplate, ...]
    weak_count: int
    weak: tuple[WeakTemplate, ...]
    compared_subjects: int
    rates: tuple[RateCheck, ...]
    population: Population


def audit(
    gallery: Gallery, collection: str, calibration: Calibration, crowding: Crowding, progress: Progress
) -> AuditReport:
    """Audits a collection; calls ``progress`` with shares of the work, 0..1.

    ``crowding`` is the one that the calibration's distances were adjusted by. Subjects added or erased during the audit
    may or may not be included. Raises CollectionNotFound.
    """
    total = max(gallery.size(collection).subjects, 1)
    pairs: dict[tuple[str, str], _Found] = {}
    outliers, weak = list[OutlierTemplate](), list[WeakTemplate]()
    singles, templates = list[npt.NDArray[np.float32]](), 0
    limit = calibration.quality.limit
    for number, subject in enumerate(every_subject(gallery, collection)):
        templates += len(subject.template_ids)
        singles.append(subject.embeddings[-1])
        outliers += _outliers(subject, calibration, crowding)
        weak += [
            WeakTemplate(subject.subject_id, id_, norm)
            for id_, norm in zip(subject.template_ids, subject.norms.tolist(), strict=True)
            if norm < limit
        ]
        own = float(crowding(subject.embeddings[-1:])[0])
        for candidate in gallery.search(collection, subject.embeddings[-1], NEIGHBOURS):
            names = min(subject.subject_id, candidate.subject_id), max(subject.subject_id, candidate.subject_id)
            # Both may find each other: the one with fewer templates is the probe, whatever the distances.
            fused = min(len(subject.template_ids), calibration.most_templates)
            first = (fused, subject.subject_id) < (candidate.templates, candidate.subject_id)
            if candidate.subject_id != subject.subject_id and (first or names not in pairs):
                pairs[names] = _found(subject, candidate, own, calibration)
        progress(0.9 * min((number + 1) / total, 1))
    by_likeness = sorted(pairs.items(), key=lambda p: p[1].excess)
    ranked = [_pair(names, found, calibration) for names, found in by_likeness]
    duplicates = ranked[: sum(found.excess <= 0 for found in pairs.values())]
    outliers.sort(key=lambda o: o.threshold - o.distance)
    weak.sort(key=lambda w: w.norm)
    compared = _sample(singles)
    rates = check_rates(compared, crowding(compared), calibration)
    progress(1.0)
    return AuditReport(
        collection=collection,
        created_at=datetime.now(UTC),
        subjects=len(singles),
        templates=templates,
        duplicate_count=len(duplicates),
        duplicates=tuple(duplicates[:LISTED]),
        confusable=tuple(ranked[:CONFUSABLE]),
        outlier_count=len(outliers),
        outliers=tuple(outliers[:LISTED]),
        weak_count=len(weak),
        weak=tuple(weak[:LISTED]),
        compared_subjects=len(compared),
        rates=rates,
        population=compare_population(rates),
    )


def _outliers(subject: SubjectVectors, calibration: Calibration, crowding: Crowding) -> Iterator[OutlierTemplate]:
    """Compares each template with the others fused, at the default rate for that number of templates."""
    count = len(subject.template_ids)
    if count == 1:
        return
    point = calibration.default_point(count - 1)
    own = crowding(subject.embeddings).tolist()
    for place, id_ in enumerate(subject.template_ids):
        rest = fused_template(np.delete(subject.embeddings, place, axis=0), calibration.most_templates)
        distance = float(np.square(subject.embeddings[place] - rest).sum())
        limit = point.threshold - own[place] - float(crowding(rest[np.newaxis])[0])
        if distance > limit:
            yield OutlierTemplate(subject.subject_id, id_, distance, limit)


def _found(subject: SubjectVectors, candidate: Candidate, crowding: float, calibration: Calibration) -> _Found:
    templates = min(candidate.templates, calibration.most_templates)
    default = calibration.default_point(templates)
    crowded = candidate.distance + crowding + candidate.crowding
    ends = (subject.subject_id, subject.template_ids[-1]), (candidate.subject_id, candidate.template_id)
    (_, one), (_, other) = sorted(ends)
    return _Found(candidate.distance, crowded, crowded - default.threshold, templates, (one, other))


def _pair(names: tuple[str, str], found: _Found, calibration: Calibration) -> SubjectPair:
    point = calibration.curve(found.templates).at_distance(found.crowded)
    return SubjectPair(*names, found.distance, None if point is None else point.false_match_rate.value, found.ids)


def _sample(vectors: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    chosen = np.random.default_rng(0).permutation(len(vectors))[:MOST_COMPARED]
    return (
        np.stack([vectors[i] for i in sorted(chosen)]) if vectors else np.empty((0, EMBEDDING_SIZE), dtype=np.float32)
    )


def check_rates(
    vectors: npt.NDArray[np.float32], crowding: npt.NDArray[np.float32], calibration: Calibration
) -> tuple[RateCheck, ...]:
    """Shares of the pairs of subjects within each calibrated threshold, with bootstrap intervals over subjects.

    vectors: one embedding per subject, unit-length float32 [S, D], and the crowding of each, [S]. Thresholds at which
    fewer than ``FEW_PAIRS`` pairs are expected are left out, and those whose own rate was not measured.
    """
    count = len(vectors)
    pairs = count * (count - 1) // 2
    distances = adjusted_distances(vectors, vectors, crowding, crowding)
    np.fill_diagonal(distances, np.inf)
    weights = np.array(
        bootstrap_weights(count, replicates=REPLICATES) if count else np.empty((REPLICATES, 0)), dtype=np.float32
    )
    rows, curve = [], calibration.curve(1)
    for point in curve.operating_points:
        if point.false_match_rate.value * pairs < FEW_PAIRS or point.threshold < curve.strictest.threshold:
            break
        within = (distances <= point.threshold).astype(np.float32)
        drawn = np.einsum("rs,rs->r", weights @ within, weights)
        total = weights.sum(axis=1) ** 2 - np.square(weights).sum(axis=1)
        low, high = np.quantile(drawn / total, [0.025, 0.975])
        value = float(within.sum()) / (2 * pairs)
        observed = Estimate.around(value, float(low), float(high))
        rows.append(RateCheck(point.threshold, point.false_match_rate, observed, pairs))
    return tuple(rows)


def compare_population(rates: tuple[RateCheck, ...]) -> Population:
    """Compares at the strictest threshold that the collection can show: do the two intervals overlap?"""
    if not rates:
        return Population.TOO_FEW
    strictest = rates[-1]
    if strictest.observed.low > strictest.calibrated.high:
        return Population.HARDER
    if strictest.observed.high < strictest.calibrated.low:
        return Population.EASIER
    return Population.AS_MEASURED
