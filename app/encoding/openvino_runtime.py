"""OpenVINO on a CPU: the default runtime."""

from __future__ import annotations

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


def _any_batch(model: ov.Model) -> ov.Model:
    return model


def _one_face(model: ov.Model) -> ov.Model:
    model.reshape([1, CHIP_SIDE, CHIP_SIDE, 3])
    return model


class OpenvinoRuntime:
    """An encoder as two ``CpuNetwork``: one for single faces, whose fixed shape saves 10 % of time, one for batches."""

    def __init__(self, weights: EncoderWeights, *, precision: Precision, threads: int) -> None:
        processor = Processor()
        chosen = choose_precision(precision, processor.has_bf16)
        self.streams = threads or available_cores()
        try:
            self._batch, self._single = (
                CpuNetwork(processor, weights.network, precision=chosen.value, threads=self.streams, prepare=prepare)
                for prepare in (_any_batch, _one_face)
            )
        except RuntimeError as error:
            raise WeightsError(f"OpenVINO cannot run the encoder {weights.name} {weights.version}: {error}") from error
        check_outputs([names[0] if names else "" for names in self._batch.output_names], weights)
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
        network = self._single if len(chips) == 1 else self._batch
        with network.outputs(chips) as (embeddings, norms):
            return Encodings(embeddings.copy(), norms[:, 0].copy())
