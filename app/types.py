"""The plain types that the rooms share: frozen dataclasses over numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

EMBEDDING_SIZE = 128
CHIP_SIDE = 112
OUTSIDE_COLOUR = (123, 117, 104)
"""RGB: grey, of what a chip or the detector shows beyond the border of the photograph."""

Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, 3], RGB."""
Embedding = npt.NDArray[np.float32]
"""float32 [128], unit length."""
Landmarks = npt.NDArray[np.float32]
"""float32 [5, 2], x and y in pixels: the eye on the left of the picture, the other eye, nose tip, mouth corners."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """A decoded picture, upright.

    ``pixels`` may be smaller than the file says: ``scale`` is decoded width / original width (1 or less), and
    ``width`` and ``height`` are the upright original's, in pixels. ``finer``: the file has more detail to give.
    """

    pixels: Pixels
    format: str
    width: int
    height: int
    scale: float = 1.0
    finer: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels; it may reach beyond the picture."""

    x: float
    y: float
    width: float
    height: float

    @property
    def side(self) -> float:
        """Of the square of the same area, pixels."""
        return math.sqrt(self.width * self.height)


@dataclass(frozen=True, slots=True)
class DetectedFace:
    """One face of a photograph, in pixels of ``Photograph.pixels``; in an ``AlignedFace``, of the upright original.

    ``confidence`` is the detector's, 0..1.
    """

    box: Box
    landmarks: Landmarks
    confidence: float


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured of one face; ``issues`` names every measure that lies outside its limits.

    eye_distance: between the eyes in the original, pixels. sharpness: variance of the Laplacian of the grey chip.
    brightness: mean grey level of the chip, 0..255. contrast: standard deviation of its grey levels.
    yaw: horizontal offset of the nose tip from the middle of the eyes, as a share of the eye distance, 0 = frontal,
    negative to the left of the picture. roll: inclination of the line through the eyes, degrees, clockwise positive.
    confidence: the detector's, 0..1.
    """

    eye_distance: float
    sharpness: float
    brightness: float
    contrast: float
    yaw: float
    roll: float
    confidence: float
    issues: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AlignedFace:
    """A face ready to be encoded: ``chip`` is uint8 [112, 112, 3], RGB."""

    detected: DetectedFace
    chip: Pixels
    quality: Quality


@dataclass(frozen=True, slots=True)
class Encodings:
    """What an encoder makes of B faces.

    embeddings: float32 [B, 128], unit length. lengths: float32 [B], how long each was before it was scaled to 1: the
    less the encoder recognised in a face, the shorter (see ``app.decisions.calibration.QualityLimit``).
    """

    embeddings: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Targets:
    """Error rates, 0..1, that decisions aim at: FMR of a comparison, FPIR of a search; None: the service's own.

    claim: for whom they are promised (a value of ``app.decisions.Claim``); likewise.
    """

    fmr: float | None = None
    fpir: float | None = None
    claim: str | None = None


@dataclass(frozen=True, slots=True)
class Collection:
    """An isolated set of subjects."""

    id: str
    created_at: datetime
    subjects: int
    templates: int
    targets: Targets = Targets()


@dataclass(frozen=True, slots=True)
class CollectionSize:
    """How many subjects there are, and how many templates are compared of the one that has the most; 0 of none."""

    subjects: int
    most_templates: int


@dataclass(frozen=True, slots=True)
class NewTemplate:
    """An embedding to be stored under an id chosen by the caller (unique in the whole database).

    length: what ``Encodings`` says of it.
    """

    id: str
    embedding: Embedding
    length: float


@dataclass(frozen=True, slots=True)
class Template:
    """What is known of a stored template, without its numbers."""

    id: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SubjectVectors:
    """What is compared of a subject, oldest first: template ids, embeddings float32 [K, 128], lengths float32 [K].

    crowding: of what the templates are fused to (see ``app.crowding``).
    """

    subject_id: str
    template_ids: tuple[str, ...]
    embeddings: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.float32]
    crowding: float = 0.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A person in a collection, the templates oldest first."""

    id: str
    collection: str
    metadata: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    templates: tuple[Template, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Candidate:
    """A subject compared with a probe.

    distance: squared L2, 0..4, from what its templates are fused to. templates: how many were fused. template_id: the
    nearest of them. length: the greatest of them (see ``Encodings``). crowding: of what they are fused to (see
    ``app.crowding``).
    """

    subject_id: str
    template_id: str
    distance: float
    metadata: Mapping[str, Any]
    templates: int
    length: float
    crowding: float = 0.0
