"""How often a search for somebody who is not enrolled returns a match, as galleries grow.

The false positive identification rate (FPIR, ISO/IEC 19795-1) at a threshold is measured in random galleries with one
template per subject, searched with the faces of everybody else. It is compared with the prediction for independent
comparisons, ``1 - (1 - FMR) ** N``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

import numpy as np
import numpy.typing as npt

from app.decisions.calibration import GalleryPoint, GallerySize, MarginBand, MarginLimit
from app.decisions.curves import Estimate, MeasuredPoint
from app.decisions.policies import fpir_of
from app.evaluation.pairs import adjusted_distances

SIZES = (10, 30, 100, 300, 600)
GALLERIES = 60
MOST_FMR = 1e-2
MARGIN_GALLERIES = 12
MARGIN_BANDS = 20
WRONG = 0.2
"""Share of wrong nearest subjects from which a search does not name one."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def gallery_sizes(
    embeddings: Floats, subject: Ints, crowding: Floats, points: Sequence[MeasuredPoint], group: str | None = None
) -> Iterator[GallerySize]:
    """The rates in galleries of each of ``SIZES`` that leaves a fifth of the subjects for non-mated searches.

    embeddings: unit-length [N, D]; subject: [N], 0..S-1; crowding: [N]. All faces belong to ``group``. The bounds
    enclose the middle 95 % of galleries.
    """
    chosen = [p for p in points if p.false_match_rate.value <= MOST_FMR]
    members = [np.flatnonzero(subject == s) for s in range(int(subject.max()) + 1)]
    for size in SIZES:
        if size > 0.85 * len(members) or not chosen:
            return
        limits = np.array([p.threshold for p in chosen])
        rates = np.stack([_rates(embeddings, crowding, members, size, limits, draw) for draw in range(GALLERIES)])
        low, high = np.quantile(rates, [0.025, 0.975], axis=0)
        yield GallerySize(
            group=group,
            subjects=size,
            galleries=GALLERIES,
            points=tuple(
                GalleryPoint(
                    false_match_rate=point.false_match_rate.value,
                    false_positive_identification_rate=Estimate.around(v, a, b),
                    predicted=fpir_of(point.false_match_rate.value, size),
                )
                for point, v, a, b in zip(chosen, rates.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True)
            ),
        )


def _rates(
    embeddings: Floats,
    crowding: Floats,
    members: Sequence[Ints],
    size: int,
    limits: npt.NDArray[np.float64],
    draw: int,
) -> npt.NDArray[np.float64]:
    """Share of non-mated searches that return a match within each limit, in one random gallery."""
    rng = np.random.default_rng([size, draw])
    order = rng.permutation(len(members))
    gallery = np.array([rng.choice(members[s]) for s in order[:size]])
    strangers = np.concatenate([members[s] for s in order[size:]])
    distances = adjusted_distances(embeddings[strangers], embeddings[gallery], crowding[strangers], crowding[gallery])
    nearest = distances.min(axis=1)
    shares: npt.NDArray[np.float64] = (nearest[:, None] <= limits[None, :]).mean(axis=0)
    return shares


def margin_limit(embeddings: Floats, subject: Ints, crowding: Floats, threshold: float) -> MarginLimit:
    """How often the nearer of two matching subjects is the wrong one, by the margin to the second.

    Searches use faces of enrolled subjects, in random galleries of the largest of ``SIZES`` that leaves anybody out.
    """
    members = [np.flatnonzero(subject == s) for s in range(int(subject.max()) + 1)]
    size = max((s for s in SIZES if s < len(members)), default=len(members))
    margins, wrong = [], []
    for draw in range(MARGIN_GALLERIES):
        rng = np.random.default_rng([size, draw, 1])
        enrolled = rng.permutation(len(members))[:size]
        gallery = np.array([rng.choice(members[s]) for s in enrolled])
        probes = np.setdiff1d(np.concatenate([members[s] for s in enrolled]), gallery)
        distances = adjusted_distances(embeddings[probes], embeddings[gallery], crowding[probes], crowding[gallery])
        nearest = np.argpartition(distances, 1, axis=1)[:, :2]
        two = np.take_along_axis(distances, nearest, axis=1)
        nearest = np.take_along_axis(nearest, np.argsort(two, axis=1), axis=1)
        two = np.sort(two, axis=1)
        both = two[:, 1] <= threshold
        margins.append((two[:, 1] - two[:, 0])[both])
        wrong.append(enrolled[nearest[both, 0]] != subject[probes][both])
    return _margin_bands(np.concatenate(margins), np.concatenate(wrong))


def _margin_bands(margins: Floats, wrong: npt.NDArray[np.bool_]) -> MarginLimit:
    """Bands with equal numbers of searches; the limit ends the run of lowest bands with too many wrong."""
    order = np.argsort(margins, kind="stable")
    bands = [
        MarginBand(
            shortest=float(margins[part[0]]),
            longest=float(margins[part[-1]]),
            searches=len(part),
            wrong=float(wrong[part].mean()),
        )
        for part in np.array_split(order, MARGIN_BANDS)
        if len(part)
    ]
    close = list(takewhile(lambda band: band.wrong >= WRONG, bands))
    return MarginLimit(bands=tuple(bands), wrong=WRONG, limit=close[-1].longest if close else 0.0)
