"""The examples of the client's README, run in order against a running service."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.app.process import Server
from tests.shared_data import ROOT

pytestmark = pytest.mark.slow

EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", ["clients/python/README.md", "docs/use.md"])
def test_the_examples_run(
    document: str, server: Server, key: str, ada: bytes, grace: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(ada)
    (tmp_path / "b.jpg").write_bytes(grace)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / document).read_text(encoding="utf-8")
    assert text.count('"http://127.0.0.1:8000", "tessera_..."') >= 1
    examples = EXAMPLE.findall(text.replace("http://127.0.0.1:8000", server.url).replace("tessera_...", key))
    assert examples
    names: dict[str, object] = {"__name__": "example"}
    for example in examples:
        exec(compile(example, document, "exec"), names)
