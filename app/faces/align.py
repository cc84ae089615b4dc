"""Five landmarks to a 112 x 112 chip."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from app.faces.errors import DegenerateLandmarksError
from app.faces.types import Landmarks
from app.types import CHIP_SIDE, OUTSIDE_COLOUR, Pixels

Matrix = npt.NDArray[np.float64]
"""float64 [2, 3]: x' = A x + b with A = [:, :2] and b = [:, 2]."""

TEMPLATE: Final[Landmarks] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float32,
)
"""Where the landmarks lie in a chip, pixels: the template of ArcFace (Deng et al., CVPR 2019) for 112 x 112."""

# Bilinear sampling reads four pixels. Below half the size it skips some altogether, and the chip aliases.
_MIN_BILINEAR_SCALE = 0.5
# A face enlarged more than this is smaller than a pixel.
_MAX_SCALE = float(CHIP_SIDE)


def similarity(source: npt.ArrayLike, target: npt.ArrayLike) -> Matrix:
    """Least-squares rotation, uniform scale and shift, never a reflection, that takes ``source`` to ``target``.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", IEEE PAMI 13(4), 1991.

    Args:
        source: points, [N, 2].
        target: where they should go, [N, 2].

    Returns:
        The transform, float64 [2, 3].

    Raises:
        DegenerateLandmarksError: points that are not finite, or that fix no scale and rotation (all in one place).
    """
    src, dst = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if src.shape != dst.shape or src.ndim != 2 or src.shape[1] != 2 or len(src) < 2:
        raise DegenerateLandmarksError(f"Landmarks must be [N, 2] on both sides, got {src.shape} and {dst.shape}.")
    # No picture has pixel coordinates beyond a million, and their squares would swamp the rest.
    if not (np.isfinite(src).all() and np.isfinite(dst).all() and np.abs(src).max() < 1e6):
        raise DegenerateLandmarksError("The face's landmarks are not finite points of a picture.")
    src_mean, dst_mean = src.mean(axis=0), dst.mean(axis=0)
    src_centred, dst_centred = src - src_mean, dst - dst_mean
    u, singular, vt = np.linalg.svd(dst_centred.T @ src_centred / len(src))
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    variance = float(np.square(src_centred).sum(axis=1).mean())
    scale = float(singular @ signs) / variance if variance > 1e-9 else 0.0
    if not 1e-6 < scale <= _MAX_SCALE:
        raise DegenerateLandmarksError(
            "The face's landmarks coincide or contradict each other, so the face cannot be aligned. "
            "Try a sharper photograph that shows the whole face."
        )
    linear = scale * (u * signs) @ vt
    return np.hstack([linear, (dst_mean - linear @ src_mean)[:, None]])


def align(pixels: Pixels, landmarks: Landmarks) -> Pixels:
    """Cut a face out of a picture so that its landmarks fall on `TEMPLATE`.

    Bilinear warp; the area outside the picture is grey, as in the faces that encoders are trained on. Bilinear sampling
    alone would alias a face that shrinks to less than half, so such a face is first reduced by area averaging to one to
    two times its final size.

    Args:
        pixels: the picture, uint8 [H, W, 3].
        landmarks: five points in its pixels, [5, 2]: eyes, nose tip, mouth corners, left in the picture first.

    Returns:
        The chip, uint8 [112, 112, 3].

    Raises:
        DegenerateLandmarksError: the landmarks fix no transform, or the face lies outside the picture.
    """
    matrix = similarity(landmarks, TEMPLATE)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    left, top, right, bottom = _region(matrix, pixels.shape[1], pixels.shape[0])
    if right <= left or bottom <= top:
        raise DegenerateLandmarksError("The face lies outside of the picture.")
    if scale < _MIN_BILINEAR_SCALE:
        divisor = int(1 / scale)
        region = pixels[top:bottom, left:right]
        height, width = (max(1, round(side / divisor)) for side in region.shape[:2])
        factor = np.array([region.shape[1] / width, region.shape[0] / height])
        pixels = cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        # Pixel centres: x = factor * (x' + 1/2) - 1/2 + left.
        shift = factor / 2 - 0.5 + np.array([left, top])
        matrix = np.hstack([matrix[:, :2] * factor, (matrix[:, :2] @ shift + matrix[:, 2])[:, None]])
    chip = cv2.warpAffine(
        pixels,
        matrix,
        (CHIP_SIDE, CHIP_SIDE),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=OUTSIDE_COLOUR,
    )
    return chip.astype(np.uint8, copy=False)


def _region(matrix: Matrix, width: int, height: int) -> tuple[int, int, int, int]:
    """The part of the picture that the chip shows: left, top, right, bottom, with a margin for the filters."""
    corners = np.array([[0, 0], [CHIP_SIDE, 0], [0, CHIP_SIDE], [CHIP_SIDE, CHIP_SIDE]], dtype=np.float64)
    points = np.linalg.solve(matrix[:, :2], (corners - matrix[:, 2]).T).T
    margin = 2 / np.hypot(matrix[0, 0], matrix[1, 0]) + 2
    low, high = np.floor(points.min(axis=0) - margin), np.ceil(points.max(axis=0) + margin)
    return max(0, int(low[0])), max(0, int(low[1])), min(width, int(high[0])), min(height, int(high[1]))
