"""The application as a whole."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from app.composition import build_service
from app.decisions.calibration import CALIBRATION_FILE
from app.faces import FacePolicy
from app.gallery.protocol import TooManyTemplates
from app.main import create_app
from app.recognition.results import EnrolmentRequest
from app.recognition.service import RecognitionService
from app.settings import Settings


def test_documentation_page_loads_nothing_from_elsewhere() -> None:
    client = TestClient(create_app())
    page = client.get("/docs")
    assert page.status_code == 200
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert addresses
    for address in addresses:
        assert urlsplit(address).netloc == "", address
        assert client.get(address).status_code == 200


def compared_templates(service: RecognitionService, photograph: bytes, subject: str) -> int:
    """How many templates of a subject a photograph was compared with, by both ways to compare it."""
    candidate = service.verify_subject(photograph, "default", subject, face_policy=FacePolicy.SINGLE).candidate
    [found] = service.identify(photograph, "default", 1, face_policy=FacePolicy.SINGLE).faces[0].candidates
    assert candidate is not None
    assert (found.subject_id, found.templates) == (subject, candidate.templates)
    return candidate.templates


@pytest.mark.slow
def test_as_many_templates_of_a_subject_are_compared_as_the_table_has_rates_of(tmp_path: Path, ada: bytes) -> None:
    own = tmp_path / "own.json"
    shipped = Settings(gallery={"data_dir": tmp_path / "data"})
    table = json.loads((shipped.encoding.directory / CALIBRATION_FILE).read_text())
    with closing(build_service(shipped)) as service:
        service.enroll(EnrolmentRequest((ada,) * 3, "ada", "default"))
        assert compared_templates(service, ada, "ada") == 3
    own.write_text(json.dumps(table | {"curves": table["curves"][:2]}))
    with closing(
        build_service(Settings(gallery={"data_dir": tmp_path / "data"}, decisions={"calibration": own}))
    ) as service:
        assert compared_templates(service, ada, "ada") == 2
        with pytest.raises(TooManyTemplates, match="more than 2"):
            service.enroll(EnrolmentRequest((ada,), "ada", "default", may_displace=False))
