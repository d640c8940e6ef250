"""The manual pages are complete, and troff takes them without a warning."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ext4img.cli.main import command_names
from tools.man_pages import write_pages


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {path.stem: path for path in write_pages(tmp_path_factory.mktemp("man"))}


def test_every_command_has_a_page(pages: dict[str, Path]):
    assert set(pages) == {"ext4img", *(f"ext4img-{name}" for name in command_names())}
    overview = pages["ext4img"].read_text(encoding="utf-8")
    assert all(f"ext4img\\-{name} (1)" in overview for name in command_names())
    assert re.findall(r"(?m)^\.B (\d+)$", overview)[:3] == ["0", "1", "2"]


def test_options_have_an_explanation(pages: dict[str, Path]):
    page = pages["ext4img-backup"].read_text(encoding="utf-8")
    assert re.search(r"\.TP\n\\fB\\-\\-since\\fR \\fIBACKUP\\fR\nStore only files", page)
    for path in pages.values():
        assert not re.search(r"(?m)^\.TP\n.*\n\.", path.read_text(encoding="utf-8")), path.name


@pytest.mark.parametrize("command", [["mandoc", "-Tlint"], ["groff", "-ww", "-man", "-z"]], ids=lambda c: c[0])
def test_no_warning(command: list[str], pages: dict[str, Path]):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not there")
    for path in pages.values():
        done = subprocess.run([*command, path], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), path.name
