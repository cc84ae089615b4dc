"""Small runs of training on made-up faces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.model.support import make_chips, small_backbone, unit_vectors

pytest.importorskip("torch")
pytest.importorskip("pyarrow")

import torch

from model.data import composites
from model.data.face_set import CHIP_SIDE, CHIPS_FILE, FaceSet, load_face_set, write_table
from model.networks.backbone import load_encoder
from model.training.recipe import Recipe
from model.training.teacher import SFACE, cache_file, load_targets
from model.training.train import Trainer

DISTIL: dict[str, Any] = {
    "name": "distil",
    "steps": 9,
    "learning_rate": 2e-3,
    "weight_decay": 0.05,
    "warmup_steps": 2,
    "batch_size": 16,
    "distillation_weight": 1.0,
}
TRIPLET: dict[str, Any] = {
    "name": "triplet",
    "steps": 7,
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "identities": 4,
    "images": 3,
    "triplet_weight": 1.0,
    "distillation_weight": 0.5,
    "margin": 0.3,
    "freeze_batch_norm": True,
}

SFACE_CACHE = cache_file(SFACE)


def make_recipe(*stages: dict[str, Any], **changes: Any) -> Recipe:
    values = {"seed": 1, "validate_every": 5, "checkpoint_every": 4, "log_every": 3, "ema_decay": 0.9}
    backbone = small_backbone(8, 16, embedding_size=32)
    return Recipe.model_validate(
        {**values, "backbone": backbone, "augmentation": {}, "stages": stages or [DISTIL, TRIPLET], **changes}
    )


def as_toml(recipe: Recipe) -> str:
    """JSON values are TOML values, but for what is null."""
    values = json.loads(recipe.model_dump_json(exclude_none=True))
    backbone = values.pop("backbone")
    tables = [
        ("[backbone]", {"embedding_size": backbone["embedding_size"]}),
        ("[backbone.stem]", backbone["stem"]),
        *(("[[backbone.stages]]", stage) for stage in backbone["stages"]),
        ("[augmentation]", values.pop("augmentation")),
        *(("[[stages]]", stage) for stage in values.pop("stages")),
    ]
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    for header, entry in tables:
        lines += [header, *(f"{name} = {json.dumps(value)}" for name, value in entry.items())]
    return "\n".join(lines)


def write_faces(directory: Path) -> None:
    """Eight identities of five to train on, one face of nobody known, twelve identities of four held out."""
    numbers = [i for i in range(8) for _ in range(5)] + [99] + [i for i in range(20, 32) for _ in range(4)]
    shape = (len(numbers), CHIP_SIDE, CHIP_SIDE, 3)
    chips = np.lib.format.open_memmap(directory / CHIPS_FILE, mode="w+", dtype=np.uint8, shape=shape)
    chips[:] = make_chips(numbers)
    chips.flush()
    identity = ["" if n == 99 else f"{n:02}" for n in numbers]
    split = ["heldout" if 20 <= n < 90 else "train" for n in numbers]
    write_table(
        directory,
        {"identity": identity, "split": split, "family": [""] * len(numbers), "source": ["made up"] * len(numbers)},
    )
    np.save(directory / SFACE_CACHE, unit_vectors(100, 32)[numbers])


def make_trainer(recipe: Recipe, faces: Path, out: Path) -> Trainer:
    face_set = load_face_set(faces)
    return Trainer(recipe, face_set, load_targets(faces, (SFACE,), face_set.of_split("train")), out)


def log_lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in (out / "log.jsonl").read_text().splitlines()]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_encoder(path).state_dict()


def assert_same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def make_composites(faces: Path, folder: Path) -> FaceSet:
    """Nine pictures with a teacher's word on each."""
    composites.make_composites(load_face_set(faces).of_split("train"), folder, augmented=4, blends=3, swaps=2, seed=0)
    np.save(folder / SFACE_CACHE, unit_vectors(9, 32, seed=5))
    return load_face_set(folder)
