"""Photographs that lie on their side or upside down, without metadata that say so.

A detector of upright faces often finds something in such a photograph, with landmarks that are wrong: less surely than
in an upright one, but not much. So a photograph is turned where nothing is found, or nothing surely, and taken turned
only where its face is then clearly surer. The first three numbers were chosen on crops of faces and on faces pasted
into pictures without people, all turned by 90, 180 and 270 degrees.

What is wrongly found upright is then around the face that lies, or hardly larger: a face that is much smaller than an
upright one, and beside it, is somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from app.faces.budget import WorkBudget
from app.faces.detect import FaceDetector, resize
from app.faces.types import Box, DetectedFace, Landmarks, Photograph
from app.types import Pixels

DOUBTFUL: Final = 0.88
"""A photograph whose surest face is at least as confident is upright."""
SURE: Final = 0.85
"""Lowest confidence of the surest face in a photograph that is taken turned."""
SURER: Final = 0.03
"""By so much at least its confidence is above that of what was found before."""
SMALLER: Final = 1.5
"""An upright face that is so many times as large, by the sides of the boxes, outweighs one that lies beside it. None
that was wrongly found in 924 turned photographs of LFW was as large and apart."""
_GLANCE_SIDE: Final = 320
"""Long side of the picture that is turned to see whether it is worth more, pixels; faces of a twentieth are seen."""
_GLANCE_SURE: Final = 0.8
"""Lowest confidence at that size for which the turned photograph is searched."""
TURNS: Final = (90, 270, 180)
"""Degrees clockwise, the most frequent first."""


def righted(
    detector: FaceDetector,
    photograph: Photograph,
    faces: list[DetectedFace],
    find: Callable[[Photograph], list[DetectedFace]],
    budget: WorkBudget | None = None,
) -> list[DetectedFace]:
    """The faces of a photograph, found after turning it where that finds them more surely.

    Costs nothing where a face is confident, and at most three glances and one search otherwise.

    Args:
        detector: glances at the turned picture.
        photograph: as it was sent.
        faces: what was found in it, in pixels of ``photograph.pixels``.
        find: searches a turned photograph.
        budget: checked before every glance.

    Returns:
        ``faces``, or those of the turned photograph, in coordinates of the photograph as it was sent.

    Raises:
        TooMuchWorkError: the budget's time is used up.
    """
    known = _surest(faces)
    if known >= DOUBTFUL:
        return faces
    glances = {}
    height, width = photograph.pixels.shape[:2]
    scale = min(1.0, _GLANCE_SIDE / max(height, width))
    small = resize(photograph.pixels, max(1, round(width * scale)), max(1, round(height * scale)))
    for degrees in TURNS:
        if budget is not None:
            budget.check()
        glances[degrees] = detector.glance(turn(small, degrees))
    degrees = max(TURNS, key=lambda turned: glances[turned])
    if glances[degrees] < max(_GLANCE_SURE, known):
        return faces
    found = find(replace(photograph, pixels=turn(photograph.pixels, degrees)))
    if _surest(found) < max(SURE, known + SURER):
        return faces
    back = [turned_back(face, degrees, width, height) for face in found]
    return faces if faces and _beside(back, faces) else back


def turn(pixels: Pixels, degrees: int) -> Pixels:
    """A copy of a picture, turned clockwise by a multiple of 90 degrees."""
    return np.ascontiguousarray(np.rot90(pixels, -degrees // 90))


def turned_back(face: DetectedFace, degrees: int, width: int, height: int) -> DetectedFace:
    """A face of a turned picture in the coordinates of the picture before.

    Args:
        face: in pixels of the turned picture.
        degrees: by how many the picture was turned, clockwise: 90, 180 or 270.
        width: of the picture before, pixels.
        height: of the picture before, pixels.
    """

    def before(points: Landmarks) -> Landmarks:
        x, y = points[:, 0], points[:, 1]
        # The first pixel of a row or column becomes the last one.
        back = {90: (y, height - 1 - x), 180: (width - 1 - x, height - 1 - y), 270: (width - 1 - y, x)}
        return np.stack(back[degrees], axis=1).astype(np.float32)

    box = face.box
    corners = before(np.array([[box.x, box.y], [box.x + box.width, box.y + box.height]], dtype=np.float32))
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return replace(
        face, box=Box(left, top, right - left, bottom - top), landmarks=before(face.landmarks), turned=degrees
    )


def _beside(turned: list[DetectedFace], upright: list[DetectedFace]) -> bool:
    """Whether the largest face of those found after turning is beside the largest of the others, and much smaller."""
    new, known = (max(faces, key=lambda face: face.box.side).box for faces in (turned, upright))
    x, y = new.x + new.width / 2 - known.x, new.y + new.height / 2 - known.y
    within = 0 <= x <= known.width and 0 <= y <= known.height
    return not within and new.side * SMALLER <= known.side


def _surest(faces: list[DetectedFace]) -> float:
    return max((face.confidence for face in faces), default=0.0)
