"""The README's quick starts work as written, on the sample image."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ext4img.cli.main import command_names
from tests.cli.transcripts import environment
from tests.conftest import UnpackedImage
from tests.images import FIXTURES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The text in bold in front of a block of code says for whom it is.
QUICK_STARTS = dict(re.findall(r"(?s)\*\*(Examiner|Administrator|Developer)\*\*:.*?```\w+\n(.*?)```", README))


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixture_image: Callable[[str], UnpackedImage]) -> Path:
    """A working directory with disk.img and alice.key."""
    work = tmp_path / "work"
    work.mkdir()
    shutil.copyfile(fixture_image("sample-encrypted").path, work / "disk.img")
    shutil.copyfile(FIXTURES / "sample-encrypted.alice.key", work / "alice.key")
    monkeypatch.chdir(work)
    return work


def run_lines(script: str, directory: Path) -> str:
    """Run each line as a shell does; all of them have to succeed. Returns what they wrote to standard output."""
    output = ""
    for line in script.splitlines():
        done = subprocess.run(
            line,
            shell=True,
            cwd=directory,
            env=environment(directory.parent / "bin"),
            capture_output=True,
            text=True,
            errors="backslashreplace",
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        output += done.stdout
    return output


def test_examiner(directory: Path):
    output = run_lines(QUICK_STARTS["Examiner"], directory)
    assert "2 encryption policies in use" in output
    assert (directory / "out/alice/notes.txt").read_text(encoding="utf-8") == "Remember the milk.\n"


def test_administrator(directory: Path):
    output = run_lines(QUICK_STARTS["Administrator"], directory)
    assert "sunday.tar: identical to disk.img" in output
    assert "\nRemember the milk.\n" in output
    assert (directory / "restored/home/alice/notes.txt").read_text(encoding="utf-8") == "Remember the milk.\n"
    assert "Remember the milk." in run_lines(
        "ext4img cat new.img /home/alice/notes.txt --key-file alice.key", directory
    )


def test_developer(directory: Path, capsys: pytest.CaptureFixture[str]):
    raw_key = bytes.fromhex(Path("alice.key").read_text(encoding="ascii"))
    names: dict[str, object] = {"raw_key": raw_key}
    exec(compile(QUICK_STARTS["Developer"], "README.md", "exec"), names)
    assert names["text"] == "Remember the milk.\n"
    assert (directory / "restored/home/alice/notes.txt").read_text(encoding="utf-8") == "Remember the milk.\n"
    assert "README.txt" in capsys.readouterr().out


def test_every_command_is_listed():
    table = README.partition("## Commands\n")[2].partition("\n## ")[0]
    listed = {name.split()[0] for name in re.findall(r"`([a-z][a-z -]*)`", table)}
    assert set(command_names()) <= listed


def test_every_row_of_the_comparison_is_complete():
    """Each cell answers yes or no, and each note that a cell refers to is there, and the reverse."""
    section = README.partition("## Compared with other tools\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    header, _, *body = rows
    assert body
    for row in body:
        assert len(row) == len(header), row
        assert all(re.fullmatch(r" (yes|no)( \[\d\])? ", cell) for cell in row[1:]), row
    notes = {int(number) for number in re.findall(r"(?m)^(\d)\. ", section)}
    assert notes == {int(number) for number in re.findall(r"\[(\d)\]", section)}


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"(?m)^    make (\w+)", README)
    assert {"demo", "test"} <= set(targets)
    assert not [target for target in targets if f"\n{target}:" not in makefile]
    assert "exec make test" in (ROOT / ".ci/run").read_text(encoding="utf-8")
