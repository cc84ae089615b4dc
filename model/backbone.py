"""The networks: a stem, stages of residual or separable blocks, and one linear layer to the unit sphere.

Dense residual blocks (He et al. 2016, arXiv 1512.03385) after a stem that leaves the 112-pixel map in one step train
and serve fastest on a CPU. Separable blocks (MobileNet, Howard et al. 2017, arXiv 1704.04861) are what SFace consists
of, so that its weights can be a start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from model.data import CHIP_SIDE
from model.layers import DepthwiseConv, PRelu

PIXEL_MEAN = 127.5
PIXEL_SCALE = 1 / 128


class StemConfig(BaseModel):
    """The first convolution. ``kernel`` is the stride too (patches), or 3 with any stride; the map is padded for 3."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: PositiveInt
    kernel: PositiveInt = 4
    stride: PositiveInt = 4
    activation: Literal["relu", "prelu"] = "relu"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kernel not in {3, self.stride}:
            raise ValueError(f"a stem of kernel {self.kernel} and stride {self.stride}: equal, or a kernel of 3")
        if self.kernel != 3 and CHIP_SIDE % self.stride:
            raise ValueError(f"patches of kernel {self.kernel} do not fill {CHIP_SIDE} pixels")
        return self


class StageConfig(BaseModel):
    """``depth`` blocks of one kind and width; the first of them moves with ``stride``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["residual", "separable"] = "residual"
    width: PositiveInt
    depth: PositiveInt
    stride: Literal[1, 2] = 2


class BackboneConfig(BaseModel):
    """Shape of the network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stem: StemConfig
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    embedding_size: PositiveInt = 128


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


class SeparableBlock(nn.Sequential):
    """A depthwise 3x3 and a pointwise convolution, each with batch normalisation and PReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(
            DepthwiseConv(inputs, stride),
            nn.BatchNorm2d(inputs),
            PRelu(inputs),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            PRelu(outputs),
        )


BLOCKS = {"residual": ResidualBlock, "separable": SeparableBlock}


class Encoder(nn.Module):
    """float [B, 3, 112, 112] RGB in 0..255 -> unit-length float32 [B, embedding_size].

    ``blocks`` holds the blocks of all stages in order.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config, self._frozen = config, 0
        stem = config.stem
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem.width, stem.kernel, stem.stride, 1 if stem.kernel == 3 else 0, bias=False),
            nn.BatchNorm2d(stem.width),
            nn.ReLU() if stem.activation == "relu" else PRelu(stem.width),
        )
        blocks, inputs, side = list[nn.Module](), stem.width, -(-CHIP_SIDE // stem.stride)
        for stage in config.stages:
            strides = [stage.stride] + [1] * (stage.depth - 1)
            widths = [inputs] + [stage.width] * (stage.depth - 1)
            blocks += [BLOCKS[stage.kind](w, stage.width, s) for w, s in zip(widths, strides, strict=True)]
            inputs, side = stage.width, -(-side // stage.stride)
        self.blocks = nn.Sequential(*blocks)
        self.project = nn.Linear(inputs * side * side, config.embedding_size, bias=False)
        self.norm = nn.BatchNorm1d(config.embedding_size)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.finish(self.features(pixels, 0), 0)

    def features(self, pixels: Tensor, blocks: int) -> Tensor:
        """The map after so many blocks, float [B, C, H, W]."""
        x = (pixels - PIXEL_MEAN) * PIXEL_SCALE
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            x = self.stem(x)
        return self._run(x, 0, blocks)

    def finish(self, features: Tensor, blocks: int) -> Tensor:
        """The embeddings of maps after so many blocks."""
        x = self._run(features, blocks, len(self.blocks)).flatten(1)
        return functional.normalize(self.norm(self.project(x)).float(), dim=1)

    def _run(self, x: Tensor, first: int, end: int) -> Tensor:
        for number in range(first, end):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number >= self._frozen):
                x = self.blocks[number](x)
        return x

    def freeze(self, blocks: int) -> None:
        """Keeps the stem and the first blocks as they are while the others train; 0 frees all.

        Call after ``train()``: normalisation of what is frozen goes by its running statistics.
        """
        self._frozen = blocks
        if blocks:
            self.stem.eval()
            self.blocks[:blocks].eval()


@torch.no_grad()
def embed(encoder: Encoder, chips: Tensor, *, batch: int = 256, bf16: bool = True) -> Tensor:
    """uint8 [N, 112, 112, 3] -> float32 [N, embedding_size], in evaluation mode and in batches."""
    training = encoder.training
    encoder.eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        parts = [encoder(chips[i : i + batch].permute(0, 3, 1, 2).float()) for i in range(0, len(chips), batch)]
    encoder.train(training)
    return torch.cat(parts)


def save_encoder(encoder: Encoder, path: Path) -> None:
    """Writes weights and shape, for ``load_encoder``."""
    torch.save({"backbone": encoder.config.model_dump_json(), "weights": encoder.state_dict()}, path)


def load_encoder(path: Path) -> Encoder:
    """Reads what ``save_encoder`` wrote, in evaluation mode."""
    state = torch.load(path, weights_only=True)
    encoder = Encoder(BackboneConfig.model_validate_json(state["backbone"]))
    encoder.load_state_dict(state["weights"])
    return encoder.eval()
