"""The networks: a stem, stages of blocks, and one linear layer to the unit sphere.

Dense residual blocks (He et al. 2016, arXiv 1512.03385) after a stem that downsamples the 112-pixel input in one step
train and serve fastest on a CPU. Separable blocks (MobileNet, Howard et al. 2017, arXiv 1704.04861) are those of SFace,
inverted ones (MobileNetV2, Sandler et al. 2018, arXiv 1801.04381; MobileFaceNet, Chen et al. 2018, arXiv 1804.07573)
those of face-reidentification-retail-0095, so that their weights can be used as a start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, model_validator
from torch import Tensor, nn
from torch.nn import functional

from model.data.face_set import CHIP_SIDE
from model.networks.layers import DepthwiseConv, PRelu
from model.networks.states import read_state, write_state

PIXEL_MEAN = 127.5
PIXEL_SCALE = 1 / 128
PARTS = ("backbone", "weights")
"""What a file of weights holds, next to the record of what they were trained on."""
REMEDY = "give the result of a stage, such as runs/own/triplet.pt"


class InputConfig(BaseModel):
    """The network's view of a chip: ``columns`` (first, end) resized to a square of ``side`` pixels.

    Each colour is ``(value - mean) * scale``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: tuple[int, int] = (0, CHIP_SIDE)
    side: PositiveInt = CHIP_SIDE
    mean: tuple[float, float, float] = (PIXEL_MEAN,) * 3
    scale: tuple[float, float, float] = (PIXEL_SCALE,) * 3

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if not 0 <= self.columns[0] < self.columns[1] <= CHIP_SIDE:
            raise ValueError(f"columns {self.columns} are not inside the chip's {CHIP_SIDE}")
        return self


class StemConfig(BaseModel):
    """The first convolution. ``kernel`` is also the stride (patches), or 3 with any stride; the input is padded for 3.

    ``one_slope``: a bias instead of batch normalisation and one PReLU slope for all channels, as in networks of
    inverted blocks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: PositiveInt
    kernel: PositiveInt = 4
    stride: PositiveInt = 4
    activation: Literal["relu", "prelu"] = "relu"
    one_slope: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kernel not in {3, self.stride}:
            raise ValueError(f"a stem of kernel {self.kernel} and stride {self.stride}: equal, or a kernel of 3")
        return self


class StageConfig(BaseModel):
    """``depth`` blocks of one kind and width; the first has ``stride``.

    Inverted blocks have ``expansion`` times ``width`` channels in the depthwise convolution. ``depthwise`` is a
    depthwise convolution alone; ``pool`` widens, then reduces each channel's map to its weighted sum.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["residual", "separable", "depthwise", "inverted", "pool"] = "residual"
    width: PositiveInt
    depth: PositiveInt
    stride: Literal[1, 2] = 2
    expansion: PositiveInt = 2


class BackboneConfig(BaseModel):
    """Shape of the network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: InputConfig = InputConfig()
    stem: StemConfig
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    embedding_size: PositiveInt = 128

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stem.kernel != 3 and self.input.side % self.stem.stride:
            raise ValueError(f"patches of kernel {self.stem.kernel} do not fill {self.input.side} pixels")
        return self


class FusedConfig(BaseModel):
    """Several networks side by side, their embeddings projected by one linear layer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parts: tuple[BackboneConfig, ...] = Field(min_length=2)
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


class DepthwiseBlock(nn.Sequential):
    """A depthwise 3x3 convolution with bias and PReLU."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__(DepthwiseConv(width, stride, bias=True), PRelu(1))


class ChannelWeights(nn.Sequential):
    """Squeeze and excitation (Hu et al. 2018, arXiv 1709.01507): scales each channel by a factor in 0..1."""

    REDUCTION = 8

    def __init__(self, width: int) -> None:
        narrow = width // self.REDUCTION
        super().__init__(nn.Conv2d(width, narrow, 1), PRelu(1), nn.Conv2d(narrow, width, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        weights = x.mean(dim=(2, 3), keepdim=True)
        for layer in self:
            weights = layer(weights)
        return x * weights


class InvertedBlock(nn.Module):
    """Expand, depthwise convolution, project, channel weights; a residual connection where the shape is unchanged."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = outputs * expansion
        self.widen = nn.Sequential(nn.Conv2d(inputs, hidden, 1), PRelu(1))
        self.filter = DepthwiseBlock(hidden, stride)
        self.narrow = nn.Conv2d(hidden, outputs, 1)
        self.weigh = ChannelWeights(outputs)
        self._shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.weigh(self.narrow(self.filter(self.widen(x))))
        return x + y if self._shortcut else y


