from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from tests.benchmarks.test_groups import group

pytest.importorskip("torch")
pytest.importorskip("scipy")

from app.evaluation.groups import Part
from benchmarks.arithmetic import TARGETS, every_second, observe, rows_of
from model.data.face_set import FaceSet
from model.data.groups import EVERYBODY, GroupMembers

PLAIN = [group(EVERYBODY, 160, 3.0, 0.0, 1), group("alike", 160, 0.8, 0.5, 3)]


def test_every_second_face_is_taken_from_each() -> None:
    other = [replace(g, parts=[Part(-p.embeddings, p.crowding + 1, p.subject) for p in g.parts]) for g in PLAIN]
    numbers = np.random.default_rng(0).permutation(320)
    members = [
        GroupMembers(g.name, "made up", cast(FaceSet, None), [numbers], np.repeat(np.arange(160), 2)) for g in PLAIN
    ]
    for mixed, first in zip(every_second(members, PLAIN, other), PLAIN, strict=True):
        [part], [before] = mixed.parts, first.parts
        odd = numbers % 2 == 1
        np.testing.assert_array_equal(part.embeddings[odd], -before.embeddings[odd])
        np.testing.assert_array_equal(part.embeddings[~odd], before.embeddings[~odd])
        np.testing.assert_allclose(part.crowding - before.crowding, odd, atol=1e-6)
        np.testing.assert_array_equal(part.subject, before.subject)


def test_a_claim_that_does_not_hold_is_counted() -> None:
    """In the other arithmetic all of one group are nearly the same face."""
    shrunk = group("alike", 160, 0.05, 0.0, 3)
    not_promised = replace(shrunk, name="children", claimed=False)
    loose = [1.6, 1.2, 0.9]
    found = {"f32": observe(PLAIN, loose), "other": observe([PLAIN[0], shrunk, not_promised], loose)}
    assert found["other"].keys() == {EVERYBODY, "alike"}
    lines = list(rows_of(found, "f32"))
    assert len(lines) == 2 + 2 * len(TARGETS)
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    table = [dict(zip(head, row, strict=True)) for row in rows]
    for row in table:
        if row["arithmetic"] == "other":
            rate = observe([shrunk], loose)["alike"].false_match[TARGETS.index(float(row["claimed FMR"]))]
            assert rate.value > 0.1
            assert int(row["refuted in"]) >= 1
            assert row["highest FMR of a group"].startswith(f"{rate.value:.1e}")
        else:
            assert row["FMR of a group over that in f32: median, most"] == "1.00, 1.00"
        assert row["groups above the claim"].endswith("of 2")
    with_misses = [row["FNMR of everybody, %"] for row in table]
    assert all(with_misses)
