"""Fuses trained encoders, two or more, into one that is better than each.

    python -m model.fuse runs/faces runs/tessera-l-fused/fused.pt runs/tessera-m/triplet.pt runs/tessera-l-2/triplet.pt

Their concatenated embeddings of the training faces are reduced to 128 dimensions by principal components about their
mean. Nothing else is learnt: discriminants fitted to the training people do not generalise to other demographics.
Each encoder is a file of weights or a folder written by ``model.export``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import torch
import typer
from onnx import numpy_helper

from app.encoding.trained_on import TRAINED_ON_FILE, record_of
from app.encoding.weights import DESCRIPTION_FILE, NETWORK_FILE
from model.commands import run
from model.data.face_set import load_face_set
from model.networks.backbone import (
    BackboneConfig,
    Encoder,
    FusedConfig,
    FusedEncoder,
    SeparableBlock,
    embed,
    load_encoder,
    load_record,
    save_encoder,
)
from model.training.teacher import principal_components


class _Constants:
    """The constants of an exported network's layers, in order of computation."""

    def __init__(self, network: onnx.ModelProto) -> None:
        graph = network.graph
        self._values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self._values |= {
            n.output[0]: self._values[n.input[0]]
            for n in graph.node
            if n.op_type == "Cast" and n.input[0] in self._values
        }
        self._nodes = iter(n for n in graph.node if n.op_type in {"Conv", "PRelu", "Gemm"})

    def next(self, operation: str) -> list[torch.Tensor]:
        """Float32 constants of the next layer. Raises ValueError if its operation is another."""
        node = next(self._nodes)
        if node.op_type != operation:
            raise ValueError(f"the exported network has {node.op_type} where {operation} was expected")
        values = (self._values[name] for name in node.input if name in self._values)
        return [torch.from_numpy(np.array(value, dtype=np.float32)) for value in values]


@torch.no_grad()
def exported_encoder(folder: Path) -> Encoder:
    """Rebuilds an encoder of separable blocks from a ``model.export`` folder, in evaluation mode.

    Its normalisation is already folded into the preceding layers, so the norm layers only add the biases that those
    lack. Raises ValueError for an encoder of other blocks.
    """
    description = json.loads((folder / DESCRIPTION_FILE).read_text())
    config = BackboneConfig.model_validate(description["backbone"])
    if config.stem.activation != "prelu" or any(stage.kind != "separable" for stage in config.stages):
        raise ValueError(f"{folder} has blocks other than separable ones; give its .pt file")
    encoder = Encoder(config).eval()
    constants = _Constants(onnx.load(folder / NETWORK_FILE))

    def fill(layer: torch.nn.Module, norm: torch.nn.Module, operation: str = "Conv") -> None:
        assert isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
        assert isinstance(norm, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)
        weight, bias = constants.next(operation)
        layer.weight.copy_(weight)
        norm.weight.fill_((1 + norm.eps) ** 0.5)
        norm.bias.copy_(bias)

    def slopes(activation: torch.nn.Module) -> None:
        assert isinstance(activation, torch.nn.PReLU)
        activation.weight.copy_(constants.next("PRelu")[0].flatten())

    fill(encoder.stem[0], encoder.stem[1])
    slopes(encoder.stem[2])
    for block in encoder.blocks:
        assert isinstance(block, SeparableBlock)
        for first in (0, 3):
            fill(block[first], block[first + 1])
            slopes(block[first + 2])
    fill(encoder.project, encoder.norm, "Gemm")
    return encoder


@torch.no_grad()
def fuse(encoders: list[Encoder], chips: torch.Tensor, size: int = 128) -> FusedEncoder:
    """Combines encoders; the projection is fitted to uint8 [N, 112, 112, 3] chips of training faces."""
    fused = FusedEncoder(FusedConfig(parts=tuple(e.config for e in encoders), embedding_size=size)).eval()
    for part, encoder in zip(fused.parts, encoders, strict=True):
        part.load_state_dict(encoder.state_dict())
    vectors = torch.cat([embed(encoder, chips) for encoder in encoders], dim=1).numpy()
    mean = vectors.mean(axis=0)
    projection = torch.from_numpy(principal_components(vectors - mean, size).T.copy())
    fused.project.weight.copy_(projection)
    fused.project.bias.copy_(-projection @ torch.from_numpy(mean))
    return fused


def load_part(path: Path) -> Encoder:
    """Loads an encoder from a file of weights, or from a folder written by ``model.export``."""
    return exported_encoder(path) if path.is_dir() else load_encoder(path)


def record_of_part(path: Path) -> bytes:
    """What a part was trained on; empty if that was not recorded."""
    beside = path / TRAINED_ON_FILE
    if path.is_dir():
        return beside.read_bytes() if beside.is_file() else b""
    return load_record(path)


def main(
    faces: Annotated[Path, typer.Argument(help="folder written by model.data.prepare")],
    out: Annotated[Path, typer.Argument(help="file to write, for model.export")],
    parts: Annotated[list[Path], typer.Argument(help="two or more: .pt files, or folders with encoder.onnx")],
    sample: Annotated[int, typer.Option(help="training faces that the projection is fitted to", min=256)] = 12000,
    seed: Annotated[int, typer.Option(help="which faces those are")] = 1,
) -> None:
    """Fuses trained encoders into one and writes it."""
    if len(parts) < 2:
        raise typer.BadParameter("give two encoders or more")
    members = load_face_set(faces).of_split("train")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(members))[:sample])
    fused = fuse([load_part(path) for path in parts], torch.from_numpy(members.images(chosen)))
    out.parent.mkdir(parents=True, exist_ok=True)
    record = record_of(members.images(chosen), b"".join(map(record_of_part, parts)))
    save_encoder(fused, out, record)
    typer.echo(f"written: {out}")


if __name__ == "__main__":
    run(main)
