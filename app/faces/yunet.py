"""The YuNet network: its weights, one run over a picture, and the decoding of its outputs.

Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20, 2023. Anchors, scores and
non-maximum suppression follow OpenCV's ``FaceDetectorYN``; results are the same up to rounding.
"""

from __future__ import annotations

import bisect
import hashlib
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from app.faces.errors import DetectorUnavailableError
from app.openvino import CpuNetwork, Processor, ov, passes
from app.types import Pixels

WEIGHTS_SHA256: Final = "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"
"""Digest of the YuNet weights that this module was tested with."""

WEIGHTS: Final = (
    Path(__file__).resolve().parents[2] / "model" / "weights" / "yunet" / "face_detection_yunet_2023mar_int8bq.onnx"
)
_REMEDY: Final = "Restore it from the release."
_STRIDES: Final = (8, 16, 32)
_MAX_CANDIDATES: Final = 5000
"""Boxes that non-maximum suppression chooses from, the most confident ones; as in ``FaceDetectorYN``."""
_CACHED_KERNELS: Final = 300
"""Enough for some ten shapes of each kind; a run over a shape that is not among the latest takes some milliseconds
longer. All shapes together would take a gigabyte (`benchmarks.memory`)."""
_KINDS: Final = (192 * 192, 320 * 320)
"""Pixels; a smaller picture, a larger one, and one that is larger still have a network each. A change of shape costs a
network half a millisecond to three, and each kind of look at a photograph mostly has the same shape again."""
_LARGE: Final = 1024 * 1024
"""Pixels; the working memory of a run over a larger picture is given back after it."""

Floats = npt.NDArray[np.float32]


def read_weights(path: Path = WEIGHTS) -> bytes:
    """The weights of YuNet, checked against `WEIGHTS_SHA256`.

    Args:
        path: the ONNX file; the one that comes with the encoders by default.

    Raises:
        DetectorUnavailableError: the file is missing, unreadable or has another digest.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DetectorUnavailableError(
            f"The face detector's weights cannot be read from {path}: {error.strerror}. {_REMEDY}", path=str(path)
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise DetectorUnavailableError(
            f"The face detector's weights in {path} are not the expected ones (SHA-256 {digest}). {_REMEDY}",
            path=str(path),
            sha256=digest,
            expected_sha256=WEIGHTS_SHA256,
        )
    return data


class Yunet:
    """The network for pictures of any size; callable from several threads at once."""

    def __init__(self, weights: bytes, *, threads: int, precision: str = "f32") -> None:
        """Compiles the network.

        Args:
            weights: the ONNX file.
            threads: how many pictures may be searched at once.
            precision: ``f32`` or ``bf16``.

        Raises:
            DetectorUnavailableError: OpenVINO cannot run it.
        """
        try:
            processor = Processor()
            self._networks = [
                CpuNetwork(
                    processor,
                    weights,
                    precision=precision,
                    threads=threads,
                    prepare=_prepare,
                    cached_kernels=_CACHED_KERNELS,
                )
                for _ in range(len(_KINDS) + 1)
            ]
        except RuntimeError as error:
            raise DetectorUnavailableError(f"OpenVINO cannot run the face detector: {error}.") from error

    def detect(self, picture: Pixels, score_threshold: float, nms_threshold: float) -> Floats:
        """Faces in a picture, the most confident first.

        Args:
            picture: uint8 [H, W, 3], RGB.
            score_threshold: lowest confidence, 0..1.
            nms_threshold: boxes that overlap by more than this share (intersection over union) are one face.

        Returns:
            float32 [N, 15]: x, y, width, height, five points, confidence; in pixels of the picture.
        """
        padded = _padded(picture)
        columns = [padded.shape[1] // stride for stride in _STRIDES]
        pixels = padded.shape[0] * padded.shape[1]
        network = self._networks[bisect.bisect_left(_KINDS, pixels)]
        with network.outputs(padded[np.newaxis]) as outputs:
            found = np.concatenate(
                [_decode(outputs[level::3], columns[level], _STRIDES[level], score_threshold) for level in range(3)]
            )
        if pixels > _LARGE:
            network.release_memory()
        if len(found) < 2:
            return found
        if len(found) > _MAX_CANDIDATES:
            found = found[np.argsort(-found[:, 14], kind="stable")[:_MAX_CANDIDATES]]
        kept = cv2.dnn.NMSBoxes(found[:, :4].tolist(), found[:, 14].tolist(), score_threshold, nms_threshold)
        return found[np.asarray(kept, dtype=np.int64).ravel()]


def _prepare(model: ov.Model) -> ov.Model:
    """Lets the network take uint8 RGB pictures of any size, and expands its quantised weights."""
    # The file holds 8-bit weights in blocks. If OpenVINO 2026 expands them itself, it mixes them up as soon as several
    # requests share them.
    folding = passes.Manager()
    folding.register_pass(passes.ConstantFolding())
    folding.run_passes(model)
    model.reshape([1, 3, -1, -1])
    steps = ov.preprocess.PrePostProcessor(model)
    colours = ov.preprocess.ColorFormat
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC")).set_color_format(colours.RGB)
    steps.input().model().set_layout(ov.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(ov.Type.f32).convert_color(colours.BGR)
    return steps.build()


def _padded(picture: Pixels) -> Pixels:
    """The picture with black at its right and bottom, so that its sides are multiples of the largest stride."""
    height, width = picture.shape[:2]
    bottom, right = -height % _STRIDES[-1], -width % _STRIDES[-1]
    if not bottom and not right:
        return picture
    padded = cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    return padded.astype(np.uint8, copy=False)


def _decode(level: list[Floats], columns: int, stride: int, score_threshold: float) -> Floats:
    """Faces of one stride, [N, 15]; ``level``: scores (class, object) [1, A, 1], boxes [1, A, 4], points [1, A, 10]."""
    class_scores, object_scores, boxes, points = (output[0] for output in level)
    # Nearly all anchors show no face: do the remaining work only for those that do.
    likely = np.flatnonzero(class_scores[:, 0] >= score_threshold**2)
    scores = np.sqrt(np.clip(class_scores[likely, 0], 0, 1) * np.clip(object_scores[likely, 0], 0, 1))
    chosen, scores = likely[scores >= score_threshold], scores[scores >= score_threshold]
    anchors = np.stack([chosen % columns, chosen // columns], axis=1).astype(np.float32)
    centres = (boxes[chosen, :2] + anchors) * stride
    # The exponent encodes a size; wild network outputs must not overflow.
    sizes = np.exp(np.minimum(boxes[chosen, 2:], 10)) * stride
    landmarks = (points[chosen].reshape(-1, 5, 2) + anchors[:, np.newaxis]) * stride
    faces: Floats = np.concatenate(
        [centres - sizes / 2, sizes, landmarks.reshape(-1, 10), scores[:, np.newaxis]], axis=1, dtype=np.float32
    )
    return faces
