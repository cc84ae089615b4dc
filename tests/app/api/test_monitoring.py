"""The dashboard and the alerts ask only for metrics and labels that ``/metrics`` shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from tests.app.api.conftest import Enroll
from tests.app.api.helpers import files
from tests.app.photographs import blank
from tests.shared_data import ROOT

DASHBOARD = ROOT / "deploy" / "grafana" / "tessera.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
ADDED = {"job", "instance"}
"""Labels that Prometheus adds; it makes ``up`` itself."""


def dashboard_expressions() -> list[str]:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"].replace("$__rate_interval", "5m") for panel in panels for target in panel.get("targets", [])]


def alerts() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Names of metrics in an expression, each with the labels that are matched, grouped by or joined on anywhere."""
    found: list[promql_parser.VectorSelector] = []
    labels: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        elif isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            labels.update(node.modifier.labels)

    promql_parser.walk(promql_parser.parse(expression), visit)
    for selector in found:
        assert selector.name is not None
        yield selector.name, labels | {matcher.name for matcher in selector.matchers.matchers}


@pytest.fixture
def shown(client: TestClient, enroll: Enroll, ada: bytes) -> dict[str, set[str]]:
    """Every sample of a service that has met with something of everything, with its labels."""
    enroll(ada, subject_id="ada")
    client.post("/verify", files=files(ada), data={"subject_id": "ada"})
    client.post("/enroll", files=files(blank()))
    client.get("/readyz")
    text = client.get("/metrics").text
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_what_is_asked_for_is_shown(shown: dict[str, set[str]]) -> None:
    expressions = dashboard_expressions() + [rule["expr"] for rule in alerts()]
    assert len(expressions) > 30
    for expression in expressions:
        for name, labels in asked(expression):
            if name != "up":
                assert name in shown, f"{name} in {expression}"
                assert labels <= shown[name] | ADDED, f"{labels - shown[name] - ADDED} of {name} in {expression}"


def test_every_own_metric_is_on_the_dashboard_or_in_an_alert(shown: dict[str, set[str]]) -> None:
    used = {name for text in dashboard_expressions() + [r["expr"] for r in alerts()] for name, _ in asked(text)}
    kinds = re.compile("_(bucket|sum|count)$")
    missing = {kinds.sub("", name) for name in shown} - {kinds.sub("", name) for name in used}
    assert not {name for name in missing if name.startswith("tessera_")}


def test_every_alert_says_what_is_wrong() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]


def test_every_alert_fires_when_it_should() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool, of Debian's package prometheus, is not installed")
    command = [promtool, "test", "rules", str(ALERTS.with_name("alerts_test.yml"))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = ALERTS.with_name("alerts_test.yml").read_text()
    assert set(re.findall(r"alertname=\"(\w+)\"", tested)) == {rule["alert"] for rule in alerts()}
