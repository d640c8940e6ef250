"""The examples of docs/library.md run as they stand there, in one piece."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import UnpackedImage
from tests.images import FIXTURES

GUIDE = Path(__file__).parent.parent / "docs" / "library.md"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # examples open key files as one does at a prompt
def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixture_image: Callable[[str], UnpackedImage]):
    shutil.copyfile(fixture_image("sample-encrypted").path, tmp_path / "disk.img")
    shutil.copyfile(FIXTURES / "sample-encrypted.alice.key", tmp_path / "alice.key")
    monkeypatch.chdir(tmp_path)
    text = GUIDE.read_text(encoding="utf-8")
    # Blank lines keep the line numbers of the guide in tracebacks.
    code, line = "", 1
    for example in re.finditer(r"(?s)```python\n(.*?)```", text):
        begins = text.count("\n", 0, example.start(1)) + 1
        code += "\n" * (begins - line) + example[1]
        line = begins + example[1].count("\n")
    exec(compile(code, str(GUIDE), "exec"), {})
