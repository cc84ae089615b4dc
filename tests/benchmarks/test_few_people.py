from __future__ import annotations

import numpy as np
import pytest

from tests.model.support import unit_vectors

pytest.importorskip("torch")

from benchmarks.few_people import smallest_claims


def test_more_people_can_claim_less() -> None:
    identity = np.arange(60).repeat(4)
    embeddings = unit_vectors(60, 128)[identity] + 0.05 * unit_vectors(240, 128, seed=1)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    few, some, many = (smallest_claims(embeddings, identity, people, draws=2) for people in (5, 20, 60))
    assert few == [1.0, 1.0]
    assert 1 > some[0] > many[1] >= 3 / (60 * 59 / 2)
