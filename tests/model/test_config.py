from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.model.support import small_backbone

pytest.importorskip("torch")

from model.backbone import BackboneConfig
from model.config import Recipe, Stage, load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "model" / "recipes").glob("*.toml"))

DISTIL: dict[str, Any] = {
    "name": "distil",
    "steps": 10,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "batch_size": 8,
    "distillation_weight": 1.0,
}
TRIPLET: dict[str, Any] = {
    "name": "triplet",
    "steps": 10,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "identities": 4,
    "images": 2,
    "triplet_weight": 1.0,
}
RECIPE: dict[str, Any] = {
    "seed": 1,
    "validate_every": 5,
    "checkpoint_every": 5,
    "log_every": 5,
    "ema_decay": 0.9,
    "backbone": small_backbone(8, 16),
    "augmentation": {},
    "stages": [DISTIL, TRIPLET],
}


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_published_recipes_load_and_fit_what_is_served(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.backbone.embedding_size == 128
    assert all(stage.warmup_steps < stage.steps for stage in recipe.stages)


def test_a_recipe_survives_its_own_json() -> None:
    recipe = Recipe.model_validate(RECIPE)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("base", "change", "named"),
    [
        (DISTIL, {"identities": 4, "images": 2}, "batch_size"),
        (DISTIL, {"identities": 4}, "identities"),
        (DISTIL, {"images": 2}, "images"),
        (DISTIL, {"batch_size": None}, "batch_size"),
        (DISTIL, {"batch_size": 0}, "batch_size"),
        (DISTIL, {"triplet_weight": 1.0}, "triplet_weight"),
        (DISTIL, {"distillation_weight": 0.0}, "distillation_weight"),
        (DISTIL, {"distillation_weight": -1.0}, "distillation_weight"),
        (DISTIL, {"similarity_weight": -1.0}, "similarity_weight"),
        (DISTIL, {"steps": 0}, "steps"),
        (DISTIL, {"warmup_steps": 11}, "warmup_steps"),
        (DISTIL, {"learning_rate": 0}, "learning_rate"),
        (DISTIL, {"weight_decay": -0.1}, "weight_decay"),
        (DISTIL, {"learnig_rate": 0.1}, "learnig_rate"),
        (DISTIL, {"name": "../x"}, "name"),
        (TRIPLET, {"images": None}, "images"),
        (TRIPLET, {"images": 1}, "images"),
        (TRIPLET, {"identities": 1}, "identities"),
        (TRIPLET, {"margin": 0.0}, "margin"),
        (TRIPLET, {"miner": "hardest"}, "miner"),
        (TRIPLET, {"memory": -1}, "memory"),
        (TRIPLET, {"triplet_weight": 0.0}, "classification_weight"),
        (DISTIL, {"classification_weight": 1.0, "head": "softmax"}, "head"),
        (DISTIL, {"freeze_blocks": -1}, "freeze_blocks"),
    ],
)
def test_a_stage_that_makes_no_sense_is_refused_by_name(
    base: dict[str, Any], change: dict[str, Any], named: str
) -> None:
    Stage.model_validate(base)
    with pytest.raises(ValidationError, match=named):
        Stage.model_validate(base | change)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"stages": []}, "stages"),
        ({"stages": [DISTIL, DISTIL]}, "distil"),
        ({"stages": [DISTIL | {"name": "checkpoint"}]}, "checkpoint"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"log_every": 0}, "log_every"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"validate_every": 0}, "validate_every"),
        ({"augmentation": {"blur": 1}}, "blur"),
        ({"backbone": small_backbone(8, stem={"width": 8, "kernel": 5, "stride": 4})}, "kernel"),
        ({"colour": "red"}, "colour"),
        ({"start": {"weights": "../other/stage.pt"}}, "weights"),
        ({"start": {"weights": "sface", "last_blocks": 0}}, "last_blocks"),
        ({"max_centre_distance": 0}, "max_centre_distance"),
        ({"stages": [DISTIL | {"imitation_weight": 1.0}]}, "imitation_weight"),
        ({"stages": [DISTIL | {"start_share": 0.5}]}, "start_share"),
        ({"stages": [DISTIL | {"freeze_blocks": 3}]}, "freeze_blocks is 3, but the backbone has 2"),
        ({"start": {"weights": "sface", "last_blocks": 3}}, "last_blocks is 3"),
        (
            {
                "stages": [DISTIL | {"imitation_weight": 1.0, "imitation_blocks": 3}],
                "start": {"weights": "sface"},
            },
            "imitation_blocks is 3",
        ),
        (
            {"stages": [DISTIL | {"start_share": 0.5}], "start": {"weights": "sface", "last_blocks": 2}},
            "start_share",
        ),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Recipe.model_validate(RECIPE | change)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stages", []),
        ("stages", [{"width": 0, "depth": 1}]),
        ("stages", [{"width": 8, "depth": 0}]),
        ("stages", [{"width": 8, "depth": 1, "stride": 3}]),
        ("stages", [{"width": 8, "depth": 1, "kind": "dense"}]),
        ("stem", {"width": 8, "kernel": 5}),
        ("stem", {"width": 8, "kernel": 5, "stride": 5}),
        ("stem", {"width": 8, "activation": "tanh"}),
        ("embedding_size", 0),
        ("strides", [2]),
    ],
)
def test_a_backbone_that_makes_no_sense_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        BackboneConfig.model_validate(small_backbone(8) | {field: value})


def test_a_recipe_read_from_a_file_names_the_wrong_field(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPES[0].read_text().replace("ema_decay = ", "ema_decay = 7"))
    with pytest.raises(ValidationError, match="ema_decay"):
        load_recipe(tmp_path / "r.toml")
