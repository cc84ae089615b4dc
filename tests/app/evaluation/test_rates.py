from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from app.embeddings import fuse
from app.evaluation.bootstrap import bootstrap_weights
from app.evaluation.rates import (
    Blocks,
    Counts,
    count,
    count_by_weaker,
    non_mated_distances,
    several_templates,
    single_templates,
)
from tests.model.support import unit_vectors

SUBJECT = np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 3], dtype=np.int64)
CROWDING = np.random.default_rng(3).uniform(-0.3, 0.3, len(SUBJECT)).astype(np.float32)
THRESHOLDS = [0.4, 0.9, 1.4, 1.9, 2.4]


@pytest.fixture(scope="module")
def embeddings() -> npt.NDArray[np.float32]:
    vectors = unit_vectors(4, 6)[SUBJECT] + 0.5 * unit_vectors(len(SUBJECT), 6)
    scaled: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled.astype(np.float32)


class MadeUpCrowding:
    digest = "made up"

    def __call__(self, embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return (0.3 * np.sin(9 * embeddings[:, 0])).astype(np.float32)


crowding_of = MadeUpCrowding()


def apart(embeddings: npt.NDArray[np.float32], i: int, j: int) -> float:
    """The distance of two faces with the crowding of both."""
    return float(np.square(embeddings[i] - embeddings[j]).sum() + CROWDING[i] + CROWDING[j])


def pairs_of(embeddings: npt.NDArray[np.float32]) -> list[tuple[int, int, float]]:
    """The subjects and the distance of every unordered pair."""
    size = range(len(SUBJECT))
    return [(int(SUBJECT[i]), int(SUBJECT[j]), apart(embeddings, i, j)) for i in size for j in size if i < j]


def naive(pairs: list[tuple[int, int, float]], weights: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    """FMR and FNMR at each threshold, a subject counting as often as it was drawn."""
    rates = []
    for threshold in THRESHOLDS:
        sums = np.zeros(4)
        for a, b, distance in pairs:
            weight = weights[a] if a == b else weights[a] * weights[b]
            kind = 0 if a == b else 2
            sums[kind] += weight * (distance <= threshold)
            sums[kind + 1] += weight
        rates.append((sums[2] / sums[3], 1 - sums[0] / sums[1]))
    return rates


def test_single_templates_are_counted_as_pairs(embeddings: npt.NDArray[np.float32]) -> None:
    counts = count(single_templates(embeddings, SUBJECT, CROWDING, block=3), 4, THRESHOLDS)
    expected = naive(pairs_of(embeddings), np.ones(4))
    np.testing.assert_allclose(counts.false_match_rates(), [fmr for fmr, _ in expected])
    np.testing.assert_allclose(counts.false_non_match_rates(), [fnmr for _, fnmr in expected])
    assert counts.mated_total.tolist() == [3, 1, 0, 6]
    assert counts.non_mated_total.sum() == 45 - 10


def test_the_intervals_are_those_of_drawing_subjects(embeddings: npt.NDArray[np.float32]) -> None:
    counts = count(single_templates(embeddings, SUBJECT, CROWDING), 4, THRESHOLDS)
    false_matches, false_non_matches = counts.intervals(replicates=40)
    with np.errstate(invalid="ignore"):
        replicates = np.array([naive(pairs_of(embeddings), w) for w in bootstrap_weights(4, replicates=40)])
    for found, values in ((false_matches, replicates[:, :, 0]), (false_non_matches, replicates[:, :, 1])):
        assert any(interval.value > 0 for interval in found)
        for interval, rates in zip(found, values.T, strict=True):
            if interval.value == 0:
                continue
            low, high = np.nanquantile(rates, [0.025, 0.975])
            assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


def test_the_distances_are_those_of_different_people(embeddings: npt.NDArray[np.float32]) -> None:
    expected = sorted(d for a, b, d in pairs_of(embeddings) if a != b)
    np.testing.assert_allclose(
        non_mated_distances(single_templates(embeddings, SUBJECT, CROWDING)), expected, atol=1e-5
    )


@pytest.mark.parametrize("templates", [2, 3])
def test_several_templates_are_drawn_and_never_their_own_probes(
    embeddings: npt.NDArray[np.float32], templates: int
) -> None:
    blocks = several_templates(embeddings, SUBJECT, crowding_of, templates, fuse, repeats=5)
    seen, own_crowding = set(), crowding_of(embeddings)
    for part in blocks():
        enrolled = [s for s in range(4) if np.count_nonzero(s == SUBJECT) > templates]
        assert part.rows.tolist() == enrolled
        np.testing.assert_array_equal(part.columns, SUBJECT)
        for row, subject in enumerate(enrolled):
            own = np.flatnonzero(subject == SUBJECT)
            probes = np.flatnonzero(part.mated[row])
            assert set(probes) < set(own)
            used = sorted(set(own) - set(probes))
            assert len(used) == templates
            seen.add((subject, *used))
            assert part.non_mated[row].tolist() == [other != subject for other in SUBJECT.tolist()]
            mean = embeddings[used].sum(axis=0)
            mean /= np.linalg.norm(mean)
            expected = np.square(embeddings - mean).sum(axis=1) + own_crowding + crowding_of(mean[None])
            np.testing.assert_allclose(part.distances[row], expected, atol=1e-5)
    assert len(seen) > len(enrolled)
    again = [part.distances for part in blocks()]
    for first, second in zip(again, (part.distances for part in blocks()), strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_nearest_counts_where_templates_are_not_fused(embeddings: npt.NDArray[np.float32]) -> None:
    (part,) = several_templates(embeddings, SUBJECT, crowding_of, 2, lambda chosen: chosen, repeats=1)()
    for row, subject in enumerate(part.rows):
        used = np.flatnonzero((subject == SUBJECT) & ~part.mated[row])
        distances = np.square(embeddings[None] - embeddings[used][:, None]).sum(axis=2)
        distances += crowding_of(embeddings[used])[:, None] + crowding_of(embeddings)[None]
        np.testing.assert_allclose(part.distances[row], distances.min(axis=0), atol=1e-5)


def counted(blocks: Blocks) -> Counts:
    return count(blocks, 4, THRESHOLDS)


def test_comparisons_among_some_subjects_only(embeddings: npt.NDArray[np.float32]) -> None:
    chosen = np.zeros((4, 4), dtype=np.bool_)
    chosen[np.ix_([0, 3], [0, 3])] = True
    some = counted(single_templates(embeddings, SUBJECT, CROWDING)).among(chosen)
    kept = np.isin(SUBJECT, [0, 3])
    renumbered = np.where(SUBJECT[kept] == 0, 0, 1)
    alone = count(single_templates(embeddings[kept], renumbered, CROWDING[kept]), 2, THRESHOLDS)
    np.testing.assert_allclose(some.false_match_rates(), alone.false_match_rates())
    np.testing.assert_allclose(some.false_non_match_rates(), alone.false_non_match_rates())


def test_rates_of_nothing_are_not_numbers(embeddings: npt.NDArray[np.float32]) -> None:
    nobody = counted(single_templates(embeddings, SUBJECT, CROWDING)).among(np.zeros((4, 4), dtype=np.bool_))
    assert np.isnan(nobody.false_match_rates()).all()
    assert np.isnan(nobody.false_non_match_rates()).all()


def test_where_no_error_was_observed_the_interval_goes_up_to_the_rule_of_three(
    embeddings: npt.NDArray[np.float32],
) -> None:
    blocks = single_templates(embeddings, SUBJECT, CROWDING)
    false_matches, false_non_matches = count(blocks, 4, [-1.0, 5.0]).intervals(replicates=40)
    # Six pairs of four people; three of them have two faces.
    assert (false_matches[0].value, false_matches[0].low, false_matches[0].high) == (0, 0, 0.5)
    assert (false_non_matches[1].value, false_non_matches[1].low, false_non_matches[1].high) == (0, 0, 1.0)
    assert (false_matches[1].value, false_non_matches[0].value) == (1, 1)


def test_bands_are_those_of_the_weaker_of_two_faces(embeddings: npt.NDArray[np.float32]) -> None:
    band = np.array([0, 1, 2, 2, 1, 0, 2, 2, 1, 0], dtype=np.int64)
    parts = count_by_weaker(embeddings, SUBJECT, CROWDING, band, 3, 0.9)
    for number, part in enumerate(parts):
        sums = np.zeros(4)
        for i in range(len(SUBJECT)):
            for j in range(i):
                if min(band[i], band[j]) == number:
                    kind = 0 if SUBJECT[i] == SUBJECT[j] else 2
                    sums[kind] += apart(embeddings, i, j) <= 0.9
                    sums[kind + 1] += 1
        assert part.mated_total.sum() == sums[1]
        assert part.non_mated_total.sum() == sums[3]
        assert part.mated.sum() == sums[0]
        assert part.non_mated.sum() == sums[2]
