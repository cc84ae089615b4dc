"""What can go wrong between the bytes of a photograph and an aligned face; every class is one stable code."""

from __future__ import annotations

from app.errors import TesseraError


class PhotographError(TesseraError):
    """The bytes are not a usable photograph; the subclass says why."""

    code = "invalid_image"


class EmptyImageError(PhotographError):
    """There are no bytes at all."""

    code = "empty_image"


class UnsupportedFormatError(PhotographError):
    """Not an image, or one in an unsupported format; ``details["format"]`` names the format if it is known."""

    code = "unsupported_image_format"


class ImageTooLargeError(PhotographError):
    """Too many bytes, too many pixels or too long a side; ``details`` holds the limit and what was found."""

    code = "image_too_large"


class ImageTooSmallError(PhotographError):
    """A side has fewer pixels than the limit."""

    code = "image_too_small"


class AnimatedImageError(PhotographError):
    """The file holds more than one frame, so it is unknown which one is meant."""

    code = "animated_image"


class TruncatedImageError(PhotographError):
    """The file ends before the picture does."""

    code = "truncated_image"


class CorruptImageError(PhotographError):
    """The format is known, but the contents cannot be decoded."""

    code = "corrupt_image"


class DetectorUnavailableError(TesseraError):
    """The detector's weights are missing or are not the ones expected."""

    code = "detector_unavailable"


class DegenerateLandmarksError(TesseraError):
    """Five points that no similarity transform can map onto the template."""

    code = "degenerate_landmarks"


class NoFaceError(TesseraError):
    """No face was found in the photograph."""

    code = "no_face"


class MultipleFacesError(TesseraError):
    """More than one face where exactly one is expected; ``details`` holds ``count`` and the largest ``boxes``."""

    code = "multiple_faces"


class TooManyFacesError(TesseraError):
    """More faces than are processed of one photograph; ``details`` holds ``count`` and ``max_faces``."""

    code = "too_many_faces"


class TooMuchWorkError(TesseraError):
    """The photographs of one request cost more than its budget; ``details`` names the budget and its limit."""

    code = "too_much_work"
