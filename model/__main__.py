"""``python -m model``: the commands of this package in the order in which they are used."""

from __future__ import annotations

import typer

COMMANDS = {
    "model.data.prepare": "photographs, or files of aligned faces -> packed faces",
    "model.training.teacher": "the embeddings of the published networks that training imitates",
    "model.training.warm_start": "optional: a published network's weights to start from",
    "model.data.composites": "optional: more pictures for the teacher to judge",
    "model.training.train": "a recipe and packed faces -> weights; goes on after an interruption",
    "model.training.curves": "curves and metrics of a run from its log, also while it runs",
    "model.fuse": "optional: two encoders in one",
    "model.export": "weights -> the files that the service loads",
    "model.quantise": "optional: what it takes to compute in 8-bit integers where there is no bf16",
    "model.cohort": "optional: what crowding is measured against",
    "model.calibrate": "error rates and thresholds, on people whom training never saw",
    "model.evaluation.evaluate": "accuracy on held-out people and public benchmarks; comparisons",
    "model.data.lookalikes": "optional: contact sheets of look-alikes, to find one person under two names",
}
"""Module -> what it does."""


def main() -> None:
    """Lists the commands."""
    width = max(map(len, COMMANDS))
    typer.echo("Training an encoder, step by step (docs/training.md):\n")
    for module, meaning in COMMANDS.items():
        typer.echo(f"  python -m {module:<{width}}  {meaning}")
    typer.echo("\nEach explains itself with --help.")


if __name__ == "__main__":
    main()
