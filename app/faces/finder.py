"""Photograph bytes to aligned faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from app.faces.align import TEMPLATE, align
from app.faces.budget import WorkBudget
from app.faces.decode import DecodeLimits, decode
from app.faces.detect import FaceDetector
from app.faces.errors import MultipleFacesError, NoFaceError, TooManyFacesError
from app.faces.quality import QualityLimits, assess
from app.faces.turn import righted
from app.faces.types import AlignedFace, Box, DetectedFace, Photograph
from app.timing import stage

_CHIP_EYES = float(np.hypot(*(TEMPLATE[1] - TEMPLATE[0])))
"""Distance between the eyes in a chip, pixels."""
MAX_FACES = 64
"""Faces of one photograph that are aligned, unless the finder is told otherwise."""
DOMINANT = 1.5
"""How many times as large as every other a dominant face is, by the sides of the boxes. Heads side by side differ by a
quarter at most, and a ratio is measured to within 15 %. Faces that differ by less are of like size."""
_LISTED_BOXES = 20
"""Boxes that an error lists, the largest ones."""


class FacePolicy(StrEnum):
    """Which faces of a photograph are meant."""

    SINGLE = "single"
    """The only one; more than one is an error."""
    DOMINANT = "dominant"
    """The one that is clearly larger than all others; if none is, that is an error."""
    LARGEST = "largest"
    """The one with the largest box, however little larger it is."""
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
        ambiguous: the largest was asked for, and another one is of like size.
    """

    width: int
    height: int
    faces_detected: int
    faces: tuple[AlignedFace, ...]
    ambiguous: bool = False


class FaceFinder:
    """Decode, detect, choose, align, assess; as thread-safe as its detector."""

    def __init__(
        self,
        detector: FaceDetector,
        decode_limits: DecodeLimits | None = None,
        quality_limits: QualityLimits | None = None,
        *,
        max_faces: int = MAX_FACES,
    ) -> None:
        """``max_faces``: more faces of one photograph are an error where all are asked for."""
        self._max_faces = max_faces
        self._detector = detector
        self._decode_limits = decode_limits or DecodeLimits()
        self._quality_limits = quality_limits or QualityLimits()

    def find(self, data: bytes, policy: FacePolicy, budget: WorkBudget | None = None) -> FoundFaces:
        """The faces of a photograph that the policy asks for.

        Poor quality is not an error here: each face's ``quality.issues`` names it.

        Args:
            data: the whole file.
            policy: which faces are meant.
            budget: pays for the pixels and the time; shared by the photographs of a request.

        Raises:
            PhotographError: the bytes are not a usable photograph.
            NoFaceError: no face was found.
            MultipleFacesError: more than one was found and the policy is ``single``, or none is clearly larger than the
                others and the policy is ``dominant``.
            TooManyFacesError: more than ``max_faces`` were found and the policy is ``all``.
            TooMuchWorkError: the budget is used up.
            DegenerateLandmarksError: a chosen face cannot be aligned.
        """
        photograph, detected = self._detect(data, policy, budget)
        found = self._found(photograph, detected, choose(detected, policy, self._max_faces))
        return replace(found, ambiguous=policy is FacePolicy.LARGEST and not is_dominant(detected))

    def find_all(self, data: bytes, budget: WorkBudget | None = None) -> FoundFaces:
        """Every face of a photograph, as ``find`` with policy ``all``, but no face is not an error."""
        photograph, detected = self._detect(data, FacePolicy.ALL, budget)
        chosen = choose(detected, FacePolicy.ALL, self._max_faces) if detected else []
        return self._found(photograph, detected, chosen)

    def warm_up(self) -> None:
        """Runs the detector on a blank picture, in both modes."""
        blank = Photograph(np.zeros((480, 640, 3), dtype=np.uint8), format="none", width=640, height=480)
        for largest in (False, True):
            self._detector.detect(blank, largest=largest)

    def _detect(
        self, data: bytes, policy: FacePolicy, budget: WorkBudget | None
    ) -> tuple[Photograph, list[DetectedFace]]:
        """The photograph, decoded in as much detail as its faces need, and the faces in original coordinates."""
        if budget is not None:
            budget.check()
        with stage("decode"):
            photograph = decode(data, self._decode_limits, coarse=True, budget=budget)
        faces = self._faces(photograph, policy, budget)
        wanted = faces[:1] if policy in (FacePolicy.LARGEST, FacePolicy.DOMINANT) else faces
        if photograph.more_detail and not (faces and all(_eye_distance(face) >= _CHIP_EYES for face in wanted)):
            # No face, or its chip would have to enlarge it, although the file has more detail. Its pixels are paid for.
            if budget is not None:
                budget.check()
            with stage("decode"):
                photograph = decode(data, self._decode_limits)
            faces = self._faces(photograph, policy, budget)
        # Last, so that a photograph whose face is found upright is never turned.
        with stage("detect"):
            faces = righted(
                self._detector, photograph, faces, lambda turned: self._faces_of(turned, policy, budget), budget
            )
        return photograph, [in_original(face, photograph.scale) for face in faces]

    def _faces(self, photograph: Photograph, policy: FacePolicy, budget: WorkBudget | None) -> list[DetectedFace]:
        """The faces that the policy needs to know of; exact where there are not more than it can take."""
        if budget is not None:
            budget.check()
        with stage("detect"):
            return self._faces_of(photograph, policy, budget)

    def _faces_of(self, photograph: Photograph, policy: FacePolicy, budget: WorkBudget | None) -> list[DetectedFace]:
        most = {FacePolicy.SINGLE: 1, FacePolicy.DOMINANT: None}.get(policy, self._max_faces)
        return self._detector.detect(
            photograph,
            largest=policy is FacePolicy.LARGEST,
            exact=1 if policy is FacePolicy.DOMINANT else None,
            most=most,
            budget=budget,
        )

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
    return replace(
        face,
        box=Box(x=box.x / scale, y=box.y / scale, width=box.width / scale, height=box.height / scale),
        landmarks=face.landmarks / scale,
    )