class PoolBlock(nn.Sequential):
    """A pointwise convolution and one map-sized filter per channel: float [B, C, S, S] to [B, width, 1, 1]."""

    def __init__(self, inputs: int, width: int, side: int) -> None:
        super().__init__(nn.Conv2d(inputs, width, 1), PRelu(1), nn.Conv2d(width, width, side, groups=width))


def _make_block(stage: StageConfig, inputs: int, stride: int, side: int) -> nn.Module:
    if stage.kind == "residual":
        return ResidualBlock(inputs, stage.width, stride)
    if stage.kind == "separable":
        return SeparableBlock(inputs, stage.width, stride)
    if stage.kind == "inverted":
        return InvertedBlock(inputs, stage.width, stride, stage.expansion)
    if stage.kind == "pool":
        return PoolBlock(inputs, stage.width, side)
    if inputs != stage.width:
        raise ValueError(f"a depthwise block keeps its {inputs} channels and cannot make {stage.width} of them")
    return DepthwiseBlock(inputs, stride)


def _interpolation(span: tuple[int, int], side: int) -> Tensor:
    """Bilinear weights that resize a span of a chip's row to ``side`` pixels: float [112, side]."""
    first, end = span
    weights = functional.interpolate(torch.eye(end - first)[None], size=side, mode="linear", align_corners=False)[0]
    return functional.pad(weights, (0, 0, first, CHIP_SIDE - end))


def _pixels(weights: Tensor) -> Tensor:
    """The same weights for interleaved RGB pixels: float [112, side] -> [336, 3 * side]."""
    return torch.kron(weights, torch.eye(3))


