"""PyTorch: for a GPU, and as the reference that the default runtime is checked against.

It executes the same ``encoder.onnx`` as every other runtime, node by node, so that there is one file of weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from app.encoding.runtime import OUTPUTS, EncoderInfo, Precision, RuntimeName, check_chips, check_outputs
from app.encoding.weights import EncoderWeights, WeightsError
from app.types import Encodings, Pixels

try:
    import onnx
    import torch
    from onnx import numpy_helper
    from torch import Tensor
    from torch.nn import functional
except ImportError as missing:
    raise WeightsError(
        f"the torch runtime needs {missing.name}; install tessera-face[train] or set TESSERA_ENCODING__RUNTIME=openvino"
    ) from missing

Attributes = dict[str, Any]
Operation = Callable[[list[Tensor], Attributes], Tensor]


def _convolution(inputs: list[Tensor], attributes: Attributes) -> Tensor:
    before, after = attributes["pads"][:2], attributes["pads"][2:]
    if before != after:
        raise WeightsError(f"convolutions with uneven padding {attributes['pads']} are not supported")
    pixels, weight, *bias = inputs
    result: Tensor = functional.conv2d(
        pixels,
        weight,
        bias[0] if bias else None,
        stride=attributes["strides"],
        padding=before,
        groups=attributes.get("group", 1),
    )
    return result


def _linear(inputs: list[Tensor], attributes: Attributes) -> Tensor:
    if attributes.get("transA", 0) or not attributes.get("transB", 0):
        raise WeightsError("a fully connected layer must hold its weights as [outputs, inputs]")
    return functional.linear(*inputs)


def _slice(inputs: list[Tensor], _: Attributes) -> Tensor:
    tensor, starts, ends, axes, *steps = inputs
    if any((step != 1).any() for step in steps):
        raise WeightsError("pictures are cut without leaving anything out")
    for start, end, axis in zip(starts.tolist(), ends.tolist(), axes.tolist(), strict=True):
        tensor = tensor.narrow(axis, start, min(end, tensor.shape[axis]) - start)
    return tensor


def _resize(inputs: list[Tensor], attributes: Attributes) -> Tensor:
    if attributes["mode"] != b"linear" or attributes["coordinate_transformation_mode"] != b"half_pixel":
        raise WeightsError("pictures are resized with linear interpolation between the middles of pixels only")
    pixels, sizes = inputs
    return functional.interpolate(pixels, size=sizes[2:].tolist(), mode="bilinear", align_corners=False)


OPERATIONS: dict[str, Operation] = {
    "Add": lambda x, _: x[0] + x[1],
    "Concat": lambda x, a: torch.cat(x, dim=a["axis"]),
    "Cast": lambda x, a: x[0].to(torch.float16 if a["to"] == onnx.TensorProto.FLOAT16 else torch.float32),
    "Conv": _convolution,
    "Div": lambda x, _: x[0] / x[1],
    "Flatten": lambda x, a: x[0].flatten(a.get("axis", 1)),
    "Gemm": _linear,
    "Identity": lambda x, _: x[0],
    "Mul": lambda x, _: x[0] * x[1],
    "PRelu": lambda x, _: functional.prelu(x[0], x[1].flatten().to(x[0].dtype)),
    "ReduceL2": lambda x, a: x[0].float().norm(dim=tuple(a["axes"]), keepdim=bool(a.get("keepdims", 1))),
    "ReduceMean": lambda x, a: x[0].mean(dim=tuple(a["axes"]), keepdim=bool(a.get("keepdims", 1))),
    "Relu": lambda x, _: functional.relu(x[0]),
    "Resize": _resize,
    "Shape": lambda x, _: torch.tensor(x[0].shape),
    "Sigmoid": lambda x, _: x[0].sigmoid(),
    "Slice": _slice,
    "Sub": lambda x, _: x[0] - x[1],
    "Transpose": lambda x, a: x[0].permute(*a["perm"]),
}


class TorchRuntime:
    """The network on a GPU if torch sees one, else on the CPU, one call after the other on all threads."""

    streams = 1

    def __init__(self, weights: EncoderWeights, *, precision: Precision, threads: int) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._precision = precision if precision is not Precision.AUTO else Precision.F32
        if threads:
            torch.set_num_threads(threads)
        graph = onnx.load_from_string(weights.network).graph
        unknown = sorted({n.op_type for n in graph.node} - OPERATIONS.keys() - {"Constant"})
        if unknown:
            raise WeightsError(f"the torch runtime does not know these operations of the encoder: {', '.join(unknown)}")
        self._values = {t.name: self._tensor(numpy_helper.to_array(t)) for t in graph.initializer}
        self._nodes: list[tuple[Operation, list[str], str, Attributes]] = []
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                self._values[node.output[0]] = self._tensor(numpy_helper.to_array(attributes["value"]))
            else:
                self._nodes.append((OPERATIONS[node.op_type], list(node.input), node.output[0], attributes))
        check_outputs([output.name for output in graph.output], weights)
        self._input = graph.input[0].name
        self.info = EncoderInfo(
            name=weights.name,
            version=weights.version,
            sha256=weights.sha256,
            runtime=RuntimeName.TORCH,
            precision=self._precision,
            device=str(self._device),
        )

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self._device)

    def encode(self, chips: Pixels) -> Encodings:
        """See ``EncoderRuntime.encode``."""
        check_chips(chips)
        bf16 = self._precision is Precision.BF16
        values = dict(self._values)
        values[self._input] = self._tensor(chips)
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
            for operation, inputs, output, attributes in self._nodes:
                values[output] = operation([values[name] for name in inputs if name], attributes)
        embeddings, lengths = (values[name].float().cpu().numpy() for name in OUTPUTS)
        return Encodings(embeddings, lengths[:, 0])
