"""OpenVINO on a CPU: the default runtime."""

from __future__ import annotations

import numpy as np

from app.embeddings import EMBEDDING_SIZE
from app.encoding.runtime import EncoderInfo, Encodings, Precision, RuntimeName, check_chips, check_outputs
from app.encoding.weights import EncoderWeights, WeightsError
from app.openvino import CpuNetwork, Processor, available_cores, ov
from app.types import CHIP_SIDE, Pixels


def choose_precision(wanted: Precision, has_bf16: bool) -> Precision:
    """The precision to run in. Raises WeightsError for bf16 on a processor that lacks it."""
    if wanted is Precision.AUTO:
        return Precision.BF16 if has_bf16 else Precision.F32
    if wanted is Precision.BF16 and not has_bf16:
        raise WeightsError("this processor has no bf16 instructions; set TESSERA_ENCODING__PRECISION to auto or f32")
    return wanted


def _one_face(model: ov.Model) -> ov.Model:
    model.reshape([1, CHIP_SIDE, CHIP_SIDE, 3])
    return model


class OpenvinoRuntime:
    """An encoder as a ``CpuNetwork`` for one face; several are encoded one after the other.

    On a CPU the faces of a batch share little, and each change of its size costs what they share. A face alone has the
    same embedding, to the last bit, whoever else is served.
    """

    def __init__(self, weights: EncoderWeights, *, precision: Precision, threads: int) -> None:
        processor = Processor()
        chosen = choose_precision(precision, processor.has_bf16)
        self.streams = threads or available_cores()
        try:
            self._network = CpuNetwork(
                processor, weights.network, precision=chosen.value, threads=self.streams, prepare=_one_face
            )
        except RuntimeError as error:
            raise WeightsError(f"OpenVINO cannot run the encoder {weights.name} {weights.version}: {error}") from error
        check_outputs([names[0] if names else "" for names in self._network.output_names], weights)
        self.info = EncoderInfo(
            name=weights.name,
            version=weights.version,
            sha256=weights.sha256,
            runtime=RuntimeName.OPENVINO,
            precision=chosen,
            device=processor.name,
            trained_on=weights.trained_on,
        )

    def encode(self, chips: Pixels) -> Encodings:
        """See ``EncoderRuntime.encode``."""
        check_chips(chips)
        embeddings = np.empty((len(chips), EMBEDDING_SIZE), dtype=np.float32)
        norms = np.empty(len(chips), dtype=np.float32)
        for place in range(len(chips)):
            with self._network.outputs(chips[place : place + 1]) as (embedding, norm):
                embeddings[place], norms[place] = embedding[0], norm[0, 0]
        return Encodings(embeddings, norms)
