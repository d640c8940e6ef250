"""`--help` and shell completion."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ext4img.cli.main import command_names
from tests.cli.transcripts import REPOSITORY


def ext4img(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ext4img", *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
        env={**os.environ, "COLUMNS": "80", **environment},
    )
    return done.stdout


def test_summaries_are_whole_sentences_in_one_line():
    summaries = ext4img("--help").partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in summaries] == command_names()
    assert not [line for line in summaries if "..." in line or not line.endswith(".")]


@pytest.mark.parametrize("command", command_names())
def test_every_option_is_explained(command: str):
    lines = ext4img(command, "--help", COLUMNS="200").partition("Options:\n")[2].splitlines()
    assert lines
    # Metavars of more than one word stand in brackets; what follows after two blanks is the explanation.
    unexplained = [line for line in lines if line.startswith("  -") and "  " not in line.strip()]
    following = {line: lines[lines.index(line) + 1] if line != lines[-1] else "" for line in unexplained}
    assert not [line for line, after in following.items() if not after.startswith("    ")]


def test_completion_script():
    script = ext4img("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "complete -o default -F" in script


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ext4img res", ["restore"]),
        ("ext4img info --pol", ["--policies"]),
        ("ext4img info --journal re", ["replay"]),
        ("ext4img info image", []),  # left to the shell, which knows files
    ],
)
def test_completion(words: str, expected: list[str]):
    position = str(len(words.split()) - 1)
    completed = ext4img(_EXT4IMG_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=position)
    assert completed.split() == expected
