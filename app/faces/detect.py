"""Faces and their five landmarks in a photograph."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from app.faces.budget import WorkBudget
from app.faces.types import Box, DetectedFace, Landmarks, Photograph
from app.faces.yunet import WEIGHTS, Yunet, read_weights
from app.openvino import available_cores
from app.types import OUTSIDE_COLOUR, Pixels

SAME = 0.5
"""Boxes that overlap by this much (intersection over union) show the same face."""

Border = tuple[float, float, float, float]
"""Left, top, right, bottom, pixels."""
NO_BORDER: Border = (0, 0, 0, 0)


class FaceDetector(Protocol):
    """Finds faces; callable from several threads at once."""

    def detect(
        self,
        photograph: Photograph,
        *,
        largest: bool = False,
        exact: int | None = None,
        most: int | None = None,
        budget: WorkBudget | None = None,
    ) -> list[DetectedFace]:
        """The faces found, largest box first, in coordinates of ``photograph.pixels``; empty if there are none.

        Args:
            photograph: the decoded picture.
            largest: only the largest face is wanted; much smaller ones may be missing, others of like size are not.
            exact: only so many of the largest faces need exact landmarks; None: all of them.
            most: more faces than these are of no use, so if there are more, their landmarks may be less exact.
            budget: checked between runs of the network.

        Raises:
            TooMuchWorkError: the budget's time is used up.
        """
        ...

    def glance(self, pixels: Pixels) -> float:
        """Confidence of the surest face in a picture, after one look at a small size; 0 if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """Scales and thresholds of `YunetDetector`.

    Attributes:
        score_threshold: lowest confidence of a face that is reported, 0..1.
        nms_threshold: boxes that overlap by more than this share (intersection over union) are one face.
        confident: below this best confidence, smaller scales are tried for a face that nearly fills the picture.
        coarse_side: long side of the picture in the coarse pass, pixels.
        refine_below: faces whose box is narrower than this in the detector's input, pixels, are refined: the detector
            runs again on the region around them, for more exact landmarks.
        border_gap: faces whose box comes this close to the border of the picture, in sides of the box, or crosses it,
            are refined too: landmarks are less exact without context around the face.
        smallest_refined: narrower faces in the coarse pass, pixels, are not trusted: the default pass follows.
        smallest_alone: if the largest face is narrower than this in the coarse pass, pixels, another of like size may
            have been missed there: the default scale is looked at for others.
        refined_side: long side of the region in the refinement, pixels; the picture is not enlarged for it, except for
            a face at its border, since crops are often tiny.
        refined_region: side of that region, in sides of the face's box; grey where there is no picture.
        default_side: long side at which all faces are looked for, pixels; pictures are never enlarged for it.
        close_up_sides: long sides at which faces that nearly fill the picture are looked for, tried in order.
        close_up_border: grey border around the picture then, as a share of its long side.
        distant_sides: long sides at which small faces are looked for, tried in order until one is found.
    """

    score_threshold: float = 0.6
    nms_threshold: float = 0.3
    confident: float = 0.8
    coarse_side: int = 320
    refine_below: int = 64
    border_gap: float = 0.1
    smallest_refined: int = 16
    smallest_alone: int = 32
    refined_side: int = 192
    refined_region: float = 2.0
    default_side: int = 640
    close_up_sides: tuple[int, ...] = (320, 160)
    close_up_border: float = 0.25
    distant_sides: tuple[int, ...] = (1280, 2048)


