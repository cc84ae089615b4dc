from __future__ import annotations

import numpy as np
import pytest

from tests.model.support import unit_vectors

pytest.importorskip("torch")
pytest.importorskip("scipy")

from app.decisions.curves import Estimate
from app.evaluation.groups import GroupFaces, Part
from benchmarks.groups import TARGETS, WAYS, Observed, half_of, observe, rows_of, without_crowding
from model.data.groups import HELD_OUT


def group(name: str, people: int, spread: float, crowding: float, seed: int) -> GroupFaces:
    """Two faces of each person; the smaller ``spread``, the more alike all of them are."""
    middle = unit_vectors(1, 32, seed=99)
    person = middle + spread * unit_vectors(people, 32, seed=seed)
    faces = np.repeat(person, 2, axis=0) + 0.05 * unit_vectors(2 * people, 32, seed=seed + 1)
    faces = (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)
    crowded = np.full(2 * people, crowding, dtype=np.float32)
    return GroupFaces(name, "made up", [Part(faces, crowded, np.repeat(np.arange(people), 2))])


def test_a_threshold_for_all_pairs_fails_people_who_are_more_alike_and_the_others_do_not() -> None:
    calibrating = [group(HELD_OUT, 160, 3.0, 0.0, 1), group("alike", 160, 0.8, 0.5, 3)]
    judging = [group(HELD_OUT, 160, 3.0, 0.0, 5), group("alike", 160, 0.8, 0.5, 7)]
    found = list(observe(calibrating, judging))
    at = {(o.way, o.group): o for o in found if o.target == TARGETS[0]}
    assert not at[WAYS[0], "alike"].holds
    assert at[WAYS[1], "alike"].holds
    assert at[WAYS[2], "alike"].holds
    one, pair = at[WAYS[1], HELD_OUT].false_non_match, at[WAYS[2], HELD_OUT].false_non_match
    assert one is not None
    assert pair is not None
    assert pair.value <= one.value


def test_halves_are_about_equal_and_of_whole_people() -> None:
    person = np.repeat(np.arange(400), 2)
    first = half_of(person)
    assert 0.4 < first.mean() < 0.6
    assert (first[::2] == first[1::2]).all()


def test_without_crowding_every_face_is_as_usual() -> None:
    plain = without_crowding([group("alike", 5, 1.0, 0.7, 1)])
    assert not plain[0].parts[0].crowding.any()


def test_a_refuted_claim_is_marked_and_what_is_not_promised_is_not() -> None:
    rate = Estimate(value=0.02, low=0.015, high=0.03)
    rows = [Observed(WAYS[2], 0.01, "promised", True, rate, None), Observed(WAYS[2], 0.01, "told", False, rate, rate)]
    lines = list(rows_of(rows, 0.01))
    assert lines[2].startswith("| promised |")
    assert "**no**" in lines[2]
    assert "**no**" not in lines[3]
    assert "2.0 [1.5, 3.0]" in lines[3]
