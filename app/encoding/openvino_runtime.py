"""OpenVINO on a CPU: the default runtime."""

from __future__ import annotations

import os
import queue

import numpy as np

from app.encoding.runtime import EncoderInfo, Precision, RuntimeName, check_chips, check_outputs
from app.encoding.silent_openvino import ov
from app.encoding.weights import EncoderWeights, WeightsError
from app.types import Encodings, Pixels

DEVICE = "CPU"


def choose_precision(wanted: Precision, capabilities: list[str]) -> Precision:
    """The precision to run in. Raises WeightsError for bf16 on a processor without it."""
    has_bf16 = "BF16" in capabilities
    if wanted is Precision.AUTO:
        return Precision.BF16 if has_bf16 else Precision.F32
    if wanted is Precision.BF16 and not has_bf16:
        raise WeightsError("this processor has no bf16 instructions; set TESSERA_ENCODING__PRECISION to auto or f32")
    return wanted


class OpenvinoRuntime:
    """One compiled network, one inference request a core; a caller waits while all are busy."""

    def __init__(self, weights: EncoderWeights, *, precision: Precision, threads: int) -> None:
        core = ov.Core()
        chosen = choose_precision(precision, core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))
        count = threads or len(os.sched_getaffinity(0))
        options = {
            "INFERENCE_PRECISION_HINT": chosen.value,
            "INFERENCE_NUM_THREADS": count,
            "NUM_STREAMS": count,
            # Pinned threads of two processes would all land on the first cores.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            compiled = core.compile_model(core.read_model(weights.network), DEVICE, options)
        except RuntimeError as error:
            raise WeightsError(f"OpenVINO cannot run the encoder {weights.name} {weights.version}: {error}") from error
        check_outputs([output.get_any_name() for output in compiled.outputs], weights)
        self._requests: queue.SimpleQueue[ov.InferRequest] = queue.SimpleQueue()
        for _ in range(count):
            self._requests.put(compiled.create_infer_request())
        self.info = EncoderInfo(
            name=weights.name,
            version=weights.version,
            sha256=weights.sha256,
            runtime=RuntimeName.OPENVINO,
            precision=chosen,
            device=str(core.get_property(DEVICE, "FULL_DEVICE_NAME")).strip(),
        )

    def encode(self, chips: Pixels) -> Encodings:
        """See ``EncoderRuntime.encode``."""
        check_chips(chips)
        request = self._requests.get()
        try:
            request.infer([np.ascontiguousarray(chips)])
            embeddings, lengths = (np.array(request.get_output_tensor(i).data, dtype=np.float32) for i in range(2))
        finally:
            self._requests.put(request)
        return Encodings(embeddings, lengths[:, 0])
