from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.model.support import small_backbone

pytest.importorskip("torch")

from model.networks.backbone import BackboneConfig
from model.training.recipe import Recipe, Stage, differences, load_recipe

RECIPES = sorted((Path(__file__).parents[3] / "model" / "recipes").glob("*.toml"))

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
    assert recipe.backbone is None or recipe.backbone.embedding_size == 128
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
        ({"stages": [TRIPLET | {"anchor_weight": 1.0}]}, "anchor_weight"),
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


WHOLE = """
seed = 1
validate_every = 5
checkpoint_every = 5
log_every = 5
ema_decay = 0.9

[backbone.stem]
width = 8

[[backbone.stages]]
width = 16
depth = 1

[augmentation]

[[stages]]
name = "distil"
steps = 10
learning_rate = 1e-3
weight_decay = 0.0
batch_size = 8
distillation_weight = 1.0
"""


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.toml"
    path.write_text(WHOLE)
    return path


def test_a_recipe_that_extends_another_holds_the_difference_only(whole: Path) -> None:
    other = whole.parent / "other.toml"
    other.write_text('extends = "whole.toml"\nseed = 7\n[augmentation]\nblur_probability = 0.0\n')
    base, recipe = load_recipe(whole), load_recipe(other)
    assert recipe.seed == 7
    assert recipe.augmentation.blur_probability == 0
    assert recipe.model_copy(update={"seed": 1, "augmentation": base.augmentation}) == base


def test_a_recipe_does_not_extend_one_that_extends(whole: Path) -> None:
    (whole.parent / "second.toml").write_text('extends = "whole.toml"\n')
    third = whole.parent / "third.toml"
    third.write_text('extends = "second.toml"\n')
    with pytest.raises(ValueError, match="extends"):
        load_recipe(third)


def test_settings_of_parts_of_stages_and_of_the_whole_can_be_changed(whole: Path) -> None:
    changes = ("seed=3", "distil.learning_rate = 2e-3", "backbone.embedding_size=64", "distil.name=other")
    recipe = load_recipe(whole, changes)
    assert recipe.backbone is not None
    assert (recipe.seed, recipe.backbone.embedding_size) == (3, 64)
    assert (recipe.stages[0].learning_rate, recipe.stages[0].name) == (2e-3, "other")


@pytest.mark.parametrize("change", ["distil.steps", "distill.steps=3", "seed.x=3", "distil.=3", "=3"])
def test_a_change_of_what_is_not_there_names_what_is(whole: Path, change: str) -> None:
    with pytest.raises(ValueError, match="distil, backbone, augmentation"):
        load_recipe(whole, [change])


def test_a_changed_recipe_is_checked_as_a_written_one_is(whole: Path) -> None:
    with pytest.raises(ValueError, match=r"stages\.0\.stepps: .*; did you mean steps\?$") as refused:
        load_recipe(whole, ["distil.stepps=3"])
    assert str(refused.value).startswith(f"{whole}: ")
    # The list of stages is not called empty because one of them is wrong.
    assert "at least 1 item" not in str(refused.value)


def test_a_setting_of_a_stage_is_sent_there(whole: Path) -> None:
    with pytest.raises(ValueError, match=r"; steps belongs to a stage, as in STAGE\.steps with the stage's name$"):
        load_recipe(whole, ["steps=100"])


def test_a_recipe_read_from_a_file_names_the_wrong_field(whole: Path) -> None:
    whole.write_text(WHOLE.replace("ema_decay = ", "ema_decay = 7"))
    with pytest.raises(ValueError, match="ema_decay"):
        load_recipe(whole)


@pytest.mark.parametrize("content", [b"seed = ", b"\x89PNG"])
def test_what_is_no_recipe_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "photograph.toml").write_bytes(content)
    with pytest.raises(ValueError, match=r"photograph\.toml is no TOML file"):
        load_recipe(tmp_path / "photograph.toml")


def test_the_settings_in_which_two_recipes_differ_are_named() -> None:
    there = Recipe.model_validate(RECIPE)
    here = Recipe.model_validate(RECIPE | {"seed": 2, "stages": [DISTIL, TRIPLET | {"identities": 6}]})
    assert differences(there, there) == []
    assert differences(there, here) == ["seed is 1 there and 2 here", "triplet.identities is 4 there and 6 here"]
    shorter = differences(there, Recipe.model_validate(RECIPE | {"stages": [DISTIL]}))
    assert "triplet.identities is 4 there and None here" in shorter
