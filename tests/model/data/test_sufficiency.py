from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from model.commands import StoppedError
from model.data.sufficiency import (
    holdings,
    refuse_small,
    short_of_calibration,
    short_of_heldout,
    short_of_training,
)


def people(count: int, photographs: int) -> np.ndarray:
    return np.arange(count).repeat(photographs)


def test_only_people_with_two_photographs_count() -> None:
    found = holdings(np.array([0, 0, 0, 1, 1, 2, -1]))
    # Of six known photographs there are 15 pairs, 3 + 1 of them of one person.
    assert (found.people, found.photographs, found.strangers) == (2, 7, 11)


def test_each_step_says_what_it_lacks() -> None:
    assert short_of_training(holdings(people(32, 2))) == []
    assert "needs 32 people" in short_of_training(holdings(people(31, 9)))[0]
    assert "there are 0" in short_of_training(holdings(people(99, 1)))[0]
    assert "needs 65 photographs for one batch, there are 64" in short_of_training(holdings(people(32, 2)), 2, 65)[0]
    assert short_of_heldout(holdings(people(40, 2))) == []
    few = short_of_heldout(holdings(people(10, 2)))
    assert "the 20 photographs held out make 180" in few[0]
    assert "calibration needs 40 people" in few[1]
    assert short_of_calibration(holdings(people(39, 20)))


def test_too_little_is_refused_with_all_that_lacks() -> None:
    refuse_small([])
    with pytest.raises(StoppedError, match=r"of use: one; two\. Do this\. --small goes on"):
        refuse_small(["one", "two"], "Do this. ")
