from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from model.training.curves import main, read_log

LINES = [
    {"stage": "distil", "step": 10, "loss": 0.5},
    {"stage": "distil", "step": 20, "loss": 0.4},
    {"stage": "distil", "step": 20, "heldout": {"tar@0.001": 0.3}},
    {"stage": "triplet", "step": 10, "loss": 0.2, "d_ap": 0.6, "d_an": 1.5, "active": 0.4},
]


def write(out: Path, lines: list[dict[str, object]]) -> None:
    (out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_log_becomes_curves_and_rows(tmp_path: Path) -> None:
    write(tmp_path, LINES)
    main(tmp_path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "training.svg").read_text()
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["total_step"] for row in rows] == ["10", "20", "20", "30"]
    assert [row["heldout tar@0.001"] for row in rows] == ["", "", "0.3", ""]
    assert (rows[3]["d_ap"], rows[0]["d_ap"]) == ("0.6", "")


def test_steps_that_were_done_again_count_once(tmp_path: Path) -> None:
    write(tmp_path, [*LINES[:2], {**LINES[1], "loss": 0.41}, LINES[3]])
    lines = read_log(tmp_path)
    assert [(line["total_step"], line["loss"]) for line in lines] == [(10, 0.5), (20, 0.41), (30, 0.2)]


@pytest.mark.parametrize("text", ["half a li", "[]", "{}"])
def test_what_is_no_log_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(FileNotFoundError, match="give the folder"):
        read_log(tmp_path)
    write(tmp_path, LINES[:1])
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(text)
    with pytest.raises(ValueError, match=r"line 2 of .*log\.jsonl"):
        read_log(tmp_path)
