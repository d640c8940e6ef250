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

HEAVY = {"numpy", "cryptography", "rich", "pydantic", "ext4img.backup", "ext4img.build"}
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


def test_the_face_has_backup_as_a_function_whatever_is_imported():
    code = (
        "import ext4img, sys\nassert 'ext4img.backup' not in sys.modules\nimport ext4img.backup.records\n"
        "from ext4img.backup import Entry\nfrom ext4img import backup, restore\n"
        "assert ext4img.backup is backup and callable(backup) and ext4img.restore is restore"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


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
    from ext4img.cli.exits import Exit

    text = (Path(REPOSITORY) / "docs" / "cli.md").read_text(encoding="utf-8")
    assert all(f"\n| {code:d} |" in text for code in Exit)
