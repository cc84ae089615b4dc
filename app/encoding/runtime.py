"""What every runtime does, and the choice of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from app.encoding.weights import EncoderWeights, WeightsError
from app.types import CHIP_SIDE, Encodings, Pixels


class RuntimeName(StrEnum):
    """The libraries that can execute an encoder."""

    OPENVINO = "openvino"
    TORCH = "torch"


class Precision(StrEnum):
    """Arithmetic of the network. ``auto`` is bf16 where the processor has instructions for it, f32 elsewhere."""

    AUTO = "auto"
    F32 = "f32"
    BF16 = "bf16"


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """Which encoder runs, and how: ``precision`` is the one in use (never ``auto``), ``device`` the hardware."""

    name: str
    version: str
    sha256: str
    runtime: RuntimeName
    precision: Precision
    device: str


class EncoderRuntime(Protocol):
    """An encoder ready for work; ``encode`` may be called from several threads at once."""

    @property
    def info(self) -> EncoderInfo: ...

    @property
    def streams(self) -> int:
        """How many calls of ``encode`` run at once; more of them wait."""
        ...

    def encode(self, chips: Pixels) -> Encodings:
        """Embeddings of uint8 [B, 112, 112, 3] RGB. Raises ValueError for another shape or type."""
        ...


OUTPUTS = ("embeddings", "lengths")


def check_outputs(names: Sequence[str], weights: EncoderWeights) -> None:
    """Raises WeightsError unless the network gives ``OUTPUTS``."""
    if tuple(names) != OUTPUTS:
        raise WeightsError(
            f"the encoder {weights.name} {weights.version} gives {', '.join(names)}, and not {', '.join(OUTPUTS)}; "
            "export it anew with `python -m model.export`"
        )


def check_chips(chips: Pixels) -> None:
    """Raises ValueError unless ``chips`` is uint8 [B, 112, 112, 3] with B at least 1."""
    if chips.dtype != np.uint8 or chips.ndim != 4 or chips.shape[1:] != (CHIP_SIDE, CHIP_SIDE, 3) or not len(chips):
        raise ValueError(f"chips must be uint8 [B, {CHIP_SIDE}, {CHIP_SIDE}, 3], not {chips.dtype} {chips.shape}")


def create_runtime(
    weights: EncoderWeights,
    *,
    runtime: RuntimeName = RuntimeName.OPENVINO,
    precision: Precision = Precision.AUTO,
    threads: int = 0,
) -> EncoderRuntime:
    """Makes an encoder ready. ``threads`` 0 uses every core that this process may run on.

    Raises WeightsError where the network cannot be read, the library is not installed, or the processor cannot
    compute in the precision asked for.
    """
    # Imported here so that neither library is loaded, or need be installed, unless it is chosen.
    if runtime is RuntimeName.TORCH:
        from app.encoding.torch_runtime import TorchRuntime  # noqa: PLC0415

        return TorchRuntime(weights, precision=precision, threads=threads)
    from app.encoding.openvino_runtime import OpenvinoRuntime  # noqa: PLC0415

    return OpenvinoRuntime(weights, precision=precision, threads=threads)