class YunetDetector:
    """YuNet at several detection scales; callable from several threads at once.

    The network finds faces of about 10 to 300 pixels (its README in opencv_zoo). A coarse pass may be enough if only
    the largest face is wanted; otherwise the default scale follows, where a face that fills the picture may be missed:
    the largest face of the coarse pass counts in any case. If the default scale finds nothing, or a single face with
    low confidence, smaller scales are tried for faces that nearly fill the picture (with a border), then larger ones
    for distant faces. Very small faces next to one found at the default scale are therefore missed, and one that is
    larger than the picture, with a small one beside it. A face at the border of the picture is refined with grey beyond
    the border; its box and landmarks may lie beyond it.
    """

    def __init__(self, settings: DetectorSettings | None = None, weights: Path = WEIGHTS, *, threads: int = 0) -> None:
        """Read and check the weights.

        Args:
            settings: detection scales and thresholds; the defaults if None.
            weights: path of the ONNX file; the one that comes with the encoders by default.
            threads: how many pictures may be searched at once; 0: one per core.

        Raises:
            DetectorUnavailableError: the weights are missing, have another digest, or cannot be run.
        """
        self._settings = settings or DetectorSettings()
        self._network = Yunet(read_weights(weights), threads=threads or available_cores())

    def detect(
        self,
        photograph: Photograph,
        *,
        largest: bool = False,
        exact: int | None = None,
        most: int | None = None,
        budget: WorkBudget | None = None,
    ) -> list[DetectedFace]:
        """See ``FaceDetector.detect``."""
        check = budget.check if budget is not None else _unchecked
        pixels = photograph.pixels
        long_side = max(pixels.shape[:2])
        seen = self._coarse_pass(pixels) if long_side > self._settings.coarse_side else []
        if largest and seen and (with_others := self._with_others(pixels, seen, check)):
            return with_others
        faces, looked_at = self._all_scales(pixels, check)
        # A face gets the same landmarks, and so the same embedding, whether or not other faces were wanted.
        known = seen[0] if seen else None
        faces = self._with_known(faces, known) if known else faces
        wanted = 1 if largest else len(faces) if exact is None else min(exact, len(faces))
        if most is not None and wanted > most:
            return faces
        refined = []
        for face in faces[:wanted]:
            check()
            refined.append(face if face is known else self._refined(pixels, face, looked_at / long_side))
        return _by_size(refined + faces[wanted:])

    def glance(self, pixels: Pixels) -> float:
        """See ``FaceDetector.glance``."""
        return _best(self._run(pixels, min(1.0, self._settings.coarse_side / max(pixels.shape[:2]))))

    def _with_others(
        self, pixels: Pixels, seen: list[DetectedFace], check: Callable[[], None]
    ) -> list[DetectedFace] | None:
        """The faces of the coarse pass with those of like size that it may have missed; None if one is larger."""
        settings, long_side, first = self._settings, max(pixels.shape[:2]), seen[0]
        if first.box.width * settings.coarse_side >= settings.smallest_alone * long_side:
            return seen
        check()
        found = self._with_known(self._run(pixels, min(1.0, settings.default_side / long_side)), first)
        return found if found[0] is first else None

    def _with_known(self, faces: list[DetectedFace], known: DetectedFace) -> list[DetectedFace]:
        """The faces with one that is known already, in place of the same one if that is among them."""
        same = max(faces, key=lambda face: _overlap(face, known), default=None)
        if same is not None and _overlap(same, known) > self._settings.nms_threshold:
            faces = [face for face in faces if face is not same]
        return _by_size([known, *faces])

    def _all_scales(self, pixels: Pixels, check: Callable[[], None]) -> tuple[list[DetectedFace], int]:
        """The faces of the default scale, or else of smaller and larger ones, and the scale's long side.

        ``check`` is called before each run of the network.
        """
        settings = self._settings
        long_side = max(pixels.shape[:2])
        check()
        faces = self._run(pixels, min(1.0, settings.default_side / long_side))
        for side in settings.close_up_sides:
            if len(faces) > 1 or _best(faces) >= settings.confident:
                break
            check()
            near = self._run(pixels, side / long_side, (settings.close_up_border * long_side,) * 4)
            faces = max(faces, near, key=_best)
        looked_at = settings.default_side
        for side in settings.distant_sides:
            if faces or long_side <= looked_at:
                break
            check()
            faces = self._run(pixels, min(1.0, side / long_side))
            looked_at = side
        return _by_size(faces), looked_at

    def _refined(self, pixels: Pixels, face: DetectedFace, scale: float) -> DetectedFace:
        """The face refined, if it is at the border, or was small at ``scale`` and the picture has more detail."""
        small = scale < 1 and face.box.width * scale < self._settings.refine_below
        looked_at_again = small or self._at_border(pixels, face)
        return (self._refine(pixels, face) if looked_at_again else None) or face

    def _coarse_pass(self, pixels: Pixels) -> list[DetectedFace]:
        """The faces of the coarse pass if the largest is large enough or could be refined; otherwise none."""
        settings = self._settings
        scale = settings.coarse_side / max(pixels.shape[:2])
        seen = _by_size(self._run(pixels, scale))
        if not seen or seen[0].confidence < settings.confident:
            return []
        width = seen[0].box.width * scale
        if width >= settings.refine_below and not self._at_border(pixels, seen[0]):
            return seen
        closer = self._refine(pixels, seen[0]) if width >= settings.smallest_refined else None
        return [closer, *seen[1:]] if closer else []

    def _at_border(self, pixels: Pixels, face: DetectedFace) -> bool:
        """Whether the box crosses the border of the picture or nearly reaches it."""
        box, (height, width) = face.box, pixels.shape[:2]
        gap = min(box.x, box.y, width - box.x - box.width, height - box.y - box.height)
        return bool(gap < self._settings.border_gap * max(box.width, box.height))

    def _refine(self, pixels: Pixels, face: DetectedFace) -> DetectedFace | None:
        """The same face, detected again in the region around it; None if it is not found there as confidently."""
        box, settings = face.box, self._settings
        half = settings.refined_region * max(box.width, box.height) / 2
        x, y = box.x + box.width / 2, box.y + box.height / 2
        height, width = pixels.shape[:2]
        left, top, right, bottom = (math.floor(side) for side in (x - half, y - half, x + half + 1, y + half + 1))
        beyond = (max(0, -left), max(0, -top), max(0, right - width), max(0, bottom - height))
        scale = settings.refined_side / max(right - left, bottom - top)
        if not self._at_border(pixels, face):
            scale = min(1.0, scale)
        left, top = max(0, left), max(0, top)
        region = pixels[top : max(0, bottom), left : max(0, right)]
        found = self._run(region, scale, beyond) if region.size else []
        sure = min(settings.confident, face.confidence)
        same = [f for f in found if f.confidence >= sure and _overlap(_moved(f, left, top), face) >= SAME]
        return _moved(max(same, key=lambda f: f.confidence), left, top) if same else None

    def _run(self, pixels: Pixels, scale: float, border: Border = NO_BORDER) -> list[DetectedFace]:
        """One run of the network over the picture at ``scale``, in a grey border of ``border`` pixels of the original.

        Faces are in coordinates of the picture without the border.
        """
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        picture = resize(pixels, width, height)
        left, top, right, bottom = (round(side * scale) for side in border)
        if border != NO_BORDER:
            bordered = cv2.copyMakeBorder(picture, top, bottom, left, right, cv2.BORDER_CONSTANT, value=OUTSIDE_COLOUR)
            picture = bordered.astype(np.uint8, copy=False)
        rows = self._network.detect(picture, self._settings.score_threshold, self._settings.nms_threshold)
        back = np.array([pixels.shape[1] / width, pixels.shape[0] / height], dtype=np.float32)
        origin = np.array([left, top], dtype=np.float32)
        return [_face(row, origin, back) for row in rows if np.isfinite(row).all()]


