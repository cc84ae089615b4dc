"""Schemas of faces and their quality."""

from __future__ import annotations

from pydantic import BaseModel, Field

from app.api import examples
from app.api.schemas import numbers
from app.api.schemas.common import AttributesModel, Image, RequestModel
from app.faces import QualityIssue


class DetectRequest(RequestModel):
    """A photograph to find faces in; nothing is stored or compared."""

    model_config = examples.config(examples.DETECT_REQUEST)

    image: Image


class BoxOut(AttributesModel):
    """Pixels of the photograph, turned as its EXIF says; the box may reach beyond it for a face at its border."""

    x: numbers.Tenth
    y: numbers.Tenth
    width: numbers.Tenth
    height: numbers.Tenth


class LandmarksOut(BaseModel):
    """x and y in pixels, outside the photograph if the face is cut off; left and right as the viewer sees them."""

    left_eye: tuple[numbers.Tenth, numbers.Tenth]
    right_eye: tuple[numbers.Tenth, numbers.Tenth]
    nose: tuple[numbers.Tenth, numbers.Tenth]
    left_mouth: tuple[numbers.Tenth, numbers.Tenth]
    right_mouth: tuple[numbers.Tenth, numbers.Tenth]


class QualityOut(AttributesModel):
    """Measures of a face; ``issues`` names those outside their limits."""

    eye_distance: float = Field(description="distance between the eyes in the photograph, pixels")
    sharpness: float = Field(description="variance of the Laplacian of the aligned face")
    brightness: float = Field(description="mean grey level, 0..255")
    contrast: float = Field(description="standard deviation of the grey levels")
    yaw: float = Field(description="offset of the nose from the middle of the eyes, in eye distances; 0 is frontal")
    roll: float = Field(description="inclination of the line through the eyes, degrees")
    issues: list[QualityIssue]


class FaceOut(BaseModel):
    """One face of a photograph."""

    turned: int = Field(
        description="0; or by how many degrees, clockwise, the photograph had to be turned to be upright (90, 180 or "
        "270): box, landmarks and roll are in the photograph as it was sent, left and right as in the upright face"
    )
    box: BoxOut
    landmarks: LandmarksOut
    confidence: float = Field(description="the detector's, 0..1")
    quality: QualityOut


class ProbeOut(BaseModel):
    """How many faces the photograph shows and which one was used."""

    faces_detected: int
    face: FaceOut
    embedding_norm: float = Field(
        description="smaller the less the encoder recognises in the face; below the limit in /model it is weak"
    )


class DetectResponse(BaseModel):
    """All faces, largest first; width and height of the photograph in pixels, turned as its EXIF says."""

    model_config = examples.config(examples.DETECT)

    width: int
    height: int
    faces: list[FaceOut]
