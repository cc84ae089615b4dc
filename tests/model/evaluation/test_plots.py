from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import unescape

import numpy as np
import pytest

from app.evaluation.roc import Comparisons, all_comparisons
from tests.model.support import unit_vectors

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

from matplotlib import pyplot as plt

from model.evaluation import plots
from model.evaluation.plots import (
    accuracy_against_time,
    distance_histogram,
    robustness_curves,
    roc_and_det,
)

pytestmark = pytest.mark.slow

SVG = "{http://www.w3.org/2000/svg}"


def made_up_comparisons(seed: int = 0, at_least: int = 100_000) -> Comparisons:
    """Of 30 subjects with four faces each: 6,960 non-mated pairs."""
    identity = np.arange(30).repeat(4)
    vectors = unit_vectors(30, 32, seed)[identity] + 0.9 * unit_vectors(120, 32, seed + 1)
    return all_comparisons(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), identity, at_least=at_least)


def few_comparisons() -> Comparisons:
    """Too few non-mated pairs to show any of the rates that are drawn."""
    return Comparisons(
        mated=np.array([0.5], dtype=np.float32),
        mated_subject=np.array([0]),
        non_mated=np.array([1.0, 1.5], dtype=np.float32),
        non_mated_subjects=np.array([[0, 1], [0, 2]]),
        subjects=3,
    )


def draw_rates(path: Path) -> None:
    # The second keeps only the nearest pairs; their rates end where the pairs do.
    curves = {"held-out": made_up_comparisons(), "LFW & <co>": made_up_comparisons(2, at_least=0)}
    roc_and_det({**curves, "CFP-FF": few_comparisons()}, path, "tessera-m 1")


def draw_histogram(path: Path) -> None:
    found = made_up_comparisons()
    distance_histogram(found.mated, found.non_mated, {"FMR 1e-02": 0.9, "FMR 1e-03": 0.7}, path, "people, all pairs")


def draw_robustness(path: Path) -> None:
    kinds = [f"kind {number}" for number in range(5)]
    curves = {kind: {"ours": {1.0: 0.9, 2.0: 0.5}, "theirs": {1.0: 0.8, 2.0: 0.4}} for kind in kinds}
    robustness_curves(curves, {kind: f"{kind}, pixels" for kind in kinds}, path)


def draw_times(path: Path) -> None:
    accuracy_against_time({"ours": (3.0, 97.5, 0.2), "SFace": (20.0, 99.3, 0.1)}, path)


Draw = Callable[[Path], None]
DRAWN: dict[str, tuple[Draw, list[str]]] = {
    "rates": (
        draw_rates,
        [
            *("tessera-m 1: ROC", "tessera-m 1: DET"),
            *("false accepts (FAR)", "true accepts (TAR), %", "misses (FRR)", "1e-05", "0.5"),
            *("held-out", "LFW & <co>", "CFP-FF"),
        ],
    ),
    "histogram": (
        draw_histogram,
        [
            *("people, all pairs", "squared distance and crowding", "density"),
            *("same person", "different people", "FMR 1e-02", "FMR 1e-03"),
        ],
    ),
    "robustness": (draw_robustness, [*(f"kind {number}, pixels" for number in range(5)), "TAR, %", "ours", "theirs"]),
    "times": (
        draw_times,
        ["ours", "SFace", "milliseconds a face, one thread", "LFW accuracy, % (± standard error)"],
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_well_formed_and_says_what_it_shows(name: str, tmp_path: Path) -> None:
    draw, words = DRAWN[name]
    draw(tmp_path / "picture.svg")
    root = ElementTree.parse(tmp_path / "picture.svg").getroot()
    assert root.tag == f"{SVG}svg"
    assert len(list(root.iter(f"{SVG}path"))) > 10
    # Letters are drawn as paths, and the words they make stand before them in comments.
    comments = re.findall("<!--(.*?)-->", (tmp_path / "picture.svg").read_text())
    assert set(words) <= {unescape(comment).strip() for comment in comments}


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_drawn_twice_is_the_same_file(name: str, tmp_path: Path) -> None:
    for file in ("once.svg", "twice.svg"):
        DRAWN[name][0](tmp_path / file)
    assert (tmp_path / "once.svg").read_bytes() == (tmp_path / "twice.svg").read_bytes()


@pytest.mark.parametrize("name", DRAWN)
def test_no_picture_is_left_open(name: str, tmp_path: Path) -> None:
    before = plt.get_fignums()
    DRAWN[name][0](tmp_path / "picture.svg")
    assert plt.get_fignums() == before


def test_other_numbers_make_another_picture(tmp_path: Path) -> None:
    for seed in (0, 1):
        roc_and_det({"held-out": made_up_comparisons(seed)}, tmp_path / f"{seed}.svg", "seeds")
    assert (tmp_path / "0.svg").read_bytes() != (tmp_path / "1.svg").read_bytes()


@pytest.mark.parametrize("at_least", [0, 100_000])
def test_only_rates_are_drawn_that_the_pairs_show_and_reach(at_least: int) -> None:
    comparisons = made_up_comparisons(at_least=at_least)
    fars = comparisons.shown(plots.FARS.tolist())
    shown = {round(far * 6960, 6) for far in plots.FARS if far * 6960 >= 1}
    assert min(fars) * 6960 >= 1
    assert comparisons.tar_at_far(fars) == sorted(comparisons.tar_at_far(fars))
    if at_least:
        assert {round(far * 6960, 6) for far in fars} == shown
    else:
        # About six in a thousand pairs are kept, and the rates that are drawn end just before.
        assert len(comparisons.non_mated) - 10 < max(fars) * 6960 < len(comparisons.non_mated)


def test_pairs_that_can_show_no_rate_have_none_drawn() -> None:
    assert few_comparisons().shown(plots.FARS.tolist()) == ()


@pytest.mark.parametrize(("kinds", "panels"), [(1, 4), (4, 4), (5, 8), (8, 8)])
def test_robustness_has_four_panels_a_row_and_hides_the_rest(
    kinds: int, panels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plt, "close", lambda: None)
    curves = {f"kind {n}": {"ours": {1.0: 0.9, 2.0: 0.5}} for n in range(kinds)}
    robustness_curves(curves, {kind: kind for kind in curves}, tmp_path / "picture.svg")
    figure = plt.gcf()
    monkeypatch.undo()
    visible = [axes for axes in figure.axes if axes.axison]
    plt.close(figure)
    assert (len(figure.axes), len(visible)) == (panels, kinds)
    assert [axes.get_xlabel() for axes in visible] == list(curves)
    (line,) = visible[-1].get_lines()
    np.testing.assert_array_equal(line.get_xydata(), [[1, 90], [2, 50]])
