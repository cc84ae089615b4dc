"""Encoders by name or folder, as functions over chips: ours and the baselines they are compared with.

dlib (King 2017; public domain) aligns faces its own way, so it is given photographs and the detector's face boxes. Its
network and landmarks come from the PyPI packages ``dlib-bin`` and ``face_recognition_models``, used only here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.encoding import Precision, RuntimeName, create_runtime, load_weights
from app.faces import DecodeLimits, decode
from model.calibrate import encode_all
from model.commands import StoppedError
from model.evaluation.protocols import Embeddings, find_central_faces
from model.training.teacher import sface_teacher

Encode = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]

SFACE = "sface"
DLIB = "dlib"


def load_encode(
    encoder: str, runtime: RuntimeName = RuntimeName.OPENVINO, precision: Precision = Precision.AUTO
) -> tuple[str, Encode]:
    """A display name and a function from uint8 [N, 112, 112, 3] to unit-length float32 [N, 128].

    ``encoder`` is a folder written by ``model.export``, or ``sface``, which runs as published: one pass, in OpenVINO.
    Raises ValueError for SFace in another runtime, or in int8.
    """
    if encoder == SFACE:
        if runtime is not RuntimeName.OPENVINO:
            raise ValueError(f"sface runs in openvino only, not in {runtime}")
        if precision is Precision.INT8:
            raise ValueError("sface runs in bf16 or f32 here, not in int8")
        teacher = sface_teacher(precision)
        return f"SFace, openvino {teacher.precision}", lambda chips: teacher.embed(chips, flip=False)
    served = create_runtime(load_weights(Path(encoder)), runtime=runtime, precision=precision)
    info = served.info
    return (
        f"{info.name} {info.version}, {info.runtime} {info.precision}",
        lambda chips: encode_all(served, chips).embeddings,
    )


def dlib_embeddings(photographs: dict[str, bytes]) -> Embeddings:
    """The dlib embedding of each photograph's central face, unit-length; photographs without a face are left out.

    Raises StoppedError where dlib is not installed.
    """
    dlib, models = _load_dlib()
    predictor = dlib.shape_predictor(models.pose_predictor_five_point_model_location())
    network = dlib.face_recognition_model_v1(models.face_recognition_model_location())
    found = {}
    for name, face in find_central_faces(photographs).items():
        box, photograph = face.detected.box, decode(photographs[name], DecodeLimits())
        # Boxes are in pixels of the original, but large photographs are decoded at a smaller size.
        edges = (box.x, box.y, box.x + box.width, box.y + box.height)
        rectangle = dlib.rectangle(*(int(edge * photograph.scale) for edge in edges))
        found[name] = np.asarray(dlib.get_face_chip(photograph.pixels, predictor(photograph.pixels, rectangle)))
    vectors = np.array(network.compute_face_descriptor(list(found.values())), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return dict(zip(found, vectors, strict=True))


def dlib_network() -> Callable[[npt.NDArray[np.uint8]], Any]:
    """The network of dlib alone, for one chip in its own format, uint8 [150, 150, 3], RGB.

    Raises StoppedError where dlib is not installed.
    """
    dlib, models = _load_dlib()
    network = dlib.face_recognition_model_v1(models.face_recognition_model_location())
    encode: Callable[[npt.NDArray[np.uint8]], Any] = network.compute_face_descriptor
    return encode


def _load_dlib() -> tuple[Any, Any]:
    try:
        import dlib  # noqa: PLC0415
        import face_recognition_models  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise StoppedError(
            f"dlib's row needs {missing.name}; `pip install dlib-bin face_recognition_models 'setuptools<81'`"
        ) from missing
    return dlib, face_recognition_models
