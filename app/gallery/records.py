"""Inputs and results of a gallery: frozen dataclasses over numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from app.embeddings import Embedding
from app.types import Pixels


@dataclass(frozen=True, slots=True)
class Targets:
    """Target error rates, 0..1: FMR of a comparison, FPIR of a search; None: the service's own.

    claim: for whom they are claimed (a value of ``app.decisions.Claim``); None: the service's own.
    """

    fmr: float | None = None
    fpir: float | None = None
    claim: str | None = None


@dataclass(frozen=True, slots=True)
class Collection:
    """An isolated set of subjects.

    keep_chips: whether the chips of new templates are stored. chips: how many templates have one.
    """

    id: str
    created_at: datetime
    subjects: int
    templates: int
    targets: Targets = Targets()
    keep_chips: bool = False
    chips: int = 0


@dataclass(frozen=True, slots=True)
class CollectionSize:
    """The number of subjects, and the most compared templates of any of them; 0 if empty."""

    subjects: int
    most_templates: int


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """Something that an audit found about one template or a pair of them.

    templates: their ids, one or two. numbers: JSON, without names. subjects: the ids of whom the templates belong to,
    filled in where a finding is read.
    """

    kind: str
    templates: tuple[str, ...]
    numbers: dict[str, Any]
    subjects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredAudit:
    """The latest audit of a collection. content: JSON that names nobody; None until it is done.

    progress: share of the work done, 0..1, of an audit ``under_way``: some process that shares the gallery works on it.
    """

    status: str
    started_at: datetime
    content: dict[str, Any] | None = None
    error: str | None = None
    findings: tuple[AuditFinding, ...] = ()
    progress: float = 0.0
    under_way: bool = False


@dataclass(frozen=True, slots=True)
class GalleryStatistics:
    """What an operator watches; all but the first since the gallery was opened.

    damaged_subjects: left out of searches now. checkpoints, checkpoint_seconds: how often changes were moved from the
    log to where they stay, and how long that took in all. search_audits: searches by an approximate index that were
    made once more over everybody; search_audits_missed: those whose first subject the index had missed;
    search_audits_failed: those that came to no end.
    """

    damaged_subjects: int
    checkpoints: int
    checkpoint_seconds: float
    search_audits: int = 0
    search_audits_missed: int = 0
    search_audits_failed: int = 0


@dataclass(frozen=True, slots=True)
class NewTemplate:
    """An embedding to store under an id chosen by the caller (unique in the whole database).

    norm: of the embedding before it was scaled to 1. chip: uint8 [112, 112, 3], stored only where the collection keeps
    chips.
    """

    id: str
    embedding: Embedding
    norm: float
    chip: Pixels | None = None


@dataclass(frozen=True, slots=True)
class Template:
    """A stored template without its embedding.

    norm: of the embedding before it was scaled to 1. chip: whether its chip is stored.
    """

    id: str
    created_at: datetime
    norm: float
    chip: bool = False


@dataclass(frozen=True, slots=True)
class SubjectVectors:
    """The compared templates of a subject, oldest first: ids, embeddings float32 [K, 128], norms float32 [K].

    crowding: of the fused template (see ``app.crowding``).
    """

    subject_id: str
    template_ids: tuple[str, ...]
    embeddings: npt.NDArray[np.float32]
    norms: npt.NDArray[np.float32]
    crowding: float = 0.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A person in a collection; templates are oldest first."""

    id: str
    collection: str
    metadata: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    templates: tuple[Template, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Candidate:
    """A subject compared with a probe.

    distance: squared L2, 0..4, to its fused template. templates: how many were fused. template_id: the nearest of them.
    norm: the largest of their norms, before scaling to 1. crowding: of the fused template (see ``app.crowding``).
    """

    subject_id: str
    template_id: str
    distance: float
    metadata: Mapping[str, Any]
    templates: int
    norm: float
    crowding: float = 0.0
