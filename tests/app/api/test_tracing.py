from __future__ import annotations

import gzip
import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from app.api.tracing import TracingUnavailable, open_tracing
from app.main import create_app
from app.recognition.service import RecognitionService
from app.settings import Settings
from tests.app.api.helpers import files
from tests.app.process import tessera

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class _Collector(http.server.BaseHTTPRequestHandler):
    received: list[ExportTraceServiceRequest]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        message = ExportTraceServiceRequest()
        message.ParseFromString(body)
        self.received.append(message)
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ExportTraceServiceRequest]]:
    """What a collector on this machine, which the environment names, gets."""
    _Collector.received = []
    with http.server.HTTPServer(("127.0.0.1", 0), _Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{collector.server_port}")
        yield _Collector.received
        collector.shutdown()
        thread.join(60)


def attributes(span: Span) -> dict[str, Any]:
    kinds = {"string_value", "int_value", "double_value"}
    return {a.key: getattr(a.value, kind) for a in span.attributes if (kind := a.value.WhichOneof("value")) in kinds}


def test_a_collector_gets_a_span_a_request(
    received: list[ExportTraceServiceRequest], settings: Settings, service: RecognitionService, ada: bytes
) -> None:
    given = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    with TestClient(create_app(settings, service)) as client:
        client.get("/livez")
        client.post("/enroll", files=files(ada), data={"subject_id": "the-subject-id", "metadata": '{"x": "secret"}'})
        client.get("/subjects/the-other-id?collection=default", headers=given)
    spans = [span for request in received for r in request.resource_spans for s in r.scope_spans for span in s.spans]
    assert [span.name for span in spans] == ["POST /enroll", "GET /subjects/{subject_id}"]
    enrolled, missing = spans
    shown = attributes(enrolled)
    assert (shown["http.response.status_code"], shown["http.route"]) == (201, "/enroll")
    stages = {name for name in shown if name.startswith("tessera.stage.")}
    assert {f"tessera.stage.{stage}_seconds" for stage in ("queue", "decode", "detect", "encode", "store")} <= stages
    taken = (enrolled.end_time_unix_nano - enrolled.start_time_unix_nano) / 1e9
    assert 0 < sum(shown[name] for name in stages) <= taken
    assert missing.trace_id.hex() == TRACE
    assert enrolled.trace_id.hex() != TRACE
    assert attributes(missing)["error.type"] == "subject_not_found"
    text = str(received)
    for hidden in ("the-subject-id", "the-other-id", "secret", "collection=default"):
        assert hidden not in text


def test_without_a_collector_nothing_is_traced() -> None:
    assert open_tracing({}) is None
    assert open_tracing({ENDPOINT: ""}) is None


def test_a_protocol_that_is_not_spoken_is_refused() -> None:
    with pytest.raises(TracingUnavailable, match="http/protobuf"):
        open_tracing({ENDPOINT: "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})


@pytest.mark.parametrize("address", ["foo", "collector:4318"])
def test_a_collector_without_an_address_is_refused(address: str) -> None:
    with pytest.raises(TracingUnavailable, match=rf"'{address}'; give a URL"):
        open_tracing({ENDPOINT: address})


def test_a_collector_without_the_packages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(TracingUnavailable, match=r"tessera-face\[otel\]"):
        open_tracing({ENDPOINT: "http://127.0.0.1:4318"})


@pytest.mark.slow
def test_the_service_does_not_start_with_what_it_cannot_do(tmp_path: Path) -> None:
    variables = {ENDPOINT: "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    refused = tessera("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), **variables)
    assert refused.returncode == 3
    [line] = refused.stderr.splitlines()
    assert "OTEL_EXPORTER_OTLP_PROTOCOL" in line
