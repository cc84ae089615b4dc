"""A recipe: everything that decides the weights, read from one TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from model.augment import Augmentation
from model.backbone import BackboneConfig


class Stage(BaseModel):
    """One stretch of training with one objective.

    Batches are ``batch_size`` shuffled faces, or ``identities`` x ``images`` faces. The learning rate rises over
    ``warmup_steps`` and falls to zero along a cosine.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[\w-]+$")
    steps: PositiveInt
    learning_rate: PositiveFloat
    weight_decay: float = Field(ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    batch_size: PositiveInt | None = None
    identities: int | None = Field(default=None, ge=2)
    images: int | None = Field(default=None, ge=2)
    distillation_weight: float = Field(default=0, ge=0)
    similarity_weight: float = Field(default=10, ge=0)
    triplet_weight: float = Field(default=0, ge=0)
    margin: PositiveFloat = 0.2
    miner: Literal["semi_hard", "batch_hard"] = "semi_hard"
    freeze_batch_norm: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        by_identity = self.identities is not None and self.images is not None
        half = (self.identities is None) != (self.images is None)
        if half or (self.batch_size is None) != by_identity:
            raise ValueError("a stage has either batch_size or both identities and images")
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) is more than steps ({self.steps})")
        if self.triplet_weight and not by_identity:
            raise ValueError("triplet_weight needs batches of identities x images")
        if not self.triplet_weight and not self.distillation_weight:
            raise ValueError("a stage needs a positive triplet_weight or distillation_weight")
        return self


class Recipe(BaseModel):
    """A whole training run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    validate_every: PositiveInt
    checkpoint_every: PositiveInt
    log_every: PositiveInt
    ema_decay: float = Field(ge=0, lt=1)
    backbone: BackboneConfig
    augmentation: Augmentation
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _own_files(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names) or "checkpoint" in names:
            raise ValueError(f"each stage needs a name of its own for its weights, and not 'checkpoint': {names}")
        return self


def load_recipe(path: Path) -> Recipe:
    """Reads a recipe. Raises pydantic.ValidationError, naming the field, where it does not make sense."""
    return Recipe.model_validate(tomllib.loads(path.read_text()))
