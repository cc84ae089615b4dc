"""What a gallery takes and gives: frozen dataclasses over numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from app.embeddings import Embedding


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

    norm: of the embedding before it was scaled to 1.
    """

    id: str
    embedding: Embedding
    norm: float


@dataclass(frozen=True, slots=True)
class Template:
    """What is known of a stored template, without its numbers."""

    id: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SubjectVectors:
    """What is compared of a subject, oldest first: template ids, embeddings float32 [K, 128], norms float32 [K].

    crowding: of what the templates are fused to (see ``app.crowding``).
    """

    subject_id: str
    template_ids: tuple[str, ...]
    embeddings: npt.NDArray[np.float32]
    norms: npt.NDArray[np.float32]
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
    nearest of them. norm: the greatest of theirs, before they were scaled to 1. crowding: of what they are fused to
    (see ``app.crowding``).
    """

    subject_id: str
    template_id: str
    distance: float
    metadata: Mapping[str, Any]
    templates: int
    norm: float
    crowding: float = 0.0
