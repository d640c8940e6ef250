"""A command is to start at once: it imports what it needs and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ext4img.cli.main import command_names
from tests.cli.transcripts import REPOSITORY
from tests.conftest import UnpackedImage

HEAVY = {"numpy", "cryptography", "rich", "pydantic", "ext4img.archive", "ext4img.archiver", "ext4img.mkfs"}
PLAIN = {"info": [], "ls": ["/kinds"], "find": ["--type", "f"], "stat": ["/names"], "cat": ["/attributes/in-inode"],
         "tree": ["/kinds"], "xattr": ["/attributes/acl"]}  # fmt: skip


def modules_of(*arguments: str) -> set[str]:
    code = (
        "import sys\nfrom ext4img.cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\nprint('MODULES', *sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, check=True, cwd=REPOSITORY, timeout=60
    )
    return set(done.stdout.rpartition(b"MODULES ")[2].decode().split())


@pytest.mark.parametrize("command", PLAIN)
def test_plain_images_need_nothing_heavy(command: str, fixture_image: Callable[[str], UnpackedImage]):
    modules = modules_of(command, str(fixture_image("plain-4k").path), *PLAIN[command])
    assert not modules & HEAVY
    loaded = {name for name in modules if name.startswith("ext4img.cli.commands.")}
    assert loaded == {f"ext4img.cli.commands.{command}"}


def test_every_command_has_help():
    for command in command_names():
        done = subprocess.run(
            [sys.executable, "-m", "ext4img", command, "--help"], capture_output=True, check=True, cwd=REPOSITORY
        )
        assert f"ext4img {command}".encode() in done.stdout


def test_every_command_is_documented():
    text = (Path(REPOSITORY) / "docs" / "cli.md").read_text(encoding="utf-8")
    missing = [command for command in command_names() if f"\n### {command}\n" not in text]
    assert not missing


def test_exit_codes_are_documented():
    from ext4img.cli.exit_codes import Exit

    text = (Path(REPOSITORY) / "docs" / "cli.md").read_text(encoding="utf-8")
    assert all(f"\n| {code:d} |" in text for code in Exit)
