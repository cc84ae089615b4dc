"""Training speed of ``model.networks.layers`` against PyTorch's own layers: one update of SFace's network.

    python -m benchmarks.layers

Both networks have the same weights and take turns on the same images, in bf16; compare the ratio.
"""

from __future__ import annotations

import statistics
import time
from typing import Annotated

import torch
import typer
from torch import nn

from model.data.face_set import CHIP_SIDE
from model.networks.backbone import Encoder
from model.networks.layers import DepthwiseConv, PRelu
from model.training.warm_start import SFACE_BACKBONE


def with_plain_layers(encoder: Encoder) -> Encoder:
    """Replaces the layers, in place, with PyTorch's own."""
    for module in list(encoder.modules()):
        for name, child in list(module.named_children()):
            plain: nn.Module | None = None
            if isinstance(child, DepthwiseConv):
                channels = child.in_channels
                plain = nn.Conv2d(channels, channels, 3, child.stride[0], 1, groups=channels, bias=False)
            elif isinstance(child, PRelu):
                plain = nn.PReLU(child.num_parameters)
            if plain is not None:
                plain.load_state_dict(child.state_dict())
                setattr(module, name, plain)
    return encoder


def seconds(encoder: Encoder, pixels: torch.Tensor) -> float:
    """Time of one forward and backward pass."""
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = encoder(pixels)
    torch.autograd.backward(embeddings[:, 0].sum())
    return time.perf_counter() - start


def main(
    batch: Annotated[int, typer.Option(help="faces in a batch", min=2)] = 64,
    turns: Annotated[int, typer.Option(help="updates of each", min=1)] = 5,
) -> None:
    """Prints images per second and the ratio."""
    encoders = {}
    for name in ("torch", "model.networks.layers"):
        torch.manual_seed(0)
        encoder = Encoder(SFACE_BACKBONE)
        encoder = with_plain_layers(encoder) if name == "torch" else encoder
        encoders[name] = encoder.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    pixels = torch.rand(batch, 3, CHIP_SIDE, CHIP_SIDE).mul(255).contiguous(memory_format=torch.channels_last)
    times: dict[str, list[float]] = {name: [] for name in encoders}
    for turn in range(turns + 1):
        for name, encoder in encoders.items():
            taken = seconds(encoder, pixels)
            if turn:
                times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        typer.echo(f"{name:<14} {batch / median:7.1f} images/s  {medians['torch'] / median:5.2f} times torch's")


if __name__ == "__main__":
    typer.run(main)
