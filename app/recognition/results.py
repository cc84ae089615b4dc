"""Inputs and results of enroll, verify and identify."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from app.decisions import Comparison, DecisionPolicy, Outcome
from app.embeddings import Embedding
from app.errors import TesseraError
from app.faces import AlignedFace, FacePolicy
from app.gallery import Candidate, OnConflict, Subject

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Probe:
    """The face that was used, and the number of faces in the photograph.

    embedding, norm: see ``Encodings``. crowding: see ``app.crowding``. ambiguous: the largest face was asked for, and
    another one in the photograph is of like size.
    """

    faces_detected: int
    face: AlignedFace
    embedding: Embedding
    norm: float
    crowding: float
    ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class EnrolledImage:
    """The template made from one photograph; ``index`` is the photograph's position in the request."""

    index: int
    template_id: str
    probe: Probe


@dataclass(frozen=True, slots=True)
class RejectedImage:
    """A photograph that gave no template, and why."""

    index: int
    error: TesseraError


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The result of an enrolment.

    possible_duplicates: other subjects that match by ``policy``, nearest first, each with the face nearest to it.
    """

    subject: Subject
    enrolled: tuple[EnrolledImage, ...]
    rejected: tuple[RejectedImage, ...]
    possible_duplicates: tuple[tuple[Candidate, Probe], ...]
    policy: DecisionPolicy


@dataclass(frozen=True, slots=True)
class Replay:
    """The stored answer to an earlier request under the same idempotency key."""

    body: str


@dataclass(frozen=True, slots=True)
class Idempotency(Generic[Result]):
    """A client's key, a digest of its request, and how the answer is serialised."""

    key: str
    fingerprint: str
    render: Callable[[Result], str]


@dataclass(frozen=True, slots=True)
class Merger:
    """A subject that took over the templates of its duplicate, and how alike the two were.

    template_ids: those that were the duplicate's, oldest first. distance: squared, between the fused templates of both.
    threshold: up to which two such subjects are taken for possibly the same person.
    """

    subject: Subject
    template_ids: tuple[str, ...]
    distance: float
    threshold: float


@dataclass(frozen=True, slots=True)
class EnrolmentRequest:
    """One subject and its photographs (encoded files).

    may_displace: whether it may add so many templates that older ones are no longer compared. template_ids: one for
    each photograph, unique in the whole gallery; made up if None.
    """

    images: Sequence[bytes]
    subject_id: str | None
    collection: str
    metadata: Mapping[str, Any] | None = None
    face_policy: FacePolicy = FacePolicy.DOMINANT
    on_conflict: OnConflict = OnConflict.APPEND
    report_duplicates: bool = True
    may_displace: bool = True
    template_ids: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """Outcome of 1:1. ``reference`` is set for two photographs, ``candidate`` for a photograph and a subject.

    pairs: of faces, of which the nearest was taken.
    """

    outcome: Outcome
    compared: Comparison
    policy: DecisionPolicy
    probe: Probe
    reference: Probe | None = None
    candidate: Candidate | None = None
    pairs: int = 1


@dataclass(frozen=True, slots=True)
class FaceIdentification:
    """Candidates for one face of the probe, best first; ``margin`` is from the first to the second."""

    outcome: Outcome
    probe: Probe
    candidates: tuple[Candidate, ...]
    margin: float | None


@dataclass(frozen=True, slots=True)
class Identification:
    """Outcome of 1:N; one entry per face used, the one with the best candidate first."""

    policy: DecisionPolicy
    faces: tuple[FaceIdentification, ...]
    reason: str | None = field(default=None)
