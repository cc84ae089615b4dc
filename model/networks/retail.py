"""The second teacher: face-reidentification-retail-0095, rebuilt as an ``Encoder``.

Intel's Open Model Zoo publishes it under Apache-2.0 as an OpenVINO IR in FP16: MobileNetV2 blocks with squeeze and
excitation, 1.1 million parameters, 256 dimensions from a face of 128x128 pixels, BGR. Batch normalisation is already
folded into the convolutions, so its constants are the weights of ``Encoder`` one to one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from app.openvino import ov
from model.networks.backbone import (
    BackboneConfig,
    ChannelWeights,
    DepthwiseBlock,
    Encoder,
    InputConfig,
    InvertedBlock,
    PoolBlock,
    StageConfig,
    StemConfig,
)

NAME = "face-reidentification-retail-0095"
DIGESTS = {
    ".xml": "ce53d2c9c08c0bd1c1660fb8a5b6d0e3e4ec19eb92f1036d2d83a85e83082dce",
    ".bin": "241229ca3d206321868d46ce74a3c0b06c49cea58db7dc70b2e842ff287545d1",
}
"""SHA-256 of the FP16 files as Open Model Zoo publishes them."""

COLUMNS = (8, 104)
"""Columns of our chip: the network was trained on narrower crops."""

SIDE = 128
EMBEDDING_SIZE = 256


def load_retail(folder: Path) -> ov.Model:
    """The published network; input float32 [1, 3, 128, 128] BGR in 0..255, output float32 [1, 256].

    Raises FileNotFoundError where files are missing in ``folder``, ValueError where they are not the published ones.
    """
    for suffix, expected in DIGESTS.items():
        path = folder / f"{NAME}{suffix}"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; docs/training.md says where to download it")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != expected:
            raise ValueError(f"{path} has SHA-256 {digest}, expected {expected}; download it again")
    return ov.Core().read_model(folder / f"{NAME}.xml")


def _constants(network: ov.Model) -> Iterator[npt.NDArray[np.float32]]:
    """The constants of all layers in order of computation, float32."""
    layers = {"Convolution", "GroupConvolution", "PRelu", "Add", "Multiply"}
    for operation in network.get_ordered_ops():
        if operation.get_type_name() not in layers:
            continue
        for place in operation.inputs():
            node = place.get_source_output().get_node()
            if node.get_type_name() == "Convert":
                node = node.input_value(0).get_node()
            if node.get_type_name() == "Constant":
                yield np.asarray(node.get_data(), dtype=np.float32)


def retail_backbone(mean: tuple[float, float, float], scale: tuple[float, float, float]) -> BackboneConfig:
    """Its configuration; the scaling of each colour (RGB) is read from its file."""

    def stage(width: int, depth: int, stride: int, expansion: int) -> StageConfig:
        return StageConfig.model_validate(
            {"kind": "inverted", "width": width, "depth": depth, "stride": stride, "expansion": expansion}
        )

    return BackboneConfig(
        input=InputConfig(columns=COLUMNS, side=SIDE, mean=mean, scale=scale),
        stem=StemConfig(width=64, kernel=3, stride=2, activation="prelu", one_slope=True),
        stages=(
            StageConfig(kind="depthwise", width=64, depth=1, stride=1),
            stage(64, 5, 2, 2),
            stage(128, 7, 2, 2),
            stage(128, 1, 2, 4),
            stage(128, 2, 1, 2),
            StageConfig(kind="pool", width=512, depth=1, stride=1),
        ),
        embedding_size=EMBEDDING_SIZE,
    )


@torch.no_grad()
def retail_encoder(folder: Path) -> Encoder:
    """The network rebuilt: the same embeddings as the published one, in evaluation mode."""
    constants = _constants(load_retail(folder))

    def take() -> Tensor:
        return torch.from_numpy(next(constants).copy())

    def fill(convolution: nn.Module, activation: nn.Module | None = None) -> None:
        assert isinstance(convolution, nn.Conv2d)
        convolution.weight.copy_(take().view_as(convolution.weight))
        assert convolution.bias is not None
        convolution.bias.copy_(take().flatten())
        if activation is not None:
            assert isinstance(activation, nn.PReLU)
            activation.weight.copy_(take().flatten())

    # The file multiplies, then adds, in BGR; ``Encoder`` subtracts, then multiplies, in RGB.
    factor, offset = (take().flatten().flip(0) for _ in range(2))
    mean, scale = tuple((-offset / factor).tolist()), tuple(factor.tolist())
    encoder = Encoder(retail_backbone(mean, scale))
    first = encoder.stem[0]
    fill(first, encoder.stem[1])
    assert isinstance(first, nn.Conv2d)
    first.weight.copy_(first.weight.flip(1))
    for block in encoder.blocks:
        if isinstance(block, DepthwiseBlock):
            fill(block[0], block[1])
        elif isinstance(block, InvertedBlock):
            fill(block.widen[0], block.widen[1])
            fill(block.filter[0], block.filter[1])
            fill(block.narrow)
            weights: ChannelWeights = block.weigh
            fill(weights[0], weights[1])
            fill(weights[2])
        elif isinstance(block, PoolBlock):
            fill(block[0], block[1])
            fill(block[2])
    encoder.project.weight.copy_(take().flatten(1))
    if next(constants, None) is not None:
        raise ValueError("the published network has more layers than expected")
    # The published embedding is not normalised; the layer is there so that it can be centred.
    encoder.norm.weight.fill_((1 + encoder.norm.eps) ** 0.5)
    return encoder.eval()
