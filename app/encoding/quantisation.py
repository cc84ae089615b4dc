"""Convolutions in 8-bit integers: less work than in float32, for processors without bf16.

The weights stay those of the encoder; they are rounded when it is loaded. Beside it lies only what its convolutions
take in on training faces: a range, which becomes 0..255, and the mean of each channel. The weights of each output
channel become -64..64 and not -127..127, since processors without VNNI add two products at a time in 16 bits, which
2 x 255 x 127 overflows: the embeddings of an encoder with 8-bit weights come out useless there, without an error. What
rounding the weights does to the mean of a channel is taken back (Nagel et al. 2019, Data-Free Quantization, arXiv
1906.04721, section 4.2).
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

QUANTISATION_FILE = "quantisation.npz"
LARGEST_WEIGHT = 64
STEPS = 255

Floats = npt.NDArray[np.float32]

_UNREADABLE = (
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy and zipfile raise for archives that are damaged, encrypted or of other content."""


@dataclass(frozen=True, slots=True)
class LayerInput:
    """What one convolution takes in: its smallest and its largest value, and the mean of each channel, float32 [C]."""

    low: float
    high: float
    mean: Floats

    def limits(self) -> tuple[float, float]:
        """The values that become 0 and 255, so that 0, with which maps are padded, is one of the steps between."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        step = (high - low) / STEPS or 1.0
        zero = round(-low / step)
        return -zero * step, (STEPS - zero) * step


@dataclass(frozen=True, slots=True)
class RoundedWeights:
    """A convolution's weights as int8 [O, I, H, W] times a float32 [O, 1, 1, 1], within rounding.

    ``correction``, float32 [1, O, 1, 1], is what to add to the output.
    """

    integers: npt.NDArray[np.int8]
    scale: Floats
    correction: Floats

    @classmethod
    def of(cls, weights: Floats, mean: Floats) -> RoundedWeights:
        """Rounds float32 [O, I, H, W], whose input has these means."""
        scale = np.maximum(np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / LARGEST_WEIGHT, np.float32(1e-12))
        integers = np.rint(weights / scale).astype(np.int8)
        lost = (weights - integers * scale).sum(axis=(2, 3)) @ mean
        return cls(integers, scale, lost.astype(np.float32).reshape(1, -1, 1, 1))


Quantisation = Mapping[str, LayerInput]
"""The convolutions to compute in integers, by the name of their weights in the ONNX file."""


def quantisation_file(quantisation: Quantisation, encoder_sha256: str) -> bytes:
    """The file for ``QUANTISATION_FILE``, bound to the network by its digest."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        encoder=np.array(encoder_sha256),
        names=np.array(list(quantisation)),
        ranges=np.array([(seen.low, seen.high) for seen in quantisation.values()], dtype=np.float32),
        channels=np.array([len(seen.mean) for seen in quantisation.values()], dtype=np.int64),
        means=np.concatenate([seen.mean for seen in quantisation.values()]).astype(np.float32),
    )
    return file.getvalue()


def read_quantisation(data: bytes, encoder_sha256: str) -> Quantisation:
    """Reads what ``quantisation_file`` wrote. Raises ValueError if it is damaged or belongs to another network."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as content:
            owner, names = str(content["encoder"]), content["names"].tolist()
            ranges, channels, means = (content[name] for name in ("ranges", "channels", "means"))
        if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError("its names are not names")
        if channels.dtype.kind != "i" or np.any(channels < 1):
            raise ValueError("its numbers of channels are not numbers")
        if ranges.shape != (len(names), 2) or channels.shape != (len(names),) or means.shape != (channels.sum(),):
            raise ValueError("its parts do not fit together")
        if not (np.isfinite(ranges).all() and np.isfinite(means).all() and np.all(ranges[:, 0] <= ranges[:, 1])):
            raise ValueError("its ranges are not ranges")
    except _UNREADABLE as error:
        raise ValueError(f"damaged: {error}") from error
    if owner != encoder_sha256:
        raise ValueError(f"it belongs to the network {owner[:12]}, not {encoder_sha256[:12]}")
    parts = np.split(means, np.cumsum(channels)[:-1])
    return {
        name: LayerInput(float(low), float(high), mean)
        for name, (low, high), mean in zip(names, ranges, parts, strict=True)
    }
