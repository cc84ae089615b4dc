from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.crowding import COHORT_FILE, read_cohort, write_cohort
from app.encoding import load_weights
from app.encoding.quantisation import QUANTISATION_FILE
from app.settings import DEFAULT_WEIGHTS, EncodingSettings
from app.version import VERSION
from tests.app.gallery.sqlite.support import opened
from tests.app.process import PATIENCE, Server, tessera, tessera_in

pytestmark = pytest.mark.slow


def refused(result: subprocess.CompletedProcess[str], code: int = 3) -> str:
    """The one line that a command says when it cannot do what it was asked, or says no."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("tessera: ")
    return line


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("cli") / "data") as running:
        yield running


def test_version() -> None:
    for arguments in (["version"], ["--version"]):
        result = tessera(*arguments)
        assert (result.returncode, result.stdout.strip()) == (0, VERSION)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", VERSION)


def test_help_names_the_commands() -> None:
    result = tessera("--help")
    assert result.returncode == 0
    assert {"serve", "health", "version"} <= set(re.findall(r"\w+", result.stdout))


def test_loopback_is_the_default(server: Server) -> None:
    assert server.url.startswith("http://127.0.0.1:")


def test_the_start_says_what_runs(server: Server) -> None:
    log = server.log.read_text()
    assert f"answers at {server.url}, interface at {server.url}/docs" in log
    assert f"{server.log.parent / 'data'}: 0 subjects in 1 collection(s)" in log
    assert re.search(r"encoder tessera-\w+ \S+ on openvino (bf16|int8|f32)\n", log)
    assert "false match rate of 0.0001, claim every_group" in log
    assert "not needed on this machine while there are none" in log


def test_health_of_a_running_service(server: Server) -> None:
    result = tessera("health", "--url", server.url + "/")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["status"] == "ok"


def test_health_asks_at_the_port_of_the_settings(server: Server) -> None:
    result = tessera("health", TESSERA_SERVER__PORT=server.url.rpartition(":")[2])
    assert result.returncode == 0, result.stderr


def test_health_asks_the_service_itself_whatever_proxies_are_set(server: Server) -> None:
    result = tessera("health", "--url", server.url, http_proxy="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9")
    assert result.returncode == 0, result.stderr


class _Unwell(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()
        self.wfile.write(b'{"detail": "not working: gallery"}')

    def log_message(self, *_: object) -> None:
        pass


class _NoHttp(http.server.BaseHTTPRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"220 mail.example ESMTP\r\n")


@pytest.mark.parametrize(("handler", "text"), [(_Unwell, "503"), (_NoHttp, "not ready")])
def test_health_of_something_that_is_not_well(handler: type[http.server.BaseHTTPRequestHandler], text: str) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as unwell:
        thread = threading.Thread(target=unwell.serve_forever, daemon=True)
        thread.start()
        line = refused(tessera("health", "--url", f"http://127.0.0.1:{unwell.server_port}"), 1)
        unwell.shutdown()
        thread.join(PATIENCE)
    assert text in line


@pytest.mark.parametrize("url", ["http://[", "http://127.0.0.1:9"])
def test_health_of_nothing(url: str) -> None:
    line = refused(tessera("health", "--url", url), 1)
    assert url in line
    assert "urlopen" not in line


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:8000"])
def test_health_of_what_is_no_address_is_a_mistake_of_use(url: str) -> None:
    assert tessera("health", "--url", url).returncode == 2


def test_health_of_a_port_that_the_system_chose_asks_for_it() -> None:
    assert "--url" in refused(tessera("health", TESSERA_SERVER__PORT="0"))


def test_health_needs_no_data_directory(server: Server, tmp_path: Path) -> None:
    former = tmp_path / "data"
    former.mkdir()
    (former / "gallery.sqlite3").touch()
    plain = tessera_in(tmp_path, "health", TESSERA_SERVER__PORT=str(server.port))
    assert plain.returncode == 0, plain.stderr


def test_a_data_directory_in_use_is_refused(server: Server) -> None:
    data_dir = server.log.parent / "data"
    line = refused(tessera("serve", "--port", "0", "--data-dir", str(data_dir)))
    assert str(data_dir) in line
    assert str(server.process.pid) in line
    assert httpx.get(f"{server.url}/readyz").status_code == 200


def test_a_data_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refused(tessera("serve", "--port", "0", "--data-dir", str(tmp_path / "file" / "data")))
    assert str(tmp_path / "file" / "data") in line


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    line = refused(
        tessera("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), TESSERA_ENCODING__WEIGHTS=str(weights))
    )
    assert str(weights) in line
    assert not (tmp_path / "data").exists()


def test_an_encoder_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    line = refused(
        tessera("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), TESSERA_ENCODING__ENCODER="tessera-xl")
    )
    assert "tessera-xl" in line
    assert "TESSERA_ENCODING__ENCODER" in line
    assert all(path.name in line for path in DEFAULT_WEIGHTS.iterdir() if (path / "encoder.onnx").is_file())


@pytest.mark.parametrize("file", ["encoder.onnx", "encoder.json", "calibration.json", COHORT_FILE, QUANTISATION_FILE])
def test_damaged_weights_are_refused(tmp_path: Path, file: str) -> None:
    weights = tmp_path / "weights"
    directory = weights / EncodingSettings().encoder
    shutil.copytree(EncodingSettings().directory, directory)
    (directory / file).write_bytes(b"{}")
    line = refused(
        tessera("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), TESSERA_ENCODING__WEIGHTS=str(weights))
    )
    assert str(weights) in line


def test_a_cohort_that_the_calibration_was_not_measured_with_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "weights" / EncodingSettings().encoder
    shutil.copytree(EncodingSettings().directory, directory)
    cohort = read_cohort(directory / COHORT_FILE)
    write_cohort(directory / COHORT_FILE, cohort.centroids[:100], neighbours=5, strength=1.0, usual=0.0)
    variables = {"TESSERA_ENCODING__WEIGHTS": str(tmp_path / "weights")}
    line = refused(tessera("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), **variables))
    assert cohort.digest[:12] in line
    assert "calibrate" in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TESSERA_SERVER__PORT", "many"),
        ("TESSERA_SERVER__PROT", "9000"),
        ("TESSERA_SERVER_PORT", "9000"),
        ("TESSERA_SERVER", "{"),
        ("TESSERA_SERVER__MAX_BODY_BYTES", "1000"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(tmp_path: Path, variable: str, value: str) -> None:
    line = refused(tessera("serve", "--data-dir", str(tmp_path / "data"), **{variable: value}))
    assert re.search("server", line, re.IGNORECASE)
    assert not (tmp_path / "data").exists()


def test_a_port_in_use_is_an_error(server: Server, tmp_path: Path) -> None:
    result = tessera("serve", "--port", str(server.port), "--data-dir", str(tmp_path / "data"))
    assert result.returncode == 3
    assert f"127.0.0.1:{server.port} is in use" in result.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_port_outside_its_range_is_a_mistake_of_use(tmp_path: Path, port: str) -> None:
    assert tessera("serve", "--port", port, "--data-dir", str(tmp_path / "data")).returncode == 2


def test_the_command_line_goes_before_the_environment(tmp_path: Path) -> None:
    variables = {"TESSERA_GALLERY__DATA_DIR": str(tmp_path / "other"), "TESSERA_SERVER__HOST": "127.0.0.2"}
    with Server(tmp_path / "data", "--host", "127.0.0.3", **variables) as running:
        assert running.url.startswith("http://127.0.0.3:")
        assert httpx.get(f"{running.url}/livez").status_code == 200
    assert (tmp_path / "data").is_dir()
    assert not (tmp_path / "other").exists()


def test_a_target_that_the_calibration_cannot_support_is_refused_at_the_start(tmp_path: Path) -> None:
    line = refused(tessera("serve", "--data-dir", str(tmp_path), TESSERA_DECISIONS__TARGET_FMR="1e-9"))
    assert "the smallest it supports is" in line


def test_an_audit_prints_json_and_writes_its_page(tmp_path: Path) -> None:
    page = tmp_path / "audit.html"
    with opened(tmp_path / "data", load_weights(EncodingSettings().directory).sha256):
        pass
    result = tessera("gallery", "audit", "--data-dir", str(tmp_path / "data"), "--page", str(page))
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["subjects"], report["population"]) == (0, "too_few")
    assert "Audit of the collection default" in page.read_text()
    full = tessera("gallery", "audit", "--data-dir", str(tmp_path / "data"), "--page", "/dev/full")
    assert (full.returncode, json.loads(full.stdout)["population"]) == (3, "too_few")


def test_an_audit_of_a_folder_in_use_reads_a_copy(server: Server) -> None:
    result = tessera("gallery", "audit", "--data-dir", str(server.log.parent / "data"))
    assert (result.returncode, json.loads(result.stdout)["subjects"]) == (0, 0)


@pytest.mark.parametrize(
    ("command", "absent"),
    [("version", ("fastapi", "numpy")), ("health", ("fastapi", "app.composition")), ("keys list", ("fastapi",))],
)
def test_commands_load_only_what_they_need(tmp_path: Path, command: str, absent: tuple[str, ...]) -> None:
    script = (
        "import sys\nfrom app.cli import cli\n"
        f"try:\n    cli({command.split()!r})\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {absent!r} if name in sys.modules])"
    )
    environment = {**os.environ, "TESSERA_GALLERY__DATA_DIR": str(tmp_path), "TESSERA_SERVER__PORT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