def is_dominant(faces: Sequence[DetectedFace]) -> bool:
    """Whether the largest of some faces, in any order, is `DOMINANT` times as large as every other."""
    sides = sorted((face.box.side for face in faces), reverse=True)
    return len(sides) < 2 or sides[0] >= DOMINANT * sides[1]


def choose(faces: Sequence[DetectedFace], policy: FacePolicy, max_faces: int = MAX_FACES) -> list[DetectedFace]:
    """The faces that a policy asks for, largest first.

    Args:
        faces: what was found, in any order, in coordinates of the upright original (errors name the boxes).
        policy: which of them are meant.
        max_faces: how many there may be if all are meant.

    Raises:
        NoFaceError: there is none.
        MultipleFacesError: there is more than one and the policy is ``single``, or none is clearly larger than the
            others and the policy is ``dominant``.
        TooManyFacesError: there are more than ``max_faces`` and the policy is ``all``.
    """
    if not faces:
        raise NoFaceError(
            "No face was found. Send a photograph that shows the whole face upright, well lit and not too small."
        )
    ordered = sorted(faces, key=_area, reverse=True)
    if policy is FacePolicy.ALL:
        if len(ordered) > max_faces:
            raise TooManyFacesError(
                f"The photograph shows {len(ordered)} faces, at most {max_faces} are taken. "
                "Crop it into parts with fewer faces.",
                count=len(ordered),
                max_faces=max_faces,
            )
        return ordered
    if policy is FacePolicy.SINGLE and len(ordered) > 1:
        raise _several(ordered, "where exactly one is expected")
    if policy is FacePolicy.DOMINANT and not is_dominant(ordered):
        raise _several(ordered, f"and none is {DOMINANT:g} times as large as every other")
    return ordered[:1]


def _several(ordered: Sequence[DetectedFace], problem: str) -> MultipleFacesError:
    """The error for faces, largest first, of which it is not clear who is meant."""
    return MultipleFacesError(
        f"The photograph shows {len(ordered)} faces {problem}. Crop it to the person who is meant, or ask for "
        'face_policy "largest".',
        count=len(ordered),
        boxes=[_rounded(face.box) for face in ordered[:_LISTED_BOXES]],
    )


def _eye_distance(face: DetectedFace) -> float:
    return float(np.hypot(*(face.landmarks[1] - face.landmarks[0])))


def _area(face: DetectedFace) -> float:
    return face.box.width * face.box.height


def _rounded(box: Box) -> dict[str, float]:
    return {name: round(getattr(box, name), 1) for name in ("x", "y", "width", "height")}
