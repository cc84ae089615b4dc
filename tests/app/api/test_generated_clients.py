"""Clients that common generators make of the OpenAPI document: they import, and verify with a running service."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.app.process import PATIENCE, Server

pytestmark = pytest.mark.slow

OPENAPI_PYTHON_CLIENT = """
import json, sys
from io import BytesIO
from made import Client
from made.api.health import get_model
from made.api.recognition import enroll, verify
from made.models import EnrollForm, EnrollRequest, EnrollResponse, VerifyForm, VerifyRequest, VerifyResponse
from made.types import File

url, first, second = sys.argv[1:]
def file(path):
    return File(payload=BytesIO(open(path, "rb").read()), file_name="photograph.jpg", mime_type="image/jpeg")

client = Client(base_url=url, timeout=60)
enrolled = enroll.sync(client=client, body=EnrollForm(image=[file(first)], subject_id="ada"))
assert isinstance(enrolled, EnrollResponse), enrolled
answers = [
    verify.sync(client=client, body=VerifyForm(image=file(first), reference=file(second))),
    verify.sync(client=client, body=VerifyForm(image=file(first), subject_id="ada")),
]
assert all(isinstance(answer, VerifyResponse) for answer in answers), answers
assert get_model.sync(client=client).encoder.name
print(json.dumps([str(answer.decision.value) for answer in answers]))
"""

DATAMODEL_CODE_GENERATOR = """
import json, sys
from base64 import b64encode
import httpx
from made import Decision, VerifyRequest, VerifyResponse

url, first, second = sys.argv[1:]
def text(path):
    return b64encode(open(path, "rb").read()).decode()

body = VerifyRequest(image=text(first), reference=text(second))
sent = body.model_dump_json(exclude_none=True)
answer = httpx.post(url + "/verify", content=sent, headers={"Content-Type": "application/json"}, timeout=60)
assert answer.status_code == 200, answer.text
print(json.dumps([VerifyResponse.model_validate_json(answer.content).decision.value]))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the environment of the generators."""
    places = os.pathsep.join([f"{sys.prefix}-generators/bin", os.environ.get("PATH", "")])
    found = shutil.which("openapi-python-client", path=places)
    if found is None:
        pytest.skip("openapi-python-client is not there; `make test` installs it in an environment of its own")
    return Path(found).with_name("python")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("generated") / "data") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, server: Server, ada: bytes, grace: bytes) -> Path:
    """A folder with the document and two photographs."""
    (tmp_path / "openapi.json").write_bytes(httpx.get(f"{server.url}/openapi.json", timeout=PATIENCE).content)
    (tmp_path / "a.jpg").write_bytes(ada)
    (tmp_path / "b.jpg").write_bytes(grace)
    return tmp_path


def run(folder: Path, *command: str | Path) -> str:
    variables = os.environ | {"PATH": f"{Path(command[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=variables,
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_openapi_python_client(folder: Path, python: Path, server: Server) -> None:
    generate = python.with_name("openapi-python-client")
    said = run(folder, generate, "generate", "--path", "openapi.json", "--output-path", "made", "--meta", "none")
    assert "WARNING" not in said.upper(), said
    assert json.loads(run(folder, python, "-c", OPENAPI_PYTHON_CLIENT, server.url, "a.jpg", "b.jpg")) == [
        "no_match",
        "match",
    ]


def test_datamodel_code_generator(folder: Path, python: Path, server: Server) -> None:
    generate = python.with_name("datamodel-codegen")
    options = ["--input", "openapi.json", "--input-file-type", "openapi", "--output", "made.py"]
    run(folder, generate, *options, "--output-model-type", "pydantic_v2.BaseModel", "--formatters", "builtin")
    for second, decision in (("a.jpg", "match"), ("b.jpg", "no_match")):
        command = (python, "-c", DATAMODEL_CODE_GENERATOR, server.url, "a.jpg", second)
        assert json.loads(run(folder, *command)) == [decision]
