"""Photograph bytes to aligned faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from app.faces.align import TEMPLATE, align
from app.faces.decode import DecodeLimits, decode
from app.faces.detect import FaceDetector
from app.faces.errors import MultipleFacesError, NoFaceError
from app.faces.quality import QualityLimits, assess
from app.faces.types import AlignedFace, Box, DetectedFace, Photograph
from app.timing import stage

_CHIP_EYES = float(np.hypot(*(TEMPLATE[1] - TEMPLATE[0])))
"""Distance between the eyes in a chip, pixels."""


class FacePolicy(StrEnum):
    """Which faces of a photograph are meant."""

    SINGLE = "single"
    """The only one; more than one is an error."""
    LARGEST = "largest"
    """The one with the largest box."""
    ALL = "all"
    """All of them."""


@dataclass(frozen=True, slots=True)
class FoundFaces:
    """The faces found in a photograph.

    Attributes:
        width: of the upright original, pixels.
        height: of the upright original, pixels.
        faces_detected: how many faces there are, chosen or not.
        faces: the chosen ones, largest first; ``detected`` is in pixels of the upright original.
    """

    width: int
    height: int
    faces_detected: int
    faces: tuple[AlignedFace, ...]


class FaceFinder:
    """Decode, detect, choose, align, assess; as thread-safe as its detector."""

    def __init__(
        self,
        detector: FaceDetector,
        decode_limits: DecodeLimits | None = None,
        quality_limits: QualityLimits | None = None,
    ) -> None:
        self._detector = detector
        self._decode_limits = decode_limits or DecodeLimits()
        self._quality_limits = quality_limits or QualityLimits()

    def find(self, data: bytes, policy: FacePolicy) -> FoundFaces:
        """The faces of a photograph that the policy asks for.

        Poor quality is not an error here: each face's ``quality.issues`` names it.

        Args:
            data: the whole file.
            policy: which faces are meant.

        Raises:
            PhotographError: the bytes are not a usable photograph.
            NoFaceError: no face was found.
            MultipleFacesError: more than one was found and the policy is ``single``.
            DegenerateLandmarksError: a chosen face cannot be aligned.
        """
        photograph, detected = self._detect(data, largest=policy is FacePolicy.LARGEST)
        return self._found(photograph, detected, choose(detected, policy))

    def find_all(self, data: bytes) -> FoundFaces:
        """Every face of a photograph, as ``find`` with policy ``all``, but no face is not an error."""
        photograph, detected = self._detect(data)
        return self._found(photograph, detected, choose(detected, FacePolicy.ALL) if detected else [])

    def warm_up(self) -> None:
        """Runs the detector on a blank picture, in both modes."""
        blank = Photograph(np.zeros((480, 640, 3), dtype=np.uint8), format="none", width=640, height=480)
        for largest in (False, True):
            self._detector.detect(blank, largest=largest)

    def _detect(self, data: bytes, *, largest: bool = False) -> tuple[Photograph, list[DetectedFace]]:
        """The photograph, decoded in as much detail as its faces need, and the faces in original coordinates."""
        photograph, faces = self._run(data, largest, coarse=True)
        wanted = faces[:1] if largest else faces
        if photograph.more_detail and not (faces and all(_eye_distance(face) >= _CHIP_EYES for face in wanted)):
            # No face, or its chip would have to enlarge it, although the file has more detail.
            photograph, faces = self._run(data, largest, coarse=False)
        return photograph, [in_original(face, photograph.scale) for face in faces]

    def _run(self, data: bytes, largest: bool, *, coarse: bool) -> tuple[Photograph, list[DetectedFace]]:
        with stage("decode"):
            photograph = decode(data, self._decode_limits, coarse=coarse)
        with stage("detect"):
            return photograph, self._detector.detect(photograph, largest=largest)

    def _found(
        self, photograph: Photograph, detected: Sequence[DetectedFace], chosen: Sequence[DetectedFace]
    ) -> FoundFaces:
        return FoundFaces(
            width=photograph.width,
            height=photograph.height,
            faces_detected=len(detected),
            faces=tuple(self._cut(photograph, face) for face in chosen),
        )

    def _cut(self, photograph: Photograph, face: DetectedFace) -> AlignedFace:
        """Align and assess a face given in original coordinates."""
        with stage("align"):
            chip = align(photograph.pixels, face.landmarks * photograph.scale)
        with stage("assess"):
            return AlignedFace(detected=face, chip=chip, quality=assess(chip, face, 1.0, self._quality_limits))


def in_original(face: DetectedFace, scale: float) -> DetectedFace:
    """Converts a face from ``Photograph.pixels`` to the upright original, given ``Photograph.scale``."""
    box = face.box
    return DetectedFace(
        box=Box(x=box.x / scale, y=box.y / scale, width=box.width / scale, height=box.height / scale),
        landmarks=face.landmarks / scale,
        confidence=face.confidence,
    )


def choose(faces: Sequence[DetectedFace], policy: FacePolicy) -> list[DetectedFace]:
    """The faces that a policy asks for, largest first.

    Args:
        faces: what was found, in any order, in coordinates of the upright original (errors name the boxes).
        policy: which of them are meant.

    Raises:
        NoFaceError: there is none.
        MultipleFacesError: there is more than one and the policy is ``single``.
    """
    if not faces:
        raise NoFaceError(
            "No face was found. Send a photograph that shows the whole face upright, well lit and not too small."
        )
    ordered = sorted(faces, key=_area, reverse=True)
    if policy is FacePolicy.ALL:
        return ordered
    if policy is FacePolicy.SINGLE and len(ordered) > 1:
        boxes = [_rounded(face.box) for face in ordered]
        raise MultipleFacesError(
            f"The photograph shows {len(boxes)} faces where exactly one is expected. Crop it to the person "
            'who is meant, or ask for face_policy "largest".',
            count=len(boxes),
            boxes=boxes,
        )
    return ordered[:1]


def _eye_distance(face: DetectedFace) -> float:
    return float(np.hypot(*(face.landmarks[1] - face.landmarks[0])))


def _area(face: DetectedFace) -> float:
    return face.box.width * face.box.height


def _rounded(box: Box) -> dict[str, float]:
    return {name: round(getattr(box, name), 1) for name in ("x", "y", "width", "height")}
