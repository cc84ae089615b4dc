"""One OpenTelemetry span a request, sent to the collector that ``OTEL_EXPORTER_OTLP_ENDPOINT`` names.

Ready-made instrumentation would record paths and query strings, which hold ids of subjects. A span has what the log
has, and the seconds of each stage.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from app.errors import TesseraError
from app.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
PROTOCOL = "http/protobuf"
ATTRIBUTES = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "error": "error.type",
    "request_id": "tessera.request_id",
    "key_id": "tessera.key_id",
}
"""What is taken of a request's fields in the log, by the names of OpenTelemetry's conventions where there is one."""
SERVER_ERROR = 500


class TracingUnavailable(TesseraError):
    """A collector is named, but nothing can be sent to it."""

    code = "tracing_unavailable"


class RequestTracing:
    """Turns requests that have ended into spans."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._provider, self._propagator = provider, TraceContextTextMapPropagator()
        self._tracer = provider.get_tracer("tessera", VERSION)

    def record(
        self, headers: Mapping[str, str], fields: Mapping[str, Any], stages: Mapping[str, float], times: tuple[int, int]
    ) -> None:
        """Makes the span of a request.

        Args:
            headers: with the caller's ``traceparent``, whose trace the span joins (W3C Trace Context).
            fields: as the log has them.
            stages: seconds by stage.
            times: of its begin and end, nanoseconds since 1970.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415

        parent = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        span = self._tracer.start_span(
            f"{fields['method']} {fields['route']}",
            self._propagator.extract(parent),
            SpanKind.SERVER,
            {shown: fields[name] for name, shown in ATTRIBUTES.items() if name in fields},
            start_time=times[0],
        )
        for name, seconds in stages.items():
            span.set_attribute(f"tessera.stage.{name}_seconds", seconds)
        if fields["status"] >= SERVER_ERROR:
            span.set_status(Status(StatusCode.ERROR))
        span.end(times[1])

    def close(self) -> None:
        """Sends what waits."""
        self._provider.shutdown()


def open_tracing(environment: Mapping[str, str] = os.environ) -> RequestTracing | None:
    """What the ``OTEL_*`` variables ask for; None if they name no collector. Raises TracingUnavailable."""
    if not any(environment.get(name) for name in ENDPOINTS):
        return None
    for name in ENDPOINTS:
        if not (environment.get(name) or "http://").startswith(("http://", "https://")):
            raise TracingUnavailable(f"{name} is {environment[name]!r}; give a URL, such as http://collector:4318.")
    for name in PROTOCOLS:
        if environment.get(name, PROTOCOL) != PROTOCOL:
            raise TracingUnavailable(f"{name} is {environment[name]!r}; only {PROTOCOL} is spoken: set that.")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise TracingUnavailable(
            f"{ENDPOINTS[0]} names a collector, but {error.name} is not installed: "
            "`pip install 'tessera-face[otel]'`, or unset it."
        ) from error
    name = environment.get("OTEL_SERVICE_NAME", "tessera")
    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.version": VERSION}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return RequestTracing(provider)
