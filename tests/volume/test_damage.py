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


def test_a_group_whose_descriptor_has_no_good_copy(tmp_path: Path):
    """Both copies of one descriptor are gone: what stands in other groups' inode tables is shown as before."""
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs is not installed")
    tree = tmp_path / "tree"
    for number in range(12):  # directories go to groups of their own, and what is in them with them
        (tree / f"directory {number}").mkdir(parents=True)
        (tree / f"directory {number}" / "file").write_bytes(b"x" * 3000)
    raw = tmp_path / "image"
    options = ["-b", "1024", "-O", "^flex_bg,^resize_inode,^metadata_csum,^uninit_bg", "-N", "64"]
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", *options, "-d", tree, raw, "24M"], check=True)
    data = bytearray(raw.read_bytes())
    with ext4img.open(bytes(data)) as fs:
        sound = damage.listing_of(fs)
        volume = fs.volume
        group = 1
        size = volume.superblock.descriptor_size
        for copy in (0, 1):
            at = volume.groups.descriptor_block(0, copy) * 1024 + group * size
            data[at : at + size] = bytes(size)
        lost = range(
            group * volume.superblock.inodes_per_group + 1, (group + 1) * volume.superblock.inodes_per_group + 1
        )
    with ext4img.open(bytes(data), checks="report") as fs:
        shown = damage.listing_of(fs)
        assert any("group 1" in str(problem) for problem in fs.problems)
    kept = {path: seen for path, seen in sound.items() if seen[0] not in lost}
    below = {path for path in kept if sound[path.rpartition(b"/")[0] or b"/"][0] in lost}
    assert 3 < len(kept) < len(sound)
    assert {path: shown.get(path) for path in kept if path not in below} == {
        path: seen for path, seen in kept.items() if path not in below
    }


@pytest.mark.parametrize("how", damage.HOW)
@pytest.mark.parametrize("name", ["plain-4k", "ext2-1k", "ext4-64k"])
def test_what_is_below_a_lost_directory_is_found_by_its_blocks(fixture_image: Fixture, name: str, how: str):
    """Their inodes go with a block of the inode table; children elsewhere keep their paths."""
    data = fixture_image(name).path.read_bytes()
    with ext4img.open(data) as fs:
        sound = damage.listing_of(fs)
        types = {inode.number: inode.type for inode in fs.volume.inodes.scan()}
    rescued = set()
    for place in damage.places(data):
        if not place.what.startswith("inode table"):
            continue
        with ext4img.open(damage.damaged(data, place, how), checks="report") as fs:
            shown = damage.listing_of(fs)
            told = [str(problem) for problem in fs.problems]
        here = set()
        for path, (number, digest) in sound.items():
            parent = sound[path.rpartition(b"/")[0] or b"/"][0]
            if parent in place.inodes and number not in place.inodes:
                assert shown[path] == (number, digest)
                here.add(parent)
        rescued |= here
        for parent in here - {2}:
            assert types[parent] == "dir"
            assert any(f"(inode {parent})" in line and "is lost; its entries are read from" in line for line in told)
    assert rescued
