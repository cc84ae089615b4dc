"""The network: a residual net of dense 3x3 convolutions that keeps off the large feature maps.

Dense convolutions train and serve several times faster on a CPU than depthwise ones of the same arithmetic, and a
patch stem leaves the 112-pixel map in one step. Residual blocks after He et al. 2016 (arXiv 1512.03385).
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from model.data import CHIP_SIDE

STEM_STRIDE = 4
PIXEL_MEAN = 127.5
PIXEL_SCALE = 1 / 128


class BackboneConfig(BaseModel):
    """Shape of the network: one stage a width, each but the first halving the map, ``depths`` blocks in each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    widths: tuple[PositiveInt, ...] = Field(min_length=1)
    depths: tuple[PositiveInt, ...] = Field(min_length=1)
    embedding_size: PositiveInt = 128

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.widths) != len(self.depths):
            raise ValueError(f"widths has {len(self.widths)} stages, depths {len(self.depths)}: one depth a width")
        return self


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to a (projected) shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Encoder(nn.Module):
    """float [B, 3, 112, 112] RGB in 0..255 -> unit-length float32 [B, embedding_size]."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        first = config.widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, STEM_STRIDE, STEM_STRIDE, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        blocks, inputs, side = [], first, CHIP_SIDE // STEM_STRIDE
        for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(ResidualBlock(inputs, width, stride))
                inputs, side = width, -(-side // stride)
        self.blocks = nn.Sequential(*blocks)
        self.project = nn.Linear(inputs * side * side, config.embedding_size, bias=False)
        self.norm = nn.BatchNorm1d(config.embedding_size)

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels - PIXEL_MEAN) * PIXEL_SCALE
        x = self.blocks(self.stem(x)).flatten(1)
        return functional.normalize(self.norm(self.project(x)).float(), dim=1)


@torch.no_grad()
def embed(encoder: Encoder, chips: Tensor, *, batch: int = 256, bf16: bool = True) -> Tensor:
    """uint8 [N, 112, 112, 3] -> float32 [N, embedding_size], in evaluation mode and in batches."""
    training = encoder.training
    encoder.eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        parts = [encoder(chips[i : i + batch].permute(0, 3, 1, 2).float()) for i in range(0, len(chips), batch)]
    encoder.train(training)
    return torch.cat(parts)
