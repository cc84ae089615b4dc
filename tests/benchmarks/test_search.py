from __future__ import annotations

import numpy as np
import pytest

from benchmarks.search import COUNT, INDEXES, built, made_up, main, measure


def test_every_index_is_measured_with_every_probe_but_the_first_of_a_turn() -> None:
    random = np.random.default_rng(0)
    templates = made_up(random, 100)
    np.testing.assert_allclose(np.linalg.norm(templates, axis=1), 1.0, rtol=1e-5)
    indexes = [built(make, templates) for make in INDEXES.values()]
    measure(indexes, made_up(random, 40))
    assert [len(index.milliseconds) for index in indexes] == [38, 38]


def test_as_many_results_are_asked_for_as_by_identify() -> None:
    assert COUNT == 17


def test_the_table_has_one_row_an_index_of_every_size(capsys: pytest.CaptureFixture[str]) -> None:
    main(templates=[20, 50], probes=20)
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(row[1].strip(), row[2].strip()) for row in rows] == [
        (size, index) for size in ("20", "50") for index in INDEXES
    ]
    assert [row[4].strip() for row in rows[::2]] == ["1.00", "1.00"]
