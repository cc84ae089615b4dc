"""ONNX Runtime: for a GPU, and as an independent check of the default runtime (docs/adr/0003-onnx-runtime.md)."""

from __future__ import annotations

import threading

from app.encoding.runtime import (
    OUTPUTS,
    EncoderInfo,
    Encodings,
    Precision,
    RuntimeName,
    check_chips,
    check_outputs,
)
from app.encoding.weights import EncoderWeights, WeightsError
from app.openvino import available_cores
from app.types import Pixels

try:
    import onnxruntime
except ImportError as missing:
    raise WeightsError(
        "the onnxruntime runtime is not installed; install tessera-face[onnxruntime], or tessera-face[gpu] for a GPU, "
        "or set TESSERA_ENCODING__RUNTIME=openvino"
    ) from missing

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
"""In order of preference; ``EncoderInfo.device`` says which one runs."""
MOST_AT_ONCE = 8
"""Faces in one run, which bounds its memory and how long others wait."""


class OnnxRuntime:
    """The encoder in float32, on a GPU if ONNX Runtime has one, else on the CPU; one call at a time, on all threads."""

    streams = 1

    def __init__(self, weights: EncoderWeights, *, precision: Precision, threads: int) -> None:
        if precision in {Precision.BF16, Precision.INT8}:
            raise WeightsError("onnxruntime computes in f32; set TESSERA_ENCODING__PRECISION to auto or f32")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        available = onnxruntime.get_available_providers()
        try:
            self._session = onnxruntime.InferenceSession(
                weights.network, options, providers=[p for p in PROVIDERS if p in available]
            )
        except Exception as error:  # its errors have no common base class
            raise WeightsError(
                f"onnxruntime cannot run the encoder {weights.name} {weights.version}: {error}"
            ) from error
        check_outputs([output.name for output in self._session.get_outputs()], weights)
        self._one_at_a_time = threading.Lock()
        self._input = self._session.get_inputs()[0].name
        self.info = EncoderInfo(
            name=weights.name,
            version=weights.version,
            sha256=weights.sha256,
            runtime=RuntimeName.ONNXRUNTIME,
            precision=Precision.F32,
            device=self._session.get_providers()[0],
            trained_on=weights.trained_on,
        )

    def encode(self, chips: Pixels) -> Encodings:
        """See ``EncoderRuntime.encode``."""
        check_chips(chips)
        return Encodings.join([self._run(chips[i : i + MOST_AT_ONCE]) for i in range(0, len(chips), MOST_AT_ONCE)])

    def _run(self, chips: Pixels) -> Encodings:
        with self._one_at_a_time:
            embeddings, norms = self._session.run(OUTPUTS, {self._input: chips})
        return Encodings(embeddings, norms[:, 0])
