from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from app.crowding import Crowding, NoCrowding
from app.decisions import Calibration, Claim
from app.embeddings import fuse
from app.evaluation import calibration, identification, rates
from app.evaluation.calibration import (
    UNKNOWN,
    AlternativeRun,
    EncoderRun,
    LabelledEmbeddings,
    describe,
    make_table,
    measure_curve,
    people_needed,
)
from app.evaluation.groups import GroupFaces, Part, measure_group
from app.evaluation.rates import Blocks, Counts, single_templates

pytestmark = pytest.mark.slow

PEOPLE = 60
SUBJECT = np.repeat(np.arange(PEOPLE), 3)
KIND = SUBJECT % 2
ENCODER = EncoderRun("made-up", "1", "ab" * 32, "openvino", "f32")


def faces() -> LabelledEmbeddings:
    """Two kinds of people, of which those of the second are much alike."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(PEOPLE, 24))
    centres[1::2] += 3 * rng.normal(size=24)
    vectors = centres[SUBJECT] + 0.6 * rng.normal(size=(len(SUBJECT), 24))
    return LabelledEmbeddings(
        embeddings=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
        norms=rng.uniform(8, 12, len(SUBJECT)).astype(np.float32),
        subject=SUBJECT.astype(np.int64),
        family=np.full(len(SUBJECT), UNKNOWN),
        source=np.full(len(SUBJECT), "own"),
        face_side=np.full(len(SUBJECT), np.nan, dtype=np.float32),
    )


FACES = faces()


class Everywhere:
    """All faces are as crowded as each other."""

    def __init__(self, crowding: float) -> None:
        self._crowding, self.digest = crowding, f"everywhere {crowding}"

    def __call__(self, embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.full(len(embeddings), self._crowding, dtype=np.float32)


def kind(number: int, crowding: Crowding, **members: object) -> GroupFaces:
    chosen = number == KIND
    own = FACES.embeddings[chosen]
    part = Part(own, crowding(own), np.unique(SUBJECT[chosen], return_inverse=True)[1].astype(np.int64))
    return GroupFaces(f"kind {number}", f"people of kind {number}", [part], **members)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _few_galleries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identification, "GALLERIES", 5)
    monkeypatch.setattr(calibration, "MOST_TEMPLATES", 2)


def made(crowding: Crowding, *groups: GroupFaces) -> Calibration:
    return make_table(FACES, ENCODER, "made-up faces", fuse, crowding, groups=groups)


def test_a_crowding_that_is_the_same_everywhere_moves_all_thresholds_and_changes_no_rate() -> None:
    plain, crowding = made(NoCrowding()), Everywhere(0.15)
    crowded = made(crowding)
    assert (plain.cohort_sha256, crowded.cohort_sha256) == (None, crowding.digest)
    assert [c.templates for c in crowded.curves] == [1, 2]
    for a, b in zip(plain.curves, crowded.curves, strict=True):
        # Two distances that are as good as equal may become equal, or change places.
        assert abs(len(a.operating_points) - len(b.operating_points)) <= 1
        for target in (0.1, 0.03, 0.01):
            one, other = a.at_rate(target), b.at_rate(target)
            assert one is not None
            assert other is not None
            assert other.threshold == pytest.approx(one.threshold + 0.3, abs=1e-5)
            assert other.false_match_rate.value == pytest.approx(one.false_match_rate.value)
            assert other.false_non_match_rate.value == pytest.approx(one.false_non_match_rate.value)
    assert crowded.margin.limit == pytest.approx(plain.margin.limit, abs=1e-5)
    assert crowded.quality == plain.quality
    assert crowded.default_fmr == plain.default_fmr


def test_groups_are_measured_within_themselves_and_bind_the_default() -> None:
    crowding = NoCrowding()
    groups = [kind(0, crowding), kind(1, crowding), kind(1, crowding)]
    groups[2] = GroupFaces("told", "not promised", groups[1].parts, claimed=False)
    found = made(crowding, *groups)
    assert found.groups == tuple(measure_group(group) for group in groups)
    # People who are much alike need a stricter threshold than all pairs say.
    bound, pooled = (found.bound(claim, found.default_fmr, 1) for claim in (Claim.EVERY_GROUP, Claim.POOLED))
    assert bound is not None
    assert pooled is not None
    assert bound.group == "kind 1"
    assert bound.threshold < pooled.threshold
    assert found.default_fmr == max(g.smallest_supported for g in found.groups)
    assert found.default_fmr > made(crowding).default_fmr
    # Each kind of 30 people is searched in galleries of its own, but for what is only told of.
    assert {(size.group, size.subjects) for size in found.identification} == {
        (None, 10),
        (None, 30),
        ("kind 0", 10),
        ("kind 1", 10),
    }


def test_people_of_several_parts_are_not_searched_for_together() -> None:
    crowding = NoCrowding()
    both = GroupFaces("both", "either kind", [*kind(0, crowding).parts, *kind(1, crowding).parts])
    assert {size.group for size in made(crowding, both).identification} == {None}


def test_a_small_group_that_is_part_of_a_larger_one_does_not_bind_the_default() -> None:
    crowding = NoCrowding()
    (part,) = kind(1, crowding).parts
    few = part.subject < 9
    small = Part(part.embeddings[few], part.crowding[few], part.subject[few])
    alone = GroupFaces("few", "some of kind 1", [small])
    of_all = GroupFaces("few", "some of kind 1", [small], part_of="kind 1")
    larger = kind(1, crowding)
    assert made(crowding, larger, alone).default_fmr > made(crowding, larger, of_all).default_fmr
    assert made(crowding, larger, of_all).default_fmr == made(crowding, larger).default_fmr


def test_a_table_is_described_with_its_groups_and_claims() -> None:
    crowding = NoCrowding()
    lines = describe(made(crowding, kind(0, crowding), kind(1, crowding, claimed=False)))
    assert lines[0] == "measured on 180 faces of 60 people: made-up faces"
    assert any(line.startswith("kind 0: 30 people") for line in lines)
    assert any(line.startswith("kind 1 (not promised): 30 people") for line in lines)
    assert any(line.startswith("every_group: threshold") and "supported down to" in line for line in lines)
    assert any(line.startswith("pooled: threshold") and "for all pairs" in line for line in lines)


@pytest.mark.parametrize("useful", [True, False])
def test_an_encoder_that_tells_nobody_apart_is_told(useful: bool) -> None:
    noise = np.random.default_rng(3).normal(size=FACES.embeddings.shape).astype(np.float32)
    apart = noise[FACES.subject] + np.float32(0.1) * noise if useful else noise
    faces = replace(FACES, embeddings=apart / np.linalg.norm(apart, axis=1, keepdims=True))
    lines = describe(make_table(faces, ENCODER, "made-up faces", fuse, NoCrowding()))
    assert any(line.startswith("More than half of all pairs of one person are missed") for line in lines) != useful


def test_nothing_is_told_of_what_is_empty_and_no_interval_of_one_person() -> None:
    sides = np.where(FACES.subject == 0, np.float32(50), np.float32(200))
    table = make_table(replace(FACES, face_side=sides), ENCODER, "made-up faces", fuse, NoCrowding())
    small = {stratum.name: stratum for stratum in table.strata}["smaller face below 64 pixels"]
    assert small.mated > 1
    assert small.false_non_match_rate is None
    assert small.false_match_rate is not None
    assert not any(line.startswith("relatives:") for line in describe(table))


def test_about_so_many_people_claim_a_rate() -> None:
    """As few as ``benchmarks.few_people`` found to be enough, within a tenth."""
    assert [people_needed(rate) for rate in (7.4e-2, 8.3e-3, 1.3e-3, 3.6e-4, 5.7e-5)] == pytest.approx(
        [14, 40, 100, 200, 500], rel=0.1
    )


def test_few_people_with_many_photographs_do_not_spoil_the_rates_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of sixty have six photographs more, all of which fit them."""
    crowding, plain = NoCrowding(), made(NoCrowding())
    monkeypatch.setattr(calibration, "MOST_TEMPLATES", 8)
    again = np.concatenate([np.flatnonzero(person == SUBJECT).repeat(2) for person in (0, 2)])
    rows = np.concatenate([np.arange(len(SUBJECT)), again])
    noise = 0.02 * np.random.default_rng(1).normal(size=(len(rows), 24))
    vectors = FACES.embeddings[rows] + noise
    more = LabelledEmbeddings(
        embeddings=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
        norms=FACES.norms[rows],
        subject=FACES.subject[rows],
        family=FACES.family[rows],
        source=FACES.source[rows],
        face_side=FACES.face_side[rows],
    )
    assert np.bincount(more.subject).max() == 9
    found = make_table(more, ENCODER, "made-up faces", fuse, crowding)
    one = found.curves[0].smallest_supported
    assert [curve.templates for curve in found.curves] == [1, 2]
    assert found.default_fmr <= calibration.SLACK * one
    assert found.default_fmr == pytest.approx(plain.default_fmr, rel=0.5)
    lines = describe(found)
    assert any(line.startswith("of a subject's templates the newest 2 count") for line in lines)
    assert any(line.startswith(f"default: a false match rate of {found.default_fmr:.2g}, 1 in ") for line in lines)


