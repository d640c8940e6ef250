"""Damage in one place, and what is saved: everything that does not hang on the destroyed structure.

`python -m tools.damage` prints the same as a table.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import ext4img
from tests.conftest import UnpackedImage
from tools import damage

Fixture = Callable[[str], UnpackedImage]
NAMES = ("plain-4k", "ext2-1k", "ext4-meta-bg", "ext4-inline", "ext4-64k", "sample-encrypted", "encrypted-old-layout")
# One group, and no log with a copy of it: where the superblock was, nothing else says what it said.
NO_COPY = ("ext2-1k", "ext4-inline", "ext4-64k")


@pytest.mark.parametrize("name", NAMES)
def test_all_others_are_shown_as_before(fixture_image: Fixture, name: str):
    destroyed = set()
    for result in damage.results(fixture_image(name).path.read_bytes()):
        what = result.place.what
        destroyed.add(what)
        if what == "primary superblock" and name in NO_COPY:
            assert result.error
            continue
        assert result.saved, (what, result.how, result.error, result.lost[:5], result.problems[:5])
    assert {"primary superblock", "descriptor of group 0", "inode table block", "directory block"} <= destroyed
    assert {"inode table block with the root", "data block"} <= destroyed
    if name in ("plain-4k", "ext2-1k", "ext4-meta-bg"):
        assert "extent or indirect block" in destroyed


def test_a_volume_of_several_groups(tmp_path: Path):
    """As most are: superblock and descriptors have copies in the second group."""
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs is not installed")
    tree = tmp_path / "tree"
    for number in range(40):
        directory = tree / f"directory {number % 7}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file {number}").write_bytes(bytes([number]) * (700 * number + 3))
    raw = tmp_path / "image"
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-d", tree, raw, "24M"], check=True)
    for result in damage.results(raw.read_bytes()):
        assert result.saved, (result.place.what, result.how, result.error, result.lost[:5], result.problems[:5])


def test_data_of_an_unreadable_block_is_named_by_its_range(fixture_image: Fixture):
    data = fixture_image("plain-4k").path.read_bytes()
    (place,) = [place for place in damage.places(data) if place.what == "data block"]
    (number,) = place.inodes
    sound = ext4img.open(data).inode(number).open().read()
    with ext4img.open(damage.damaged(data, place, "unreadable"), checks="report") as fs:
        got = fs.inode(number).open().read()
        assert got == bytes(4096) + sound[4096:]
        (problem,) = fs.problems
        assert (problem.place.inode, problem.place.block) == (number, place.offset // 4096)
        assert "contents from byte 0 to 4096 cannot be read" in problem.reason
