"""Creates the chosen runtime."""

from __future__ import annotations

from app.encoding.runtime import EncoderRuntime, Precision, RuntimeName
from app.encoding.weights import EncoderWeights


def create_runtime(
    weights: EncoderWeights,
    *,
    runtime: RuntimeName = RuntimeName.OPENVINO,
    precision: Precision = Precision.AUTO,
    threads: int = 0,
) -> EncoderRuntime:
    """Loads an encoder. ``threads`` 0 uses every core that this process may run on.

    Raises WeightsError if the network cannot be read, the library is not installed, or the processor does not support
    the precision.
    """
    # Imported here so that a library is loaded, and has to be installed, only if it is chosen.
    if runtime is RuntimeName.ONNXRUNTIME:
        from app.encoding.onnx_runtime import OnnxRuntime  # noqa: PLC0415

        return OnnxRuntime(weights, precision=precision, threads=threads)
    from app.encoding.openvino_runtime import OpenvinoRuntime  # noqa: PLC0415

    return OpenvinoRuntime(weights, precision=precision, threads=threads)
