from __future__ import annotations

import email.policy
import json
import sys
from email import message_from_bytes
from pathlib import Path

import pytest

from benchmarks.peers.load import Answer, form, main, spread, summary
from benchmarks.peers.processes import run_load
from benchmarks.running import free_port
from tests.benchmarks.stub import Stub, served

pytestmark = pytest.mark.slow

DELAY = 0.02
SECONDS = 0.5


@pytest.fixture
def forms(tmp_path: Path) -> Path:
    photograph = tmp_path / "a.jpg"
    photograph.write_bytes(b"first\r\n--photograph")
    path = tmp_path / "forms.json"
    path.write_text(json.dumps([{"image": f"@{photograph}", "subject_id": "ada"}, {"subject_id": "bob"}]))
    return path


def test_a_form_is_a_multipart_body_with_files_and_texts(tmp_path: Path) -> None:
    photograph = tmp_path / "a.jpg"
    photograph.write_bytes(b"\xff\xd8photograph")
    kind, body = form({"image": f"@{photograph}", "subject_id": "ada"})
    message = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body, policy=email.policy.default)
    image, text = message.iter_parts()
    assert image.get_param("name", header="Content-Disposition") == "image"
    assert image.get_filename() == "a.jpg"
    assert image.get_payload(decode=True) == b"\xff\xd8photograph"
    assert text.get_param("name", header="Content-Disposition") == "subject_id"
    assert text.get_payload(decode=True) == b"ada"


def test_percentiles_are_of_the_ordered_times_in_milliseconds() -> None:
    found = spread([number / 1000 for number in range(100, 0, -1)])
    assert found == {"mean": 50.5, "p50": 51, "p90": 91, "p95": 96, "p99": 100, "max": 100}
    assert spread([0.004]) == dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"), 4)
    assert spread([]) is None


def test_latency_counts_from_when_a_request_was_due_and_only_of_those_due_in_the_window() -> None:
    record = [
        Answer(due=9.0, sent=9.0, done=10.5, status="200"),  # due in the warm-up, done in the window
        Answer(due=10.0, sent=10.3, done=10.4, status="200"),
        Answer(due=10.5, sent=10.5, done=10.6, status="503"),
        Answer(due=11.9, sent=11.9, done=12.9, status="200"),  # done after the window
        Answer(due=12.0, sent=12.0, done=12.1, status="200"),  # due after it
    ]
    found = summary(record, begin=10.0, seconds=2.0)
    assert (found["requests"], found["statuses"]) == (3, {"200": 2, "503": 1})
    assert found["answers_per_second"] == 1.0
    assert (found["latency_ms"]["p50"], found["latency_ms"]["mean"]) == (1000, 700)
    assert found["sent_late_ms"]["max"] == 300


def test_a_closed_loop_waits_for_each_answer(forms: Path) -> None:
    with served(Stub(DELAY)) as stub:
        load = run_load([stub.url], forms, SECONDS, "--clients", "1", "--warm-up", "0.1")
    assert load.statuses == {"200": load.requests}
    assert 0 < load.requests <= SECONDS / DELAY + 1
    assert load.requests < len(stub.bodies)
    assert load.latency_ms is not None
    assert load.latency_ms.p50 >= 1000 * DELAY
    # The forms take turns.
    assert [b"photograph" in body for body in stub.bodies[:4]] == [True, False, True, False]
    assert all(kind.startswith("multipart/form-data; boundary=") for kind in stub.kinds)


def test_clients_of_a_closed_loop_queue_behind_each_other(forms: Path) -> None:
    with served(Stub(DELAY)) as stub:
        load = run_load([stub.url], forms, SECONDS, "--clients", "4", "--warm-up", "0")
    assert load.latency_ms is not None
    assert load.latency_ms.p50 >= 3 * 1000 * DELAY
    assert load.answers_per_second <= 1 / DELAY * 1.1


def test_in_an_open_loop_latency_includes_the_queue(forms: Path) -> None:
    with served(Stub(DELAY)) as stub:
        load = run_load([stub.url], forms, SECONDS, "--rate", str(2 / DELAY), "--warm-up", "0")
    assert load.statuses == {"200": load.requests}
    assert load.latency_ms is not None
    # Twice as many as can be served are due: at the end, as many wait as were served.
    assert load.latency_ms.max >= 1000 * SECONDS / 4
    assert load.latency_ms.max > 5 * 1000 * DELAY


def test_waiting_for_one_of_few_connections_counts_too(forms: Path) -> None:
    with served(Stub(DELAY)) as stub:
        load = run_load([stub.url], forms, SECONDS, "--rate", str(2 / DELAY), "--warm-up", "0", "--most-open", "1")
    assert load.latency_ms is not None
    assert load.sent_late_ms is not None
    assert load.sent_late_ms.max >= 1000 * SECONDS / 4
    assert load.latency_ms.max > load.sent_late_ms.max


def test_the_same_seed_gives_the_same_requests(forms: Path) -> None:
    with served(Stub()) as stub:
        options = ("--rate", "200", "--warm-up", "0", "--seed")
        counts = [run_load([stub.url], forms, SECONDS, *options, seed).requests for seed in ("3", "3", "4")]
    assert counts[0] == counts[1]
    assert 50 < counts[0] < 160


def test_other_statuses_are_counted_and_are_no_answers(forms: Path) -> None:
    with served(Stub(DELAY, statuses=(200, 503, 429, 503))) as stub:
        load = run_load([stub.url], forms, SECONDS, "--clients", "2", "--warm-up", "0")
    assert set(load.statuses) == {"200", "429", "503"}
    assert sum(load.statuses.values()) == load.requests
    assert load.statuses["503"] > load.statuses["429"]
    assert load.answers_per_second * SECONDS <= load.statuses["200"] + 2


def test_a_service_that_is_gone_is_told_by_its_errors(forms: Path) -> None:
    load = run_load([f"http://127.0.0.1:{free_port()}/verify"], forms, 0.3, "--clients", "2", "--warm-up", "0")
    assert load.statuses == {"ConnectionRefusedError": load.requests}
    assert 0 < load.requests < 50
    assert (load.answers_per_second, load.latency_ms) == (0, None)


def test_a_request_that_takes_too_long_is_told(forms: Path) -> None:
    with served(Stub(0.5)) as stub:
        load = run_load([stub.url], forms, 0.2, "--clients", "1", "--warm-up", "0", "--timeout", "0.1")
    assert set(load.statuses) <= {"TimeoutError"}


def test_requests_go_where_the_fewest_are_under_way(forms: Path) -> None:
    with served(Stub(DELAY)) as a, served(Stub(DELAY)) as b, served(Stub(10 * DELAY)) as slow:
        run_load([a.url, b.url], forms, SECONDS, "--clients", "4", "--warm-up", "0")
        assert 1 / 3 < len(a.bodies) / len(b.bodies) < 3
        before = len(a.bodies)
        run_load([a.url, slow.url], forms, SECONDS, "--rate", "25", "--warm-up", "0")
        assert len(a.bodies) - before > len(slow.bodies)


def test_a_load_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="No such file"):
        run_load(["http://127.0.0.1:1/verify"], tmp_path / "missing.json", SECONDS)


def test_other_machines_are_not_loaded(
    forms: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["load.py", str(forms), "http://localhost:1/", "http://192.0.2.1/verify"])
    with pytest.raises(SystemExit):
        main()
    assert "only services on this machine" in capsys.readouterr().err
