"""Flags, as the lsattr of e2fsprogs shows them of the same files on a kernel mount."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable

import pytest

from ext4img.cli.inode_json import flag_letters, flag_names
from ext4img.cli.main import main
from ext4img.structs.inode import INODE_FLAGS
from tests.conftest import UnpackedImage
from tests.manifest import USER_VISIBLE_FLAGS
from tools.loop_mount import loop_mounted


def test_letters_and_bits_are_unique():
    letters = [flag.letter for flag in INODE_FLAGS if flag.letter]
    assert len(set(letters)) == len(letters)
    assert len({flag.bit for flag in INODE_FLAGS}) == len(INODE_FLAGS)
    assert flag_letters(0) == "-" * len(letters)
    assert flag_names(0x00080000 | 0x04000000) == ["extents", "0x4000000"]


@pytest.mark.kernel
@pytest.mark.skipif(shutil.which("lsattr") is None, reason="lsattr is not there")
@pytest.mark.parametrize("name", ["plain-4k", "sample-encrypted", "ext4-inline"])
def test_letters_are_those_of_lsattr(
    name: str, fixture_image: Callable[[str], UnpackedImage], capfd: pytest.CaptureFixture[str]
):
    image = fixture_image(name)
    shown = {}
    # -e and -R would follow names that no shell takes; directories one by one will do.
    with loop_mounted(image.path, "ro,noload") as mount:
        for directory in [mount, *(entry.path for entry in os.scandir(mount) if entry.is_dir(follow_symlinks=False))]:
            done = subprocess.run(["lsattr", "-a", directory], capture_output=True, check=False)
            for line in done.stdout.splitlines():
                letters, _, path = line.decode("utf-8", "surrogateescape").partition(" ")
                if path.startswith(mount) and not path.endswith(("/.", "/..")):
                    shown[path.removeprefix(mount)] = letters
    assert len(shown) >= 5
    assert main(["find", str(image.path), "--json"]) == 0
    compared = 0
    for record in map(json.loads, capfd.readouterr().out.splitlines()):
        if record["path"] in shown:
            assert flag_letters(record["flags"] & USER_VISIBLE_FLAGS) == shown[record["path"]]
            compared += 1
    assert compared >= 5