def _unchecked() -> None:
    """Without a budget nothing is checked."""


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """The picture at another size, averaged where it is reduced and bilinear otherwise."""
    if (width, height) == (pixels.shape[1], pixels.shape[0]):
        return pixels
    # Averaging areas of whole pixels is many times faster than others; the remaining reduction, to more than half, does
    # not alias.
    whole = min(pixels.shape[1] // width, pixels.shape[0] // height)
    if whole > 1:
        reduced = (pixels.shape[1] // whole, pixels.shape[0] // whole)
        region = pixels[: reduced[1] * whole, : reduced[0] * whole]
        pixels = cv2.resize(region, reduced, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def _face(row: npt.NDArray[np.float32], origin: npt.NDArray[np.float32], back: npt.NDArray[np.float32]) -> DetectedFace:
    """A row of YuNet's [15] (x, y, width, height, five points, score) in the coordinates of the original picture.

    The picture begins at ``origin`` of the network's input and is ``back`` times as large, in x and y.

    The points come as the person's right eye, left eye, nose tip, right and left mouth corner, so in an upright picture
    the left one of each pair comes first, which is the order of the alignment template.
    """
    corner, size = (row[0:2] - origin) * back, row[2:4] * back
    landmarks: Landmarks = ((row[4:14].reshape(5, 2) - origin) * back).astype(np.float32)
    box = Box(x=float(corner[0]), y=float(corner[1]), width=float(size[0]), height=float(size[1]))
    return DetectedFace(box=box, landmarks=landmarks, confidence=float(min(max(row[14], 0.0), 1.0)))


def _by_size(faces: list[DetectedFace]) -> list[DetectedFace]:
    """The faces, largest first."""
    return sorted(faces, key=lambda face: face.box.width * face.box.height, reverse=True)


def _moved(face: DetectedFace, x: int, y: int) -> DetectedFace:
    """A face of a region that begins at x, y of the picture, in coordinates of the picture."""
    box = Box(face.box.x + x, face.box.y + y, face.box.width, face.box.height)
    return DetectedFace(box, face.landmarks + np.array([x, y], dtype=np.float32), face.confidence)


def _overlap(one: DetectedFace, other: DetectedFace) -> float:
    """Intersection over union of the boxes, 0..1."""
    a, b = one.box, other.box
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    common = max(width, 0.0) * max(height, 0.0)
    return common / max(a.width * a.height + b.width * b.height - common, 1e-9)


def _best(faces: list[DetectedFace]) -> float:
    return max((face.confidence for face in faces), default=0.0)
