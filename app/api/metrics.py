"""Metrics behind ``/metrics``, in their own registry so that several applications can live in one process."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.gallery import Collection

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
STAGE_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
FACES = (1, 2, 4, 8, 16)


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
        self.stages = Histogram(
            "tessera_stage_duration_seconds",
            "Time of a request in one stage: queue (before it is begun), decode, detect, align, assess, encode_wait, "
            "encode, search, store, serialise",
            ["stage"],
            buckets=STAGE_SECONDS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "tessera_encoder_batch_faces", "Faces in one run of the encoder", buckets=FACES, registry=self.registry
        )
        self.encoder_seconds = Counter(
            "tessera_encoder_seconds_total", "Time in which the encoder ran", registry=self.registry
        )
        self.decisions = Counter(
            "tessera_decisions_total",
            "Decisions by operation and outcome",
            ["operation", "decision"],
            registry=self.registry,
        )
        self.templates = Gauge(
            "tessera_gallery_templates", "Templates stored, by collection", ["collection"], registry=self.registry
        )
        self.subjects = Gauge(
            "tessera_gallery_subjects", "Subjects stored, by collection", ["collection"], registry=self.registry
        )

    def show_gallery(self, collections: Iterable[Collection]) -> None:
        """Sets the size of each collection and drops erased ones."""
        self.templates.clear()
        self.subjects.clear()
        for collection in collections:
            self.templates.labels(collection.id).set(collection.templates)
            self.subjects.labels(collection.id).set(collection.subjects)

    def encoder_ran(self, faces: int, seconds: float) -> None:
        """Records one run of the encoder."""
        self.batches.observe(faces)
        self.encoder_seconds.inc(seconds)
