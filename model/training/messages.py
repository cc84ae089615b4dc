"""What training tells its user: what there is to train on, and how it goes."""

from __future__ import annotations

from typing import Any

import typer

from model.commands import StoppedError
from model.data.face_set import FaceSet
from model.data.sufficiency import holdings, refuse_small, short_of_heldout, short_of_training
from model.training.recipe import Recipe


def in_words(values: dict[str, Any]) -> str:
    """A line of the log for people to read."""
    if "heldout" not in values:
        return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    rates = [f"{100 * rate:.1f} % at FAR {name.removeprefix('tar@')}" for name, rate in values["heldout"].items()]
    return "held-out people, true accepts: " + (", ".join(rates) or "too few pairs to show any")


def say_what_there_is(recipe: Recipe, faces: FaceSet, *, small: bool) -> None:
    """Says how much there is to train and to validate on. Raises StoppedError for too little."""
    train, heldout = (holdings(faces.identity[faces.split == split]) for split in ("train", "heldout"))
    typer.echo(f"train: {train.photographs} photographs, {train.people} people with two or more")
    typer.echo(f"held out: {heldout.photographs} photographs, {heldout.people} people with two or more")
    people = max(stage.identities or 0 for stage in recipe.stages)
    photographs = max(stage.batch_size or 0 for stage in recipe.stages)
    mechanical = short_of_training(train, people, photographs)
    if not heldout.people or not heldout.strangers:
        mechanical.append("held-out validation needs two people at least, one of them with two photographs")
    if mechanical:
        raise StoppedError(
            f"{'; '.join(mechanical)}. Prepare a folder with more, hold out another share, or draw smaller batches "
            "with --set STAGE.identities=N or STAGE.batch_size=N"
        )
    if not small:
        refuse_small([*short_of_training(train), *short_of_heldout(heldout)])
