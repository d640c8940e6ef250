"""What the README shows works as it stands there, on the sample image."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import UnpackedImage
from tests.images import FIXTURES

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"(?m)^    (ext4img (?!COMMAND).*)$", README)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixture_image: Callable[[str], UnpackedImage]) -> Path:
    """A working directory with disk.img and alice.key."""
    shutil.copyfile(fixture_image("sample-encrypted").path, tmp_path / "disk.img")
    shutil.copyfile(FIXTURES / "sample-encrypted.alice.key", tmp_path / "alice.key")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_library_example(directory: Path, capsys: pytest.CaptureFixture[str]):
    (example,) = re.findall(r"(?s)```python\n(.*?)```", README)
    raw_key = bytes.fromhex(Path("alice.key").read_text(encoding="ascii"))
    names: dict[str, object] = {"raw_key": raw_key}
    exec(compile(example, "README.md", "exec"), names)
    assert names["text"] == "Remember the milk.\n"
    assert (directory / "restored/home/alice/notes.txt").read_text(encoding="utf-8") == "Remember the milk.\n"
    assert "README.txt" in capsys.readouterr().out


def test_commands(directory: Path):
    assert COMMANDS
    for line in COMMANDS:
        words = shlex.split(line, comments=True)
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, capture_output=True, text=True, errors="backslashreplace", check=False)
        # Alice's key does not open what is Bob's, which is left out: 1.
        expected = 1 if words[1] == "restore" and "--key-file" in words else 0
        assert done.returncode == expected, f"{line}\n{done.stderr}"
    assert (directory / "restored/home/alice/notes.txt").read_text(encoding="utf-8") == "Remember the milk.\n"


def test_every_command_is_told(directory: Path):
    listed = subprocess.run([sys.executable, "-m", "ext4img", "--help"], capture_output=True, text=True, check=True)
    commands = re.findall(r"(?m)^  ([a-z]+)  ", listed.stdout.partition("Commands:")[2])
    assert commands
    assert not [name for name in commands if not re.search(rf"\b{name}\b", README)]
