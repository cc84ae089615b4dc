"""OpenVINO on a CPU: the default runtime."""

from __future__ import annotations

import platform

import numpy as np

from app.embeddings import EMBEDDING_SIZE
from app.encoding.quantisation import QUANTISATION_FILE, STEPS, Quantisation, RoundedWeights
from app.encoding.runtime import EncoderInfo, Encodings, Precision, RuntimeName, check_chips, check_outputs
from app.encoding.weights import EncoderWeights, WeightsError
from app.openvino import CpuNetwork, Floats, Processor, available_cores, opset, ov
from app.types import CHIP_SIDE, Pixels

FASTER_IN_INTEGERS = "x86_64"
"""The machine on which 8-bit integers are taken to be faster than float32; measured with AVX2 alone."""


def choose_precision(
    wanted: Precision, *, has_bf16: bool, quantised: bool, machine: str = platform.machine()
) -> Precision:
    """The precision to run in. Raises WeightsError for one that the processor or the encoder lacks."""
    if wanted is Precision.AUTO:
        if has_bf16:
            return Precision.BF16
        return Precision.INT8 if quantised and machine == FASTER_IN_INTEGERS else Precision.F32
    if wanted is Precision.BF16 and not has_bf16:
        raise WeightsError("this processor has no bf16 instructions; set TESSERA_ENCODING__PRECISION to auto")
    if wanted is Precision.INT8 and not quantised:
        raise WeightsError(
            f"this encoder has no {QUANTISATION_FILE}; write it with `python -m model.quantise`, or set "
            "TESSERA_ENCODING__PRECISION to auto or f32"
        )
    return wanted


def one_face(model: ov.Model) -> ov.Model:
    """The network with its input fixed to one chip."""
    model.reshape([1, CHIP_SIDE, CHIP_SIDE, 3])
    return model


def convolutions(model: ov.Model) -> dict[str, ov.Node]:
    """The convolutions that are not depthwise, in order, by the name of their weights in the ONNX file."""
    return {
        name: layer
        for layer in model.get_ordered_ops()
        if layer.get_type_name() == "Convolution"
        for name in layer.input_value(1).get_names()
    }


def _in_integers(model: ov.Model, quantisation: Quantisation) -> ov.Model:
    """Rounds the inputs and weights of convolutions, which OpenVINO then computes in 8 bits."""
    layers = convolutions(model)
    if missing := quantisation.keys() - layers.keys():
        raise RuntimeError(f"it has no convolutions {', '.join(sorted(missing))}, which {QUANTISATION_FILE} names")
    for name, seen in quantisation.items():
        layer = layers[name]
        followers = layer.output(0).get_target_inputs()
        low, high = (opset.constant(np.float32(limit)) for limit in seen.limits())
        rounded = RoundedWeights.of(_constant(layer.input_value(1)), seen.mean)
        inputs = opset.fake_quantize(layer.input_value(0), low, high, low, high, STEPS + 1)
        weights = opset.multiply(opset.convert(opset.constant(rounded.integers), "f32"), opset.constant(rounded.scale))
        layer.input(0).replace_source_output(inputs.output(0))
        layer.input(1).replace_source_output(weights.output(0))
        corrected = opset.add(layer.output(0), opset.constant(rounded.correction))
        for follower in followers:
            follower.replace_source_output(corrected.output(0))
    model.validate_nodes_and_infer_types()
    return model


def _constant(value: ov.Output) -> Floats:
    """Float32 weights, from a constant or one that is stored as float16."""
    node = value.get_node()
    stored = node.input_value(0).get_node() if node.get_type_name() == "Convert" else node
    constant: Floats = stored.data.astype(np.float32)
    return constant


class OpenvinoRuntime:
    """An encoder as a ``CpuNetwork`` for one face; several are encoded one after the other.

    On a CPU the faces of a batch share little, and each change of its size costs what they share. A face alone has the
    same embedding, to the last bit, whoever else is served.
    """

    def __init__(self, weights: EncoderWeights, *, precision: Precision, threads: int) -> None:
        processor = Processor()
        chosen = choose_precision(precision, has_bf16=processor.has_bf16, quantised=bool(weights.quantisation))
        # What is not a convolution is computed in float32 beside integers, so that these are the same everywhere.
        floating = Precision.BF16 if chosen is Precision.BF16 else Precision.F32

        def prepare(model: ov.Model) -> ov.Model:
            alone = one_face(model)
            return _in_integers(alone, weights.quantisation) if chosen is Precision.INT8 else alone

        self.streams = threads or available_cores()
        try:
            self._network = CpuNetwork(
                processor,
                weights.network,
                precision=floating.value,
                threads=self.streams,
                prepare=prepare,
            )
        except (RuntimeError, ValueError) as error:
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