class Encoder(nn.Module):
    """float [B, 3, 112, 112] RGB in 0..255 -> unit-length float32 [B, embedding_size].

    ``blocks`` holds the blocks of all stages in order.
    """

    mean: Tensor
    scale: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config, self._frozen = config, 0
        stem = config.stem
        view = config.input
        self.register_buffer("mean", torch.tensor(view.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(view.scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("rows", _interpolation((0, CHIP_SIDE), view.side).T.contiguous(), persistent=False)
        self.register_buffer("columns", _pixels(_interpolation(view.columns, view.side)), persistent=False)
        convolution = nn.Conv2d(
            3, stem.width, stem.kernel, stem.stride, 1 if stem.kernel == 3 else 0, bias=stem.one_slope
        )
        activation = nn.ReLU() if stem.activation == "relu" else PRelu(1 if stem.one_slope else stem.width)
        norms = [] if stem.one_slope else [nn.BatchNorm2d(stem.width)]
        self.stem = nn.Sequential(convolution, *norms, activation)
        blocks, inputs, side = list[nn.Module](), stem.width, -(-config.input.side // stem.stride)
        for stage in config.stages:
            for number in range(stage.depth):
                stride = stage.stride if number == 0 else 1
                blocks.append(_make_block(stage, inputs, stride, side))
                inputs, side = stage.width, 1 if stage.kind == "pool" else -(-side // stride)
        self.blocks = nn.Sequential(*blocks)
        self.project = nn.Linear(inputs * side * side, config.embedding_size, bias=False)
        self.norm = nn.BatchNorm1d(config.embedding_size)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.finish(self.features(pixels, 0), 0)

    def prepare(self, pixels: Tensor) -> Tensor:
        """Input of the stem, from float [B, 3, 112, 112] RGB in 0..255.

        Bilinear interpolation as two matrix products, channels last: inference engines run these in a quarter of the
        time of their own interpolation.
        """
        side = self.config.input.side
        if self.config.input.columns != (0, CHIP_SIDE) or side != CHIP_SIDE:
            lines = pixels.permute(0, 2, 3, 1).reshape(-1, CHIP_SIDE, 3 * CHIP_SIDE)
            with torch.autocast(pixels.device.type, enabled=False):
                lines = self.rows @ (lines.float() @ self.columns)
            pixels = lines.view(-1, side, side, 3).permute(0, 3, 1, 2)
        return (pixels - self.mean) * self.scale

    def features(self, pixels: Tensor, blocks: int) -> Tensor:
        """The feature map after the first ``blocks`` blocks, float [B, C, H, W]."""
        x = self.prepare(pixels)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            x = self.stem(x)
        return self._run(x, 0, blocks)

    def finish(self, features: Tensor, blocks: int) -> Tensor:
        """The embeddings, from feature maps after the first ``blocks`` blocks."""
        x = self._run(features, blocks, len(self.blocks)).flatten(1)
        return functional.normalize(self.norm(self.project(x)).float(), dim=1)

    def _run(self, x: Tensor, first: int, end: int) -> Tensor:
        for number in range(first, end):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number >= self._frozen):
                x = self.blocks[number](x)
        return x

    def freeze(self, blocks: int) -> None:
        """Freezes the stem and the first blocks; 0 unfreezes everything.

        Call after ``train()``: frozen normalisation uses its running statistics.
        """
        self._frozen = blocks
        if blocks:
            self.stem.eval()
            self.blocks[:blocks].eval()


class FusedEncoder(nn.Module):
    """Several encoders in one: their unit-length embeddings concatenated and projected; same input as theirs.

    Networks trained independently make different errors. The projection preserves the mean of their similarities as
    well as ``embedding_size`` dimensions can.
    """

    def __init__(self, config: FusedConfig) -> None:
        super().__init__()
        self.config = config
        self.parts = nn.ModuleList(Encoder(part) for part in config.parts)
        total = sum(part.embedding_size for part in config.parts)
        self.project = nn.Linear(total, config.embedding_size)

    def forward(self, pixels: Tensor) -> Tensor:
        return functional.normalize(self.project(self.side_by_side(pixels)).float(), dim=1)

    def freeze(self, blocks: int) -> None:
        """See ``Encoder.freeze``; applies to each part."""
        for part in self.parts:
            assert isinstance(part, Encoder)
            part.freeze(blocks)

    def side_by_side(self, pixels: Tensor) -> Tensor:
        """The concatenated embeddings of all parts, float32 [B, sum of their sizes], each of unit length."""
        return torch.cat([part(pixels) for part in self.parts], dim=1)


AnyEncoder = Encoder | FusedEncoder


@torch.no_grad()
def embed(encoder: AnyEncoder, chips: Tensor, *, batch: int = 256, bf16: bool = True) -> Tensor:
    """uint8 [N, 112, 112, 3] -> float32 [N, embedding_size], in evaluation mode and in batches."""
    training = encoder.training
    encoder.eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        parts = [encoder(chips[i : i + batch].permute(0, 3, 1, 2).float()) for i in range(0, len(chips), batch)]
    encoder.train(training)
    return torch.cat(parts)


def save_encoder(encoder: AnyEncoder, path: Path, trained_on: bytes = b"") -> None:
    """Writes weights and configuration, for ``load_encoder``; ``trained_on`` is that of ``app.encoding.trained_on``."""
    state = {"backbone": encoder.config.model_dump_json(), "weights": encoder.state_dict()}
    write_state({**state, "trained_on": torch.tensor(list(trained_on), dtype=torch.uint8)}, path)


def load_record(path: Path) -> bytes:
    """What the weights in a file were trained on (``app.encoding.trained_on``); empty if that was not recorded."""
    state = read_state(path, PARTS, REMEDY, mmap=True)
    return state["trained_on"].numpy().tobytes() if "trained_on" in state else b""


def load_encoder(path: Path) -> Encoder:
    """Reads a single network written by ``save_encoder``, in evaluation mode. Raises ValueError for a fused one."""
    encoder = load_any_encoder(path)
    if not isinstance(encoder, Encoder):
        raise ValueError(f"{path} holds several networks side by side, and one was wanted")
    return encoder


def load_any_encoder(path: Path) -> AnyEncoder:
    """Reads a single or fused network written by ``save_encoder``, in evaluation mode.

    Raises FileNotFoundError, and ValueError for a file that is damaged or none of ``save_encoder``.
    """
    state = read_state(path, PARTS, REMEDY)
    config = TypeAdapter(FusedConfig | BackboneConfig).validate_json(state["backbone"])
    encoder = FusedEncoder(config) if isinstance(config, FusedConfig) else Encoder(config)
    encoder.load_state_dict(state["weights"])
    return encoder.eval()
