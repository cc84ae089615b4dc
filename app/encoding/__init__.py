"""Aligned face -> embedding: the weights and the runtimes that execute them."""

from app.encoding.factory import create_runtime
from app.encoding.runtime import EncoderInfo, EncoderRuntime, Encodings, Precision, RuntimeName
from app.encoding.weights import EncoderWeights, WeightsError, load_weights

__all__ = [
    "EncoderInfo",
    "EncoderRuntime",
    "EncoderWeights",
    "Encodings",
    "Precision",
    "RuntimeName",
    "WeightsError",
    "create_runtime",
    "load_weights",
]