def test_of_very_many_people_some_are_drawn_and_the_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    crowding = NoCrowding()
    other = AlternativeRun("openvino", "bf16", FACES.embeddings)
    groups = [kind(0, crowding)]
    whole = make_table(FACES, ENCODER, "made-up faces", fuse, crowding, groups=groups, others=[other])
    assert whole.data.description == "made-up faces"
    monkeypatch.setattr(calibration, "MOST_SUBJECTS", 50)
    some = make_table(FACES, ENCODER, "made-up faces", fuse, crowding, groups=groups, others=[other])
    assert (some.data.subjects, some.data.faces) == (50, 150)
    assert some.data.description == "made-up faces; 50 people, drawn at random, of 60"
    # The other run is that of the same faces, and groups keep everybody.
    assert some.precisions[0].false_match_rate == pytest.approx(some.default.false_match_rate.value)
    assert some.groups == whole.groups
    monkeypatch.setattr(calibration, "MOST_FACES", 100)
    fewer = made(crowding)
    assert (fewer.data.subjects, fewer.data.faces) == (33, 99)


def test_the_memory_of_a_curve_is_bounded_and_changes_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = single_templates(FACES.embeddings, FACES.subject, NoCrowding()(FACES.embeddings))
    whole = measure_curve(blocks, PEOPLE, 1)
    counted = list[int]()
    plain = rates.count

    def watched(blocks: Blocks, subjects: int, thresholds: Sequence[float]) -> Counts:
        found = plain(blocks, subjects, thresholds)
        counted.append(found.non_mated.size)
        return found

    monkeypatch.setattr(rates, "MOST_COUNTS", 10 * PEOPLE**2)
    monkeypatch.setattr(rates, "count", watched)
    assert measure_curve(blocks, PEOPLE, 1) == whole
    assert len(counted) > 2
    assert max(counted) <= rates.MOST_COUNTS
