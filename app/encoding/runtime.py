"""The interface of every encoder runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from app.encoding.weights import EncoderWeights, WeightsError
from app.types import CHIP_SIDE, Pixels


class RuntimeName(StrEnum):
    """The libraries that can execute an encoder."""

    OPENVINO = "openvino"
    ONNXRUNTIME = "onnxruntime"


class Precision(StrEnum):
    """Arithmetic of the network; of int8 that of its convolutions (``app.encoding.quantisation``).

    ``auto`` is bf16 if the processor has instructions for it; else int8 on amd64, if the encoder is quantised; else
    f32.
    """

    AUTO = "auto"
    F32 = "f32"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class Encodings:
    """The encoder's output for B faces.

    embeddings: float32 [B, 128], unit length. norms: float32 [B], before scaling to unit length; smaller the less the
    encoder recognised in a face (see ``app.decisions.calibration.QualityLimit``).
    """

    embeddings: npt.NDArray[np.float32]
    norms: npt.NDArray[np.float32]

    @classmethod
    def join(cls, parts: Sequence[Encodings]) -> Encodings:
        """Those of several runs, one or more, in their order."""
        return cls(np.concatenate([p.embeddings for p in parts]), np.concatenate([p.norms for p in parts]))


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """Which encoder runs, and how: ``precision`` is the one in use (never ``auto``), ``device`` the hardware.

    ``trained_on`` is that of the weights (``app.encoding.trained_on``).
    """

    name: str
    version: str
    sha256: str
    runtime: RuntimeName
    precision: Precision
    device: str
    trained_on: bytes = field(default=b"", repr=False)


class EncoderRuntime(Protocol):
    """An encoder ready for work; ``encode`` may be called from several threads at once."""

    @property
    def info(self) -> EncoderInfo: ...

    @property
    def streams(self) -> int:
        """How many faces, or runs over several, are encoded at once; further ones wait."""
        ...

    def encode(self, chips: Pixels) -> Encodings:
        """Embeddings of uint8 [B, 112, 112, 3] RGB. Raises ValueError for another shape or type."""
        ...


OUTPUTS = ("embeddings", "lengths")


def check_outputs(names: Sequence[str], weights: EncoderWeights) -> None:
    """Raises WeightsError unless the outputs of the network are ``OUTPUTS``."""
    if tuple(names) != OUTPUTS:
        raise WeightsError(
            f"the encoder {weights.name} {weights.version} gives {', '.join(names)}, and not {', '.join(OUTPUTS)}; "
            "export it anew with `python -m model.export`"
        )


def check_chips(chips: Pixels) -> None:
    """Raises ValueError unless ``chips`` is uint8 [B, 112, 112, 3] with B at least 1."""
    if chips.dtype != np.uint8 or chips.ndim != 4 or chips.shape[1:] != (CHIP_SIDE, CHIP_SIDE, 3) or not len(chips):
        raise ValueError(f"chips must be uint8 [B, {CHIP_SIDE}, {CHIP_SIDE}, 3], not {chips.dtype} {chips.shape}")
