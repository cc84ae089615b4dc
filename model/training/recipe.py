"""A recipe: everything besides the faces that determines the weights, read from one TOML file."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from model.commands import in_one_line
from model.data.augmentation import Augmentation
from model.networks.backbone import BackboneConfig, InputConfig, StageConfig, StemConfig

SFACE_START = "sface"


class Stage(BaseModel):
    """One stage of training with one objective.

    Batches are ``batch_size`` shuffled faces, or ``identities`` x ``images`` faces. The learning rate rises over
    ``warmup_steps`` and decays to zero along a cosine; weights from the recipe's start learn at ``inherited_rate``
    times that rate.

    An identity from a source of n people is drawn in proportion to ``n ** (source_balance - 1)``: at 1 all people are
    equally likely, at 0 all sources.

    The objective is the weighted sum of distillation (``cosine_weight`` for each embedding, ``similarity_weight`` for
    the similarity matrix), anchoring (each embedding stays where the recipe's start network puts the same image),
    triplets (``margin`` in squared distance; ``memory`` faces of past batches are further candidates), classification
    by a head that is discarded, and imitation (the feature map before the last ``imitation_blocks`` blocks matches that
    of the recipe's start network).

    ``freeze_blocks`` freezes the stem and that many blocks. At the end the weights are averaged with those of the
    recipe's start, which get ``start_share``: the interpolation often generalises better than either (Wortsman et al.
    2022, arXiv 2109.01903).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[\w-]+$")
    steps: PositiveInt
    learning_rate: PositiveFloat
    inherited_rate: float = Field(default=1, ge=0)
    weight_decay: float = Field(ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    batch_size: PositiveInt | None = None
    identities: int | None = Field(default=None, ge=2)
    images: int | None = Field(default=None, ge=2)
    source_balance: float = Field(default=1, ge=0, le=1)
    distillation_weight: float = Field(default=0, ge=0)
    cosine_weight: float = Field(default=1, ge=0)
    similarity_weight: float = Field(default=10, ge=0)
    anchor_weight: float = Field(default=0, ge=0)
    triplet_weight: float = Field(default=0, ge=0)
    margin: PositiveFloat = 0.2
    soft_margin: bool = False
    miner: Literal["semi_hard", "batch_hard", "hard_negative"] = "semi_hard"
    memory: int = Field(default=0, ge=0)
    classification_weight: float = Field(default=0, ge=0)
    head: Literal["cosface", "arcface"] = "cosface"
    head_margin: float = Field(default=0.35, ge=0)
    head_scale: PositiveFloat = 32
    imitation_weight: float = Field(default=0, ge=0)
    imitation_blocks: PositiveInt = 1
    freeze_batch_norm: bool = False
    freeze_blocks: int = Field(default=0, ge=0)
    start_share: float = Field(default=0, ge=0, lt=1)

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
        if not self.trains_embeddings and not self.imitation_weight:
            weights = "triplet_weight, distillation_weight, classification_weight, anchor_weight, imitation_weight"
            raise ValueError(f"a stage needs one of these to be positive: {weights}")
        return self

    @property
    def draws_unlabelled(self) -> bool:
        """Whether faces without an identity are drawn and have something to teach."""
        taught = self.distillation_weight or self.anchor_weight or self.imitation_weight
        return self.batch_size is not None and bool(taught)

    @property
    def trains_embeddings(self) -> bool:
        """Whether the objective uses embeddings and not only feature maps."""
        embeddings = (self.triplet_weight, self.distillation_weight, self.classification_weight, self.anchor_weight)
        return any(embeddings)


class Start(BaseModel):
    """Initial weights other than random ones.

    ``weights`` is ``sface``, or ``RECIPE/STAGE`` for the result of a run in a neighbouring folder. ``last_blocks``
    takes over only that many of the backbone's last blocks and the linear layer. ``centre`` moves the mean of the
    embeddings to the origin, like the teacher's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: str = Field(pattern=rf"^({SFACE_START}|[\w.-]+/[\w-]+)$")
    last_blocks: PositiveInt | None = None
    centre: bool = False


class Subset(BaseModel):
    """A random subset of the people, and of the faces of each, to train on; the rest are ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    people: int = Field(ge=2)
    faces: int = Field(ge=2)


class Recipe(BaseModel):
    """A whole training run.

    Without ``backbone`` the network has the shape of the start, which may be a fused one.

    ``teachers`` are those of ``model.training.teacher``; their concatenated embeddings are the distillation target.

    A face farther than ``max_centre_distance`` from the centre of its identity (squared, between the teacher's
    centred embeddings) loses its label.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    validate_every: PositiveInt
    checkpoint_every: PositiveInt
    log_every: PositiveInt
    ema_decay: float = Field(ge=0, lt=1)
    backbone: BackboneConfig | None = None
    augmentation: Augmentation
    start: Start | None = None
    teachers: tuple[Literal["sface", "retail-0095"], ...] = Field(default=("sface",), min_length=1)
    max_centre_distance: PositiveFloat | None = None
    subset: Subset | None = None
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_start(self) -> Self:
        if self.start is None and any(stage.imitation_weight for stage in self.stages):
            raise ValueError("imitation_weight needs a start, whose feature maps are imitated")
        if self.start is None and any(stage.anchor_weight for stage in self.stages):
            raise ValueError("anchor_weight needs a start, whose embeddings are kept")
        whole = self.start is not None and self.start.last_blocks is None
        if not whole and any(stage.start_share for stage in self.stages):
            raise ValueError("start_share needs a start that is taken over whole")
        return self

    @model_validator(mode="after")
    def _enough_blocks(self) -> Self:
        if self.backbone is None:
            if self.start is None or self.start.last_blocks is not None:
                raise ValueError("without a backbone, a recipe needs a start that is taken over whole")
            if any(stage.imitation_weight for stage in self.stages):
                raise ValueError("imitation_weight needs a backbone whose feature maps imitate those of the start")
            return self
        blocks = sum(stage.depth for stage in self.backbone.stages)
        wanted = [("start.last_blocks", self.start.last_blocks or 0)] if self.start else []
        wanted += [("freeze_blocks", stage.freeze_blocks) for stage in self.stages]
        wanted += [("imitation_blocks", stage.imitation_blocks) for stage in self.stages if stage.imitation_weight]
        for name, count in wanted:
            if count > blocks:
                raise ValueError(f"{name} is {count}, but the backbone has {blocks} blocks")
        return self

    @model_validator(mode="after")
    def _own_files(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names) or "checkpoint" in names:
            raise ValueError(f"each stage needs a name of its own for its weights, and not 'checkpoint': {names}")
        return self


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and applies ``changes``, each ``FIELD=VALUE`` or ``PART.FIELD=VALUE``, such as a stage's name.

    A file with ``extends = "OTHER.toml"`` holds only what differs from that file, which lies next to it and extends no
    third: each of its top-level keys replaces the other's. Raises ValueError for a file that is no TOML, a change to a
    field that does not exist, and, naming the field, where the result is invalid.
    """
    document = _read(path)
    if "extends" in document:
        document = {**_read(path.parent / document.pop("extends")), **document}
    for change in changes:
        _apply(document, change)
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise ValueError(f"{path}: {in_one_line(error)}{_meant(error)}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no TOML file: {error}") from error


def _meant(error: ValidationError) -> str:
    """The settings that are spelt most like those that do not exist."""
    models = (Recipe, Stage, Start, Subset, Augmentation, BackboneConfig, StemConfig, StageConfig, InputConfig)
    known = sorted({name for model in models for name in model.model_fields})
    unknown = [e["loc"] for e in error.errors(include_url=False) if e["type"] == "extra_forbidden"]
    of_stages = [str(loc[0]) for loc in unknown if len(loc) == 1 and loc[0] in Stage.model_fields]
    if of_stages:
        return f"; {', '.join(of_stages)} belongs to a stage, as in STAGE.{of_stages[0]} with the stage's name"
    misspelt = [str(loc[-1]) for loc in unknown if loc[-1] not in known]
    close = [name for wrong in misspelt for name in difflib.get_close_matches(wrong, known, n=1)]
    return f"; did you mean {', '.join(close)}?" if close else ""


def differences(there: Recipe, here: Recipe) -> list[str]:
    """The settings in which two recipes differ, such as ``triplet.steps is 600 there and 200 here``."""
    one, other = _by_name(there.model_dump(mode="json")), _by_name(here.model_dump(mode="json"))
    return [
        f"{name} is {one.get(name)} there and {other.get(name)} here"
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    ]


def _by_name(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names; stages of training by their own names."""
    if isinstance(value, list):
        value = {str(e.get("name", n)) if isinstance(e, dict) else str(n): e for n, e in enumerate(value)}
    if not isinstance(value, dict):
        return {name.removeprefix("stages."): value}
    found = dict[str, Any]()
    for key, entry in value.items():
        found |= _by_name(entry, f"{name}.{key}" if name else key)
    return found


def _apply(document: dict[str, Any], change: str) -> None:
    """Applies one change. The value is parsed as TOML; anything that is not TOML is taken as text."""
    name, equals, text = change.partition("=")
    part, dot, field = name.strip().rpartition(".")
    stages = {stage["name"]: stage for stage in document.get("stages", ()) if "name" in stage}
    holder = {**document, **stages}.get(part) if dot else document
    if not equals or not field or not isinstance(holder, dict):
        known = ", ".join([*stages, *(key for key, value in document.items() if isinstance(value, dict))])
        raise ValueError(f"{change!r} is not FIELD=VALUE or PART.FIELD=VALUE with one of these parts: {known}")
    try:
        holder[field] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        holder[field] = text
