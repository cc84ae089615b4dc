from __future__ import annotations

import resource
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from model.networks.backbone import load_any_encoder, load_record
from model.networks.states import read_state, write_state


def test_a_state_comes_back_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        write_state({"a": torch.full((3,), value)}, tmp_path / "x.pt")
        assert read_state(tmp_path / "x.pt", ["a"], "")["a"].tolist() == [value] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


def test_what_cannot_be_written_leaves_the_old_file_and_says_why(tmp_path: Path) -> None:
    write_state({"a": torch.ones(3)}, tmp_path / "x.pt")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_state({"a": torch.zeros(1_000_000)}, tmp_path / "x.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_state(tmp_path / "x.pt", ["a"], "")["a"].tolist() == [1.0] * 3


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut short", b"PK\x03\x04" + bytes(5000)])
def test_a_file_that_holds_no_weights_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    for load in (load_any_encoder, load_record):
        with pytest.raises(ValueError, match=r"x\.pt is damaged, or no file of weights: give the result of a stage"):
            load(path)


def test_a_file_of_other_weights_is_named(tmp_path: Path) -> None:
    torch.save({"recipe": "", "encoder": {}}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt holds something else than backbone, weights: give the result"):
        load_any_encoder(tmp_path / "x.pt")
    with pytest.raises(FileNotFoundError):
        load_any_encoder(tmp_path / "y.pt")
