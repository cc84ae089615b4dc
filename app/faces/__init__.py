"""Photograph to aligned face: decode, detect, choose, align, assess.

Knows no HTTP and no database. `FaceFinder` runs all steps; each step is also a function of its own.
"""

from app.faces.align import TEMPLATE, align, similarity
from app.faces.budget import WorkBudget, WorkLimits
from app.faces.decode import FORMATS, DecodeLimits, decode
from app.faces.detect import DetectorSettings, FaceDetector, YunetDetector
from app.faces.errors import (
    AnimatedImageError,
    CorruptImageError,
    DegenerateLandmarksError,
    DetectorUnavailableError,
    EmptyImageError,
    ImageTooLargeError,
    ImageTooSmallError,
    MultipleFacesError,
    NoFaceError,
    PhotographError,
    TooManyFacesError,
    TooMuchWorkError,
    TruncatedImageError,
    UnsupportedFormatError,
)
from app.faces.finder import DOMINANT, MAX_FACES, FaceFinder, FacePolicy, FoundFaces, choose, is_dominant
from app.faces.quality import QualityIssue, QualityLimits, assess
from app.faces.types import AlignedFace, Box, DetectedFace, Landmarks, Photograph, Quality

__all__ = [
    "DOMINANT",
    "FORMATS",
    "MAX_FACES",
    "TEMPLATE",
    "AlignedFace",
    "AnimatedImageError",
    "Box",
    "CorruptImageError",
    "DecodeLimits",
    "DegenerateLandmarksError",
    "DetectedFace",
    "DetectorSettings",
    "DetectorUnavailableError",
    "EmptyImageError",
    "FaceDetector",
    "FaceFinder",
    "FacePolicy",
    "FoundFaces",
    "ImageTooLargeError",
    "ImageTooSmallError",
    "Landmarks",
    "MultipleFacesError",
    "NoFaceError",
    "Photograph",
    "PhotographError",
    "Quality",
    "QualityIssue",
    "QualityLimits",
    "TooManyFacesError",
    "TooMuchWorkError",
    "TruncatedImageError",
    "UnsupportedFormatError",
    "WorkBudget",
    "WorkLimits",
    "YunetDetector",
    "align",
    "assess",
    "choose",
    "decode",
    "is_dominant",
    "similarity",
]
