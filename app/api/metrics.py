"""Metrics behind ``/metrics``, in their own registry so that several applications can live in one process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily

from app.decisions import Outcome
from app.errors import TesseraError
from app.gallery import Collection, GalleryStatistics
from app.memory import limit_bytes

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
STAGE_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
DISTANCES = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6, 2.0)
MOST_COLLECTIONS = 100
"""Collections that are shown one by one, the largest; each is a time series for ever."""
ACQUIRING = frozenset({"enroll", "verify", "identify", "detect"})
NOT_ACQUIRED = frozenset(
    {
        "empty_image",
        "unsupported_image_format",
        "animated_image",
        "truncated_image",
        "corrupt_image",
        "image_too_large",
        "image_too_small",
        "no_face",
        "multiple_faces",
        "too_many_faces",
        "degenerate_landmarks",
        "low_quality",
    }
)
"""Codes of photographs that gave no face to work with."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is measured when somebody asks.

    checks: what is wrong with each part, None where it works. collections, gallery: None if the gallery does not
    answer; trail_records: None if the audit trail does not. files: bytes by name. disk_free: bytes.
    """

    checks: Mapping[str, str | None]
    collections: Iterable[Collection] | None
    gallery: GalleryStatistics
    trail_records: int | None
    files: Mapping[str, int]
    disk_free: int | None


BY_COLLECTION = f"{{}} stored, of the {MOST_COLLECTIONS} largest collections each, of the others as collection='*'"
OTHERS = "*"
"""No id of a collection has this character."""


class Metrics:
    """Counters and histograms of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tessera_http_requests_total",
            "Requests by method, route and status",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "tessera_http_request_duration_seconds",
            "Time from the first byte of a request to the last of its response",
            ["method", "route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_progress = Gauge(
            "tessera_http_requests_in_progress", "Requests that have no complete response yet", registry=self.registry
        )
        self.waiting = Gauge(
            "tessera_requests_waiting", "Requests with photographs that wait for a thread", registry=self.registry
        )
        self.refused = Counter(
            "tessera_requests_refused_total",
            "Requests with photographs that were not begun: overloaded, deadline_exceeded or client_gone",
            ["reason"],
            registry=self.registry,
        )
        for reason in ("overloaded", "deadline_exceeded", "client_gone"):
            # Zeros from the start: a rate cannot see what a series began with.
            self.refused.labels(reason)
        self.stages = Histogram(
            "tessera_stage_duration_seconds",
            "Time of a request in one stage: queue (before it is begun), decode, detect, align, assess, encode, "
            "search, store, serialise",
            ["stage"],
            buckets=STAGE_SECONDS,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        self._count_decisions()
        self._measure_storage()
        self.templates = Gauge(
            "tessera_gallery_templates", BY_COLLECTION.format("Templates"), ["collection"], registry=self.registry
        )
        self.subjects = Gauge(
            "tessera_gallery_subjects", BY_COLLECTION.format("Subjects"), ["collection"], registry=self.registry
        )

    def _count_decisions(self) -> None:
        self.decisions = Counter(
            "tessera_decisions_total",
            "Decisions by operation, outcome and reason; the reason of a match or no match would have made it "
            "inconclusive",
            ["operation", "decision", "reason"],
            registry=self.registry,
        )
        self.distances = Histogram(
            "tessera_decision_distance",
            "Squared distance to what was compared, or to the nearest candidate, by operation and outcome",
            ["operation", "decision"],
            buckets=DISTANCES,
            registry=self.registry,
        )
        self.problems = Counter(
            "tessera_problems_total",
            "Requests that ended with an error, by its code: locked_out, rate_limited, overloaded and all others",
            ["code"],
            registry=self.registry,
        )
        self.not_acquired = Counter(
            "tessera_failures_to_acquire_total",
            "Photographs that gave no face to work with, by operation and code",
            ["operation", "code"],
            registry=self.registry,
        )
        self.not_enrolled = Counter(
            "tessera_failures_to_enrol_total",
            "Enrolments for which no photograph gave a face to work with, by code",
            ["code"],
            registry=self.registry,
        )

    def _measure_storage(self) -> None:
        self.ready = Gauge("tessera_ready", "1 if this part works", ["part"], registry=self.registry)
        self.damaged = Gauge(
            "tessera_gallery_damaged_subjects",
            "Subjects that are damaged and left out of searches",
            registry=self.registry,
        )
        self.trail = Gauge(
            "tessera_audit_trail_records", "Records in the audit trail, pruned ones not counted", registry=self.registry
        )
        self.files = Gauge(
            "tessera_data_file_bytes", "Size of each file in the data directory", ["file"], registry=self.registry
        )
        self.disk_free = Gauge(
            "tessera_data_disk_free_bytes", "Free space on the disk of the data directory", registry=self.registry
        )
        self.memory_limit = Gauge(
            "tessera_memory_limit_bytes",
            "Memory that the process may use: of its control group, or of the machine",
            registry=self.registry,
        )
        self.memory_limit.set(limit_bytes())
        self.gallery = _GalleryCounts()
        self.registry.register(self.gallery)

    def describe(self, **labels: str) -> None:
        """What runs: ``tessera_build_info`` with these labels."""
        info = Gauge("tessera_build_info", "What runs; always 1", list(labels), registry=self.registry)
        info.labels(*labels.values()).set(1)

    def decided(self, operation: str, outcome: Outcome, distance: float | None) -> None:
        """Counts one decision; ``distance``: squared, None without a candidate."""
        self.decisions.labels(operation, outcome.decision, outcome.reason or "").inc()
        if distance is not None:
            self.distances.labels(operation, outcome.decision).observe(distance)

    def count_failure(self, operation: str, error: TesseraError) -> None:
        """Counts the photographs that gave no face, and the enrolment that failed with them."""
        codes = [error.code]
        if error.code == "no_usable_image":
            codes = [str(failure["code"]) for failure in error.details["failures"]]
        if operation not in ACQUIRING or not NOT_ACQUIRED.issuperset(codes):
            return
        self.count_not_acquired(operation, codes)
        if operation == "enroll":
            self.not_enrolled.labels(error.code).inc()

    def count_not_acquired(self, operation: str, codes: Iterable[str]) -> None:
        """Counts photographs that gave no face."""
        for code in codes:
            self.not_acquired.labels(operation, code).inc()

    def show(self, snapshot: Snapshot) -> None:
        """Sets what is measured when somebody asks; what cannot be told now is left out."""
        self.ready.clear()
        for part, failure in snapshot.checks.items():
            self.ready.labels(part).set(failure is None)
        self.damaged.set(snapshot.gallery.damaged_subjects)
        self.gallery.latest = snapshot.gallery
        self._show_collections(snapshot.collections or ())
        self.files.clear()
        for name, size in snapshot.files.items():
            self.files.labels(name).set(size)
        self.trail.set(float("nan") if snapshot.trail_records is None else snapshot.trail_records)
        self.disk_free.set(float("nan") if snapshot.disk_free is None else snapshot.disk_free)

    def _show_collections(self, collections: Iterable[Collection]) -> None:
        """Sets the size of each collection and drops erased ones."""
        self.templates.clear()
        self.subjects.clear()
        ranked = sorted(collections, key=lambda collection: collection.templates, reverse=True)
        for place, collection in enumerate(ranked):
            name = collection.id if place < MOST_COLLECTIONS else OTHERS
            self.templates.labels(name).inc(collection.templates)
            self.subjects.labels(name).inc(collection.subjects)


class _GalleryCounts:
    """Counts that the gallery keeps itself."""

    EXPORTED: ClassVar = {
        "checkpoints": ("gallery_checkpoints", "Times that the log was moved into the database"),
        "checkpoint_seconds": ("gallery_checkpoint_seconds", "Time in which the log was moved into the database"),
        "search_audits": ("search_audits", "Searches by an approximate index that were made once more over everybody"),
        "search_audits_missed": ("search_audits_missed", "Audited searches whose nearest subject the index had missed"),
        "search_audits_failed": (
            "search_audits_failed",
            "Audits of searches that were begun in vain: the database did not answer in time",
        ),
    }
    """Name and meaning of the metric, by what ``GalleryStatistics`` calls it."""

    def __init__(self) -> None:
        self.latest = GalleryStatistics(0, 0, 0.0)

    def collect(self) -> Iterable[Any]:
        for field, (name, meaning) in self.EXPORTED.items():
            yield CounterMetricFamily(f"tessera_{name}", meaning, value=getattr(self.latest, field))
