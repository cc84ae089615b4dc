from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """The networks here are too small to share among cores, and sums in one order give the same bits every time."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch  # noqa: PLC0415

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# The helpers need torch, which is not installed everywhere that these tests are collected.
@pytest.fixture(scope="package")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packed faces, small and made up."""
    from tests.model.made_up import write_faces  # noqa: PLC0415

    directory = tmp_path_factory.mktemp("faces")
    write_faces(directory)
    return directory


@pytest.fixture(scope="package")
def finished(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    from tests.model.made_up import make_recipe, make_trainer  # noqa: PLC0415

    out = tmp_path_factory.mktemp("run")
    make_trainer(make_recipe(), faces, out).run()
    return out
